"""Runs the training loop of one head: Lightning handles epochs and devices, and an interrupted fit resumes."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.utilities.combined_loader import CombinedLoader

from ilse.core.machine.hardware import native_bfloat16
from ilse.core.machine.linear import pays, with_onednn
from ilse.core.progress_bars import progress_bar
from trainer.config import Recipe
from trainer.fitting.attached import current
from trainer.fitting.isolation import interruptible, quiet, seeded
from trainer.fitting.loop import Judge, Stretches, Training, Watch
from trainer.fitting.progress import Progress
from trainer.heads import Head
from trainer.objectives import Objective
from trainer.rows.in_memory import Examples
from trainer.rows.weights import weights_of


def trained(
    head: Head,
    train: Examples,
    judge: Judge,
    objective: Objective,
    recipe: Recipe,
    seed: int,
    accelerator: str,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Training:
    """The whole training of `head` on `train`: its history, and the states that `judge` found best.

    The objective learns from `train`. With `progress` an interrupted training is resumed; `watch` may end it early.
    Raises `NotFiniteError` for a loss that is not finite.
    """
    batches = train.shuffled(recipe.batch_size, seed, balanced=recipe.imbalance == "sampling")
    recipe = recipe.for_batches(len(batches))
    objective.learn(train.y, recipe.imbalance, weights_of(train))
    mixed = _mixed(recipe.compute_type, accelerator)
    with with_onednn(head) if accelerator == "cpu" and not mixed and pays() else nullcontext():
        training = Training(head.train(), recipe, batches, judge, objective, progress, watch, mixed)
        earlier = None if progress is None else progress.load()
        if earlier is not None:
            training.go_on(earlier)
        if not training.finished:
            with progress_bar(recipe.epochs, head.spec.name, "epoch", done=training.epochs_done) as bar:
                training.told = bar.update
                _run(training, recipe, seed, accelerator)
    return training


class OneProcess(LightningEnvironment):
    """Lightning trains here and in no other process, whatever launched this one: Slurm, MPI, LSF or torchrun."""

    @property
    def creates_processes_externally(self) -> bool:
        """False: this training has no processes that others started."""
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
            trainer = pl.Trainer(
                max_epochs=recipe.epochs - training.epochs_done,
                accelerator=accelerator,
                devices=1,
                num_nodes=1,
                strategy="auto",
                plugins=[OneProcess()],
                **_watched(),
            )
            trainer.fit(training, _loader(Stretches(training.batches)))
        except SystemExit as error:  # how Lightning ends upon Ctrl-C
            raise KeyboardInterrupt from error
        finally:
            training.batches.close()


def _watched() -> dict[str, Any]:
    """How Lightning runs a fit: bare where nobody watches, else with the caller's callbacks and loggers."""
    watching = current()
    if not watching:
        # Without logging, checkpoints, progress bar and a first look at validation.
        return {"barebones": True}
    return {
        "callbacks": list(watching.callbacks),
        "logger": list(watching.loggers) or False,
        "enable_checkpointing": any(isinstance(one, Checkpoint) for one in watching.callbacks),
        "enable_progress_bar": any(isinstance(one, ProgressBar) for one in watching.callbacks),
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }


def _loader(stretches: Stretches) -> CombinedLoader:
    """What Lightning would make of them, without its warning about its own use of PyTorch."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec")
        return CombinedLoader(stretches, "max_size_cycle")


def _mixed(compute_type: str, accelerator: str) -> bool:
    return native_bfloat16(accelerator) if compute_type == "auto" else compute_type == "bfloat16"
