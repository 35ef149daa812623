"""The one training loop: AdamW on a head over rows in memory, best epoch chosen on validation. Lightning runs it."""

from __future__ import annotations

import logging
import time
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ilse.errors import UserError
from ilse.hardware import native_bfloat16
from ilse.memory import keep_freed_memory
from trainer.config import Recipe
from trainer.heads import Head, Outputs
from trainer.rows import Examples, label_weights

# Lightning tells which accelerators are unused, and that data in memory has no loader workers: neither helps here.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", module="lightning", message=".*(does not have many workers|LeafSpec).*")

VALIDATION_ROWS = 256
"""Examples that are validated at a time."""


@dataclass(frozen=True)
class Epoch:
    """One line of a training curve."""

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float


@dataclass(frozen=True)
class Fit:
    """A trained head in its best state, and how it got there."""

    head: Head
    best: Epoch
    curve: list[Epoch]
    seconds: float
    layer_accuracy: list[float] | None
    """For `best`: the validation accuracy of every layer's probe at its own best epoch."""


class BestStates:
    """The best state of each candidate so far: highest accuracy, then lowest loss.

    A head is one candidate. `LayerProbes` are one a layer, each with its own best epoch, as if trained alone; their
    parameters stand along the first axis.
    """

    def __init__(self, candidates: int) -> None:
        self.accuracy = torch.full((candidates,), -1.0, dtype=torch.float64)
        self.loss = torch.full((candidates,), float("inf"), dtype=torch.float64)
        self.epoch = torch.zeros(candidates, dtype=torch.long)
        self.state: dict[str, Tensor] = {}

    def offer(self, epoch: int, accuracy: Tensor, loss: Tensor, state: dict[str, Tensor]) -> None:
        """Keeps the state of the candidates that are better than before."""
        better = (accuracy > self.accuracy) | ((accuracy == self.accuracy) & (loss < self.loss))
        self.accuracy[better], self.loss[better], self.epoch[better] = accuracy[better], loss[better], epoch
        for name, value in state.items():
            if len(better) == 1:
                if bool(better):
                    self.state[name] = value.detach().clone()
            else:
                self.state.setdefault(name, value.detach().clone())[better] = value.detach()[better]


class _Training(pl.LightningModule):
    def __init__(self, head: Head, recipe: Recipe, validation: Examples, steps: int, weights: Tensor | None) -> None:
        super().__init__()
        self.head = head
        self.recipe = recipe
        self.steps = steps
        self.validation_rows = validation
        self.weights: Tensor | None
        self.register_buffer("weights", weights, persistent=False)
        self.plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        self.best = BestStates(head.candidates)
        self.history: list[tuple[Tensor, Tensor, Tensor]] = []
        self._losses: list[Tensor] = []

    def configure_optimizers(self) -> Any:
        kind = torch.optim.AdamW if self.recipe.optimizer == "adamw" else torch.optim.Adam
        rate, decay = self.recipe.learning_rate, self.recipe.weight_decay
        self.optimizer = kind(self.head.parameters(), lr=rate, weight_decay=decay, fused=True)
        if self.recipe.schedule == "plateau":
            self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, factor=0.5, patience=3)
        if self.recipe.schedule != "one_cycle":
            return self.optimizer
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=self.recipe.learning_rate, total_steps=self.steps
        )
        return {"optimizer": self.optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        x, y = batch
        losses = training_losses(self.head.supervised(x), y, self.recipe.label_smoothing, self.weights)
        self._losses.append(losses.detach())
        # The sum, so that each candidate's gradient is what it would be alone.
        return losses.sum()

    def on_train_epoch_start(self) -> None:
        self.head.at_epoch(self.current_epoch / self.recipe.epochs)

    def configure_gradient_clipping(self, *_given: Any, **_more: Any) -> None:
        clip_gradients(self.head, self.head.candidates, self.recipe.gradient_clip)

    def on_train_epoch_end(self) -> None:
        train_loss = torch.stack(self._losses).mean(0).cpu()
        self._losses.clear()
        _refuse_nan("training loss", train_loss, self.current_epoch)
        loss, accuracy = validate(self.head, self.validation_rows)
        _refuse_nan("validation loss", loss, self.current_epoch)
        self.history.append((train_loss, loss, accuracy))
        self.best.offer(self.current_epoch, accuracy, loss, dict(self.head.named_parameters()))
        if self.plateau is not None:  # candidates have one rate: it follows their mean
            self.plateau.step(float(loss.mean()))
        if self.recipe.patience is not None and self.current_epoch - int(self.best.epoch.max()) >= self.recipe.patience:
            self.trainer.should_stop = True


def fit(head: Head, train: Examples, validation: Examples, recipe: Recipe, seed: int, device: str = "auto") -> Fit:
    """Trains `head` on `train` and returns it in the state of its best validation epoch.

    The rows hold the layers that the head reads. `device` is auto, cpu or cuda. Of `LayerProbes` the best layer on
    validation is chosen too, and its `SingleLayer` head is returned. Raises `UserError` for a loss that is not finite.
    """
    started = time.perf_counter()
    keep_freed_memory()
    batches = train.shuffled(recipe.batch_size, seed, balanced=recipe.imbalance == "sampling")
    weights = label_weights(train.y) if recipe.imbalance == "weights" else None
    training = _Training(head.train(), recipe, validation, recipe.epochs * len(batches), weights)
    accelerator = _accelerator(device)
    # barebones: without logging, checkpoints, progress bar and a first look at validation.
    trainer = pl.Trainer(
        max_epochs=recipe.epochs,
        accelerator=accelerator,
        devices=1,
        precision=_precision(recipe.compute_type, accelerator),
        barebones=True,
    )
    torch.manual_seed(seed)  # dropout; the caller seeded the head's weights
    try:
        trainer.fit(training, batches)
    except SystemExit as error:  # how Lightning ends upon Ctrl-C
        raise KeyboardInterrupt from error
    return _result(head, training, time.perf_counter() - started)


def _accelerator(device: str) -> str:
    present = torch.cuda.is_available()
    if device == "cuda" and not present:
        raise UserError(
            "parameter train.device",
            expected="a CUDA device",
            found="none that PyTorch can use",
            next_step="set train.device to auto, or install a PyTorch with CUDA",
        )
    return "cuda" if present and device != "cpu" else "cpu"


def _precision(compute_type: str, accelerator: str) -> Literal["bf16-mixed", "32-true"]:
    mixed = native_bfloat16(accelerator) if compute_type == "auto" else compute_type == "bfloat16"
    return "bf16-mixed" if mixed else "32-true"


@torch.no_grad()
def validate(head: Head, rows: Examples) -> tuple[Float[Tensor, " candidates"], Float[Tensor, " candidates"]]:
    """Loss and accuracy of each candidate over `rows`, float64, in evaluation mode and a batch at a time."""
    device = next(head.parameters()).device
    sums = torch.zeros(())
    head.eval()
    for x, y in rows.chunks(VALIDATION_ROWS):
        logits, y = head.supervised(x.to(device)).logits, y.to(device)
        both = torch.stack([candidate_losses(logits, y), candidate_accuracy(logits, y)])
        sums = sums + len(y) * both.double().cpu()
    head.train()
    loss, right = sums
    # Counts are whole, so that equal ones are equal accuracies however they were batched.
    return loss / len(rows.y), right.round() / len(rows.y)


def clip_gradients(head: Head, candidates: int, largest: float) -> None:
    """Scales each candidate's gradient down to the norm `largest`; 0 leaves all as they are.

    By candidate, because a joint norm would couple `LayerProbes` that are trained as if alone.
    """
    if largest == 0:
        return
    gradients = [p.grad.view(candidates, -1) for p in head.parameters() if p.grad is not None]
    norms = torch.stack([gradient.norm(dim=1) for gradient in gradients]).norm(dim=0)
    scale = (largest / (norms + 1e-6)).clamp(max=1)  # 1e-6 as torch.nn.utils.clip_grad_norm_ has it
    for gradient in gradients:
        gradient.mul_(scale[:, None])


def training_losses(
    outputs: Outputs, y: Int[Tensor, " batch"], smoothing: float, weights: Float[Tensor, " labels"] | None = None
) -> Float[Tensor, " candidates"]:
    """What training makes small: the loss of each candidate, or the weighted sum of a head's terms, and its penalty."""
    if outputs.terms is None:
        losses = candidate_losses(outputs.logits, y, smoothing, weights)
    else:
        assert outputs.weights is not None
        losses = (candidate_losses(outputs.terms, y, smoothing, weights) * outputs.weights).sum().unsqueeze(0)
    return losses if outputs.penalty is None else losses + outputs.penalty


def candidate_losses(
    logits: Float[Tensor, "batch ..."],
    y: Int[Tensor, " batch"],
    smoothing: float = 0.0,
    weights: Float[Tensor, " labels"] | None = None,
) -> Float[Tensor, " candidates"]:
    """Mean cross-entropy of each candidate; logits are [batch, out] or [batch, candidates, out].

    With `weights`, each example counts its label's weight and the mean is over examples, so that a batch of rare
    labels has a large loss: the weights' mean over the training set is 1.
    """
    stacked = logits if logits.ndim == 3 else logits.unsqueeze(1)
    spread = y.unsqueeze(1).expand(stacked.shape[:2])
    each = functional.cross_entropy(stacked.transpose(1, 2), spread, label_smoothing=smoothing, reduction="none")
    return each.mean(0) if weights is None else (each * weights.to(each)[y][:, None]).mean(0)


def candidate_accuracy(logits: Float[Tensor, "batch ..."], y: Int[Tensor, " batch"]) -> Float[Tensor, " candidates"]:
    """Share of right answers of each candidate; logits as for `candidate_losses`."""
    stacked = logits if logits.ndim == 3 else logits.unsqueeze(1)
    return (stacked.argmax(-1) == y.unsqueeze(1)).float().mean(0)


def _result(head: Head, training: _Training, seconds: float) -> Fit:
    best = training.best
    head.cpu().load_state_dict(head.state_dict() | best.state)
    ranked = sorted(range(len(best.accuracy)), key=lambda k: (-float(best.accuracy[k]), float(best.loss[k])))
    chosen = ranked[0]
    curve = [
        Epoch(epoch, *(float(values[chosen]) for values in triple)) for epoch, triple in enumerate(training.history)
    ]
    kept, reached = head.settle(ranked).eval(), curve[int(best.epoch[chosen])]
    with torch.no_grad():
        rows = training.validation_rows
        if kept.calibrate(rows.chunks(VALIDATION_ROWS)):
            loss, accuracy = _measured(kept, rows)
            reached = replace(reached, val_loss=loss, val_accuracy=accuracy)
    return Fit(
        head=kept,
        best=reached,
        curve=curve,
        seconds=seconds,
        layer_accuracy=None if kept is head else [float(accuracy) for accuracy in best.accuracy],
    )


def _measured(head: Head, rows: Examples) -> tuple[float, float]:
    """Validation loss and accuracy of a head as it predicts."""
    pairs = [(head(x), y) for x, y in rows.chunks(VALIDATION_ROWS)]
    logits, y = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return float(candidate_losses(logits, y)), float(candidate_accuracy(logits, y))


def _refuse_nan(what: str, losses: Tensor, epoch: int) -> None:
    bad = losses[~torch.isfinite(losses)]
    if len(bad):
        raise UserError(
            f"{what} at epoch {epoch}",
            expected="a finite number",
            found=str(float(bad[0])),
            next_step="lower train.recipe.learning_rate, or keep train.recipe.standardise on",
        )
