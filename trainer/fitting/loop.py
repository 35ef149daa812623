"""The one training loop's steps, for Lightning to run: losses, clipping, and a judgement after each epoch.

A batch of a small head takes less time than Lightning spends around one, so Lightning is given a `Stretch` of several
as its batch, and the steps within are ours (its manual optimization). Epochs and devices stay Lightning's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from jaxtyping import Float
from torch import Tensor

from ilse.core.errors import FailedError
from trainer.config import Recipe
from trainer.fitting.best import BestStates
from trainer.fitting.flat import FlatParameters
from trainer.fitting.losses import training_losses
from trainer.fitting.progress import Progress, State
from trainer.heads import Head
from trainer.objectives import Objective
from trainer.rows.in_memory import Batch, Batches

Judge = Callable[[Head, int], tuple[Tensor, Tensor]]
"""Given the head and the epoch that has ended; tells the loss and the figure of each candidate, float64."""
Watch = Callable[[int, float], bool]
"""Told the epoch and the best validation figure so far; True ends the fit."""
Schedule = torch.optim.lr_scheduler.LRScheduler | torch.optim.lr_scheduler.ReduceLROnPlateau


class NotFiniteError(FailedError):
    """A loss that is NaN or infinite."""


STEPS = 16
"""Steps of one stretch."""


class Stretch:
    """The next `STEPS` batches of an epoch, drawn as they are used. No dataclass: Lightning would look into it."""

    def __init__(self, drawn: Iterator[Batch]) -> None:
        self._drawn = drawn

    def __iter__(self) -> Iterator[Batch]:
        return islice(self._drawn, STEPS)


@dataclass(frozen=True)
class Stretches:
    """The epochs of `batches` in stretches."""

    batches: Batches

    def __len__(self) -> int:
        return -(-len(self.batches) // STEPS)

    def __iter__(self) -> Iterator[Stretch]:
        drawn = iter(self.batches)
        return (Stretch(drawn) for _ in range(len(self)))


class Training(pl.LightningModule):
    """A head on its way.

    `epochs_done` counts those of a fit that it resumes, too; Lightning's own count starts at 0 each time.
    """

    def __init__(
        self,
        head: Head,
        recipe: Recipe,
        batches: Batches,
        judge: Judge,
        objective: Objective,
        progress: Progress | None = None,
        watch: Watch | None = None,
        mixed: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.head = head
        self.recipe = recipe
        self.batches = batches
        self._judge = judge
        self.objective = objective
        self.best = BestStates(head.candidates)
        self.history: list[tuple[Tensor, Tensor, Tensor]] = []
        self.epochs_done, self.epochs_before, self.finished = 0, 0, False
        self.started, self.seconds_before = time.perf_counter(), 0.0
        self._losses: list[Tensor] = []
        self._progress, self._watch = progress, watch
        self.told: Callable[[int], Any] = lambda epochs: None
        """Is told after every epoch that one more is done."""
        self.mixed = mixed
        """Matrix products of the steps are in bfloat16."""
        self._earlier: State | None = None

    def go_on(self, state: State) -> None:
        """Takes up a fit where `state` left it: from here on it is as if it had never stopped."""
        tensors, facts = state.tensors, state.facts
        self.head.load_state_dict(_under("head.", tensors))
        self.best.load({**_under("best.", tensors)})
        self.history = [tuple(triple) for triple in zip(*(tensors[f"history.{i}"] for i in range(3)), strict=True)]
        self.epochs_done, self.finished = facts["epochs_done"], facts["finished"]
        self.epochs_before = self.epochs_done
        self.seconds_before = facts["seconds"]
        self.batches.generator.set_state(tensors["random.order"])
        self._earlier = state  # the optimizer, once there is one

    @property
    def seconds(self) -> float:
        """Seconds of the whole fit, without the time between a stop and its resumption."""
        return self.seconds_before + time.perf_counter() - self.started

    def state(self) -> State:
        """Everything that the next epoch depends on."""
        optimizer = self.optimizer.state_dict()
        tensors = {f"head.{name}": value for name, value in self.head.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.state_dict().items()}
        tensors |= {f"history.{i}": torch.stack(values) for i, values in enumerate(zip(*self.history, strict=True))}
        tensors |= {f"optimizer.{i}.{name}": v for i, of in optimizer["state"].items() for name, v in of.items()}
        tensors |= {"random.order": self.batches.generator.get_state(), "random.dropout": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        return State(
            tensors,
            {
                "epochs_done": self.epochs_done,
                "finished": self.finished,
                "seconds": self.seconds,
                "groups": optimizer["param_groups"],
                "schedule": _plain(self.schedule.state_dict()) if self.schedule else {},
            },
        )

    def configure_optimizers(self) -> Any:
        """The optimizer; the schedule is ours, since it steps with every batch or epoch."""
        kind = torch.optim.Adam if self.recipe.optimizer == "adam" else torch.optim.AdamW
        rate, decay = self.recipe.learning_rate, self.recipe.weight_decay
        self.flat = FlatParameters(self.head)  # Lightning has put the head on its device before
        self.optimizer = kind([self.flat.vector], lr=rate, weight_decay=decay, fused=True)
        self.schedule = self._schedule()
        if self._earlier is not None:
            self._take_up(self._earlier)
        return self.optimizer

    def _schedule(self) -> Schedule | None:
        if self.recipe.schedule == "plateau":
            return torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, factor=0.5, patience=3)
        if self.recipe.schedule == "one_cycle":
            steps = self.recipe.epochs * len(self.batches)
            return torch.optim.lr_scheduler.OneCycleLR(
                self.optimizer, max_lr=self.recipe.learning_rate, total_steps=steps
            )
        return None

    def _take_up(self, earlier: State) -> None:
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer.", earlier.tensors).items():
            number, kind = name.split(".", 1)
            moments.setdefault(int(number), {})[kind] = value
        self.optimizer.load_state_dict({"state": moments, "param_groups": earlier.facts["groups"]})
        if self.schedule:
            self.schedule.load_state_dict(earlier.facts["schedule"])

    def on_train_start(self) -> None:
        """Restores the random numbers of dropout where they stopped."""
        if self._earlier is not None:
            torch.set_rng_state(self._earlier.tensors["random.dropout"])
            if "random.cuda" in self._earlier.tensors:
                torch.cuda.set_rng_state(self._earlier.tensors["random.cuda"])

    def on_train_epoch_start(self) -> None:
        """Tells the head how far training is."""
        self.head.at_epoch(self.epochs_done / self.recipe.epochs)

    def training_step(self, stretch: Stretch, _index: int) -> None:
        """A step for each batch of a stretch."""
        device = self.device
        for x, y in stretch:
            # Ours and not Lightning's, which would last for all steps and keep the weights of the first one.
            with torch.autocast(device.type, torch.bfloat16, enabled=self.mixed):
                outputs = self.head.supervised(x.to(device, non_blocking=True))
                losses = training_losses(
                    outputs, y.to(device, non_blocking=True), self.objective, self.recipe.smoothing
                )
            self._losses.append(losses.detach())
            self.flat.zero_gradients()
            # The sum, so that each candidate's gradient is what it would be alone.
            losses.sum().backward()
            self.flat.gather_gradients(self.head.candidates, self.recipe.gradient_clip)
            self.optimizer.step()
            if isinstance(self.schedule, torch.optim.lr_scheduler.OneCycleLR):
                self.schedule.step()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After an epoch's last stretch; a caller's callbacks at the epoch's end then see its figures."""
        if self.trainer.is_last_batch:
            self._end_epoch()

    def _end_epoch(self) -> None:
        """Judges the epoch, keeps what is best, and ends or saves the fit."""
        epoch = self.epochs_done
        losses = torch.stack(self._losses).cpu()
        self._losses.clear()
        # Looked at once an epoch: asking after every step would have a GPU wait each time.
        _refuse_nan("training loss", losses, f"epoch {epoch}, step {{}} of {len(losses)}")
        train_loss = losses.mean(0)
        loss, score = self._judge(self.head, epoch)
        _refuse_nan("validation loss", loss[None], f"epoch {epoch}")
        self.history.append((train_loss, loss, score))
        if not self.trainer.barebones:
            best = int(score.argmax())
            figures = {"train_loss": train_loss[best], "val_loss": loss[best], "val_score": score[best]}
            logged = {name: float(value) for name, value in figures.items()}
            self.log_dict(logged, on_step=False, on_epoch=True, batch_size=1)
        self.best.offer(epoch, score, loss, dict(self.head.named_parameters()))
        if isinstance(self.schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.schedule.step(float(loss.mean()))  # candidates have one rate: it follows their mean
        self.epochs_done = epoch + 1
        self.told(1)
        patient = self.recipe.patience is None or epoch - int(self.best.epoch.max()) < self.recipe.patience
        hopeless = self._watch is not None and self._watch(epoch, float(self.best.score.max()))
        self.finished = self.epochs_done == self.recipe.epochs or not patient or hopeless
        if self.finished:  # a callback may have ended it before
            self.trainer.should_stop = True
        if self._progress is not None:
            self._progress.offer(self.state(), self.finished)


def _refuse_nan(what: str, losses: Float[Tensor, "steps candidates"], place: str) -> None:
    bad = ~torch.isfinite(losses)
    if bad.any():
        step = int(bad.any(1).nonzero()[0])
        raise NotFiniteError(
            f"{what} at {place.format(step)}",
            expected="a finite number",
            found=str(float(losses[step][bad[step]][0])),
            next_step="lower train.recipe.learning_rate, or keep train.recipe.standardise on",
        )


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """The counters in a schedule's state; the rest follows from the recipe."""
    return {name: value for name, value in values.items() if isinstance(value, int | float)}
