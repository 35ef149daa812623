"""Fits one head: Lightning runs the loop, the best epoch is chosen on validation, and what was cut short goes on."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass, replace

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.utilities.combined_loader import CombinedLoader

from ilse.callable import make_callable
from ilse.errors import UserError
from ilse.hardware import native_bfloat16
from ilse.linear import pays, with_onednn
from ilse.terminal import say
from trainer.apart import interruptible, quiet, seeded
from trainer.config import Recipe
from trainer.heads import Head
from trainer.loop import Stretches, Training, Watch
from trainer.losses import VALIDATION_ROWS, measured
from trainer.objectives import Objective
from trainer.progress import Progress
from trainer.rows import Examples
from trainer.solved import Solved, is_linear, is_solved, solve
from trainer.stream import StreamedRows


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
    penalty: float | None = None
    """Of a head that was solved and not trained, whose `curve` has a strength of it for every epoch."""
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
    A head that is one linear map is solved (`trainer.solved`) where the recipe says so.
    With `progress` an interrupted fit is gone on with, to the same result on the same machine; `watch` may end it
    early, which of a solved head is told of every penalty. Raises `NotFiniteError` for such a loss.
    """
    accelerator = _accelerator(device)
    if is_solved(head, objective, recipe, train):
        objective.learn(train, recipe.imbalance)
        with seeded(seed):
            return _of_solved(head, solve(head, train, validation, objective, recipe, seed, accelerator, watch))
    if recipe.optimizer == "auto" and is_linear(head) and isinstance(train, StreamedRows):
        say(f"{head.spec.name}: rows that are read as they are used are trained on by AdamW, and not solved")
    batches = train.shuffled(recipe.batch_size, seed, balanced=recipe.imbalance == "sampling")
    recipe = recipe.for_batches(len(batches))
    objective.learn(train, recipe.imbalance)
    mixed = _mixed(recipe.compute_type, accelerator)
    with with_onednn(head) if accelerator == "cpu" and not mixed and pays() else nullcontext():
        training = Training(head.train(), recipe, batches, validation, objective, progress, watch, mixed)
        earlier = None if progress is None else progress.load()
        if earlier is not None:
            training.go_on(earlier)
        if not training.finished:
            _run(training, recipe, seed, accelerator)
        with seeded(seed):  # a probe that becomes a head of its own is drawn, and then given its weights
            return _result(head, training, 0 if earlier is None else earlier.facts["epochs_done"])


def _of_solved(head: Head, solved: Solved) -> Fit:
    """The path of penalties stands for the curve, a strength for an epoch."""
    head.cpu()
    at = [solved.path[place] for place in solved.chosen.tolist()]
    scores = [float(place.score[k]) for k, place in enumerate(at)]
    ranked = sorted(range(len(at)), key=lambda k: (-scores[k], float(at[k].loss[k])))
    first = ranked[0]
    curve = [
        Epoch(number, *(float(values[first]) for values in (place.train_loss, place.loss, place.score)))
        for number, place in enumerate(solved.path)
    ]
    best, kept = curve[int(solved.chosen[first])], head.settle(ranked).eval()
    return Fit(
        head=kept,
        best=best,
        curve=curve,
        seconds=solved.seconds,
        layer_scores=None if kept is head else scores,
        penalty=1 / at[first].strength,
    )


class OneProcess(LightningEnvironment):
    """Lightning trains here and in no other process, whatever launched this one: Slurm, MPI, LSF or torchrun."""

    @property
    def creates_processes_externally(self) -> bool:
        """None of them are of this training."""
        return False

    def local_rank(self) -> int:
        """The only one."""
        return 0

    def node_rank(self) -> int:
        """The only one."""
        return 0

    def teardown(self) -> None:
        """Leaves the environment as it is; Lightning's own takes a variable out of it."""


def _run(training: Training, recipe: Recipe, seed: int, accelerator: str) -> None:
    # The seed is for dropout; the caller seeded the head's weights. Of the logger: which accelerators are unused.
    with seeded(seed, "cuda:0" if accelerator == "cuda" else "cpu"), quiet("lightning.pytorch"), interruptible():
        try:
            # barebones: without logging, checkpoints, progress bar and a first look at validation.
            trainer = pl.Trainer(
                max_epochs=recipe.epochs - training.epochs_done,
                accelerator=accelerator,
                devices=1,
                num_nodes=1,
                strategy="auto",
                plugins=[OneProcess()],
                barebones=True,
            )
            trainer.fit(training, _loader(Stretches(training.batches)))
        except SystemExit as error:  # how Lightning ends upon Ctrl-C
            raise KeyboardInterrupt from error
        finally:
            training.batches.close()


def _loader(stretches: Stretches) -> CombinedLoader:
    """What Lightning would make of them, without its warning about its own use of PyTorch."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec")
        return CombinedLoader(stretches, "max_size_cycle")


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
    for parameter in head.parameters():  # the optimizer's vector and the last gradients end with the fit
        parameter.data, parameter.grad = parameter.detach().clone(), None
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
