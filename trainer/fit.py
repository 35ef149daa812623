"""Fits one head: Lightning runs the loop, the best epoch is chosen on validation, and what was cut short goes on."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, replace

import lightning.pytorch as pl
import torch

from ilse.callable import make_callable
from ilse.errors import UserError
from ilse.hardware import native_bfloat16
from ilse.linear import pays, use_onednn
from ilse.memory import keep_freed_memory
from trainer.config import Recipe
from trainer.heads import Head
from trainer.loop import Stretches, Training, Watch
from trainer.losses import VALIDATION_ROWS, measured
from trainer.objectives import Objective
from trainer.progress import Progress
from trainer.rows import Examples

# Lightning tells which accelerators are unused, and that data in memory has no loader workers: neither helps here.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", module="lightning", message=".*(does not have many workers|LeafSpec).*")


LARGEST_KEPT = 2**26
"""Bytes: tensors of a batch stay with the process for the next one, blocks of streamed rows go back when freed."""


@dataclass(frozen=True)
class Epoch:
    """One line of a training curve."""

    epoch: int
    train_loss: float
    val_loss: float
    val_score: float


@dataclass(frozen=True)
class Fit:
    """A trained head in its best state, and how it got there."""

    head: Head
    best: Epoch
    curve: list[Epoch]
    seconds: float
    layer_scores: list[float] | None
    """For `best`: the validation figure of every layer's probe at its own best epoch."""
    epochs_before: int = 0
    """Epochs that an interrupted fit had done, with which this one went on."""


def fit(
    head: Head,
    train: Examples,
    validation: Examples,
    objective: Objective,
    recipe: Recipe,
    seed: int,
    device: str = "auto",
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Fit:
    """Trains `head` on `train` and returns it in the state of its best validation epoch.

    The rows hold the layers that the head reads. `device` is auto, cpu or cuda. Of `LayerProbes` the best layer on
    validation is chosen too, and its `SingleLayer` head is returned; `head` keeps them all, each in its own best state.
    With `progress` an interrupted fit is gone on with, to the same result on the same machine; `watch` may end it
    early. Raises `NotFiniteError` for such a loss.
    """
    keep_freed_memory(LARGEST_KEPT)
    batches = train.shuffled(recipe.batch_size, seed, balanced=recipe.imbalance == "sampling")
    objective.learn(train, recipe.imbalance)
    accelerator = _accelerator(device)
    mixed = _mixed(recipe.compute_type, accelerator)
    if accelerator == "cpu" and not mixed and pays():
        use_onednn(head)
    training = Training(head.train(), recipe, batches, validation, objective, progress, watch, mixed)
    earlier = None if progress is None else progress.load()
    if earlier is not None:
        training.go_on(earlier)
    if not training.finished:
        _run(training, recipe, seed, accelerator)
    return _result(head, training, 0 if earlier is None else earlier.facts["epochs_done"])


def _run(training: Training, recipe: Recipe, seed: int, accelerator: str) -> None:
    # barebones: without logging, checkpoints, progress bar and a first look at validation.
    trainer = pl.Trainer(
        max_epochs=recipe.epochs - training.epochs_done,
        accelerator=accelerator,
        devices=1,
        barebones=True,
    )
    torch.manual_seed(seed)  # dropout; the caller seeded the head's weights
    try:
        trainer.fit(training, Stretches(training.batches))
    except SystemExit as error:  # how Lightning ends upon Ctrl-C
        raise KeyboardInterrupt from error
    finally:
        training.batches.close()


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


def _mixed(compute_type: str, accelerator: str) -> bool:
    return native_bfloat16(accelerator) if compute_type == "auto" else compute_type == "bfloat16"


def _result(head: Head, training: Training, epochs_before: int) -> Fit:
    best = training.best
    head.cpu().load_state_dict(head.state_dict() | best.state)
    ranked = sorted(range(len(best.score)), key=lambda k: (-float(best.score[k]), float(best.loss[k])))
    chosen = ranked[0]
    curve = [
        Epoch(epoch, *(float(values[chosen]) for values in triple)) for epoch, triple in enumerate(training.history)
    ]
    kept, reached = head.settle(ranked).eval(), curve[int(best.epoch[chosen])]
    with torch.no_grad():
        rows = training.validation_rows
        if kept.calibrate(rows.chunks(VALIDATION_ROWS)):
            loss, score = (float(value) for value in measured(kept, kept, training.objective, rows))
            reached = replace(reached, val_loss=loss, val_score=score)
    return Fit(
        head=kept,
        best=reached,
        curve=curve,
        seconds=training.seconds,
        epochs_before=epochs_before,
        layer_scores=None if kept is head else [float(score) for score in best.score],
    )


make_callable(__name__, "trainer.library.fit")
