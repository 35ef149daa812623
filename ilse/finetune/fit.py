"""The training loop: one seed's additions and classifier, in their best state on validation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from ilse.core.errors import UserError
from ilse.core.terminal import say
from ilse.finetune.adapter import Classifier
from ilse.finetune.batches import count, in_order, shuffled
from ilse.finetune.config import LoraParams
from ilse.finetune.examples import Split
from pipeline.capture.batching import Batch
from pipeline.capture.tokens import Tokens
from trainer.fitting.isolation import seeded
from trainer.objectives import MultiClass

LARGEST_GRADIENT = 1.0
"""Norm that a step's gradient is cut to."""
PREDICTED = 64
"""Texts of a batch without gradients."""


@dataclass(frozen=True)
class Epoch:
    """One line of a training curve; `seconds` with validation."""

    epoch: int
    train_loss: float
    val_loss: float
    val_score: float
    seconds: float

    def __str__(self) -> str:
        scores = f"training loss {self.train_loss:.3f}, validation loss {self.val_loss:.3f}, score {self.val_score:.4f}"
        return f"epoch {self.epoch}: {scores}, {self.seconds:.0f} s"


@dataclass
class Work:
    """Tokens that went through the model, padding included."""

    trained: int = 0
    """Forward and backward."""
    predicted: int = 0
    """Forward alone."""

    def flops(self, per_token: int) -> int:
        """Operations of the matrix products, if a forward pass takes `per_token`.

        Frozen weights need no gradient of their own: the backward pass costs one more forward pass, and not two.
        """
        return per_token * (2 * self.trained + self.predicted)


@dataclass(frozen=True)
class Fit:
    """How one seed was trained; the classifier itself is left in its best state."""

    best: Epoch
    curve: list[Epoch]
    seconds: float
    cpu_seconds: float
    """CPU time of all threads; on a shared machine closer to the cost than the time on the clock."""
    work: Work


def fit(
    model: Classifier, train: Split, validation: Split, objective: MultiClass, params: LoraParams, seed: int, pad: int
) -> Fit:
    """Trains `model` and leaves it in the state of its best epoch on validation: the highest score, then lowest loss.

    `pad` is the token that fills batches up. Raises `UserError` for a loss that is not finite.
    """
    with seeded(seed, model.device):  # dropout
        return _fit(model, train, validation, objective, params, seed, pad)


def _fit(
    model: Classifier, train: Split, validation: Split, objective: MultiClass, params: LoraParams, seed: int, pad: int
) -> Fit:
    loop = _Loop(model, objective, params, seed, pad, count(train.tokens, params.batch_size))
    curve: list[Epoch] = []
    best: tuple[Epoch, dict[str, Tensor]] | None = None
    started, cpu_started = time.perf_counter(), time.process_time()
    for number in range(params.epochs):
        begun = time.perf_counter()
        losses = loop.train(train), *loop.validate(validation)
        curve.append(Epoch(number, *losses, seconds=time.perf_counter() - begun))
        say(f"lora seed {seed}, {curve[-1]}")
        if best is None or _rank(curve[-1]) > _rank(best[0]):
            best = curve[-1], {name: weight.detach().clone() for name, weight in model.trained().items()}
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    assert best is not None
    model.load_state_dict(best[1], strict=False)
    return Fit(best[0], curve, seconds, cpu_seconds, loop.work)


def predict(model: Classifier, tokens: Tokens, pad: int, work: Work) -> Float[Tensor, "texts labels"]:
    """Logits of every text in the order given."""
    with _predicting(model):
        found: list[tuple[Tensor, Tensor]] = []
        for batch in in_order(tokens, PREDICTED, pad, model.window):
            found.append((batch.positions, model(batch).cpu()))
            work.predicted += batch.ids.numel()
    positions, logits = (torch.cat(parts) for parts in zip(*found, strict=True))
    ordered = torch.empty_like(logits)
    ordered[positions] = logits
    return ordered


def _rank(epoch: Epoch) -> tuple[float, float]:
    return epoch.val_score, -epoch.val_loss


@contextmanager
def _predicting(model: Classifier) -> Iterator[None]:
    model.eval()
    with torch.no_grad():
        yield
    model.train()


@dataclass
class _Loop:
    """One seed's optimiser and random order; `steps` are those of an epoch."""

    model: Classifier
    objective: MultiClass
    params: LoraParams
    seed: int
    pad: int
    steps: int
    work: Work = field(default_factory=Work)

    def __post_init__(self) -> None:
        self.weights = list(self.model.trained().values())
        self.optimizer = AdamW(self.weights, self.params.learning_rate, weight_decay=self.params.weight_decay)
        self.schedule = LambdaLR(self.optimizer, rate(self.params.warmup, self.steps * self.params.epochs))
        self.generator = torch.Generator().manual_seed(self.seed)

    def train(self, examples: Split) -> float:
        """One epoch; its mean loss."""
        self.model.train()
        total = 0.0
        for batch in shuffled(examples.tokens, self.params.batch_size, self.pad, self.generator, self.model.window):
            total += self._step(batch, examples.y[batch.positions]) * len(batch.positions)
        return total / len(examples.y)

    def _step(self, batch: Batch, y: Tensor) -> float:
        logits = self.model(batch)
        loss = self.objective.losses(logits, y.to(logits.device)).mean()
        if not loss.isfinite():
            raise _not_finite(self.params)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, LARGEST_GRADIENT)
        self.optimizer.step()
        self.schedule.step()
        self.work.trained += batch.ids.numel()
        return loss.item()

    def validate(self, examples: Split) -> tuple[float, float]:
        """Loss and score."""
        logits = predict(self.model, examples.tokens, self.pad, self.work)
        score = self.objective.score(self.objective.answers(logits, examples.y), examples.y)
        return float(self.objective.plain_losses(logits, examples.y)), float(score)


def rate(warmup: float, steps: int) -> Callable[[int], float]:
    """A schedule from step number, from 0, to the share of the peak rate: linear warm-up, then linear decay."""
    rising = round(warmup * steps)
    return lambda step: (step + 1) / rising if step < rising else (steps - step) / (steps - rising)


def _not_finite(params: LoraParams) -> UserError:
    return UserError(
        "training loss of lora",
        expected="a finite number",
        found="NaN or infinity",
        next_step=f"lower lora.learning_rate ({params.learning_rate:g}), or set lora.compute_type to float32",
    )
