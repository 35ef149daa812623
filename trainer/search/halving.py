"""Successive halving within a time limit: many candidates start, and few are trained to the end.

A candidate is compared with those before it at a quarter and at half of its epochs, by the best validation figure so
far; one that is not in the better half there ends (asynchronous successive halving, Li et al. 2020, arXiv 1810.05934:
Optuna's, with one worker). Quarters and not epochs, because rates follow a schedule over all of them. The clock is
looked at between epochs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.trial import TrialState

from ilse.core.errors import UserError
from ilse.core.tables import VALIDATION
from trainer.artifacts.artifact import TrainedHead
from trainer.config import TrainParams
from trainer.data.inputs import drawn_of
from trainer.data.shared_inputs import SharedInputs
from trainer.data.task import Task
from trainer.fitting.fit import Fit
from trainer.fitting.isolation import quiet
from trainer.fitting.loop import NotFiniteError
from trainer.objectives import Objective
from trainer.results.significance import estimate_of
from trainer.search.candidates import Candidate
from trainer.stages.train import HeadTrainer
from trainer.statistics import Estimate

PARTS, FACTOR = 4, 2
"""Parts of a training, after the 1st, 2nd, 4th, … of which one in this many continues."""
FEWEST = 3
"""Epochs that a candidate has to be given: with fewer its learning rate has no schedule to speak of."""
MARGIN = 0.9
"""Share of the time left that is planned with: an epoch may take longer than the first one."""
Made = tuple[Fit, TrainedHead]
Ended = Literal["finished", "behind", "out of time", "not finite"]


class Clock:
    """The time of a search, by the clock of the wall."""

    def __init__(self, minutes: int | float, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._started, self._seconds = now, now(), 60 * minutes

    @property
    def used(self) -> float:
        """Seconds since it was set."""
        return self._now() - self._started

    @property
    def left(self) -> float:
        """Seconds; negative ones once the time is up."""
        return self._seconds - self.used


@dataclass(frozen=True)
class Tried:
    """How far one candidate got. Figures are the objective's, on validation."""

    candidate: Candidate
    ended: Ended
    epochs: int | None
    """Epochs done; None for a head that was solved."""
    of_epochs: int | None
    """Epochs that it would have been trained for."""
    penalty: float | None
    """Penalty of a head that was solved."""
    val_score: float
    """Minus infinity for one whose loss was not finite."""
    val_loss: float
    parameters: int
    seconds: float
    """Seconds, including reading its rows."""
    estimate: Estimate | None = None
    """The figure and its variance over validation examples; None if the candidate was stopped for falling behind."""

    @property
    def rank(self) -> tuple[float, int]:
        """The higher the better: the figure, then fewer parameters."""
        return self.val_score if math.isfinite(self.val_score) else -math.inf, -self.parameters


@dataclass(frozen=True)
class Search:
    """Everything that was tried, in order, and the best of it."""

    tried: list[Tried]
    untried: int
    """Candidates that the time did not suffice for."""
    best: int
    """Place in `tried`."""
    fit: Fit
    trained: TrainedHead
    seconds: float


def search(
    candidates: Sequence[Candidate],
    task: Task,
    params: TrainParams,
    clock: Clock,
    seed: int,
    told: Callable[[Objective, Tried], None] = lambda objective, tried: None,
) -> Search:
    """Tries the candidates one after the other until the clock's time is up; validation says which one is best.

    The first one is always trained to its end, however long it takes; beyond the time no epoch is begun by any other.
    `told` hears of each as it ends. Raises `UserError` for a task without training or validation examples, and where
    no candidate has a finite loss.
    """
    screening = _Screening(task, params, clock, seed)
    tried: list[Tried] = []
    best: tuple[int, Fit, TrainedHead] | None = None
    with quiet("optuna"):
        for candidate in candidates:
            if best is not None and clock.left <= 0:
                break
            ran = screening.of(candidate, timed=best is not None)
            if ran is None:
                break
            objective, one, made = ran
            tried.append(one)
            told(objective, one)
            if made is not None and (best is None or one.rank > tried[best[0]].rank):
                best = len(tried) - 1, *made
    if best is None:
        raise UserError(
            "the candidates of 'auto'",
            expected="at least one whose loss is finite",
            found=f"{len(tried)} whose loss was NaN or infinite",
            next_step="keep train.recipe.standardise on, or extract the cache again in float32 or bfloat16",
        )
    return Search(tried, len(candidates) - len(tried), *best, clock.used)


class _Screening:
    """What all candidates share: rows, clock and the figures at the rungs."""

    def __init__(self, task: Task, params: TrainParams, clock: Clock, seed: int) -> None:
        self._task, self._params, self._clock, self._seed = task, params, clock, seed
        self._inputs = SharedInputs(task, params)
        self._rows = len(drawn_of(task, params, seed))
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=FACTOR)
        with quiet("optuna"):
            self._study = optuna.create_study(direction="maximize", pruner=pruner)

    def of(self, candidate: Candidate, timed: bool) -> tuple[Objective, Tried, Made | None] | None:
        """The candidate's figures, and what was trained unless its loss was not finite.

        None where the time was up once its rows were read.
        """
        started, epochs, trial = self._clock.used, self._epochs(candidate), self._study.ask()
        trainer = self._trainer(candidate.with_epochs(epochs))
        if timed and self._clock.left <= 0:
            return None
        clock, halved = self._clock if timed else None, trial if candidate.halves else None
        made = self._made(trainer, watching := _Watching(clock, halved, epochs))
        if watching.fitting is not None:  # so many epochs are trained again, with rates over as many
            epochs = watching.fitting
            trainer = self._trainer(candidate.with_epochs(epochs))
            made = self._made(trainer, watching := _Watching(clock, halved, epochs, may_shorten=False))
        one = self._tried(candidate, trainer, made, watching.ended, epochs, started)
        finite = math.isfinite(one.val_score)
        state = TrialState.PRUNED if one.ended == "behind" else TrialState.COMPLETE if finite else TrialState.FAIL
        self._study.tell(trial, one.val_score if state is TrialState.COMPLETE else None, state)
        return trainer.objective, one, made

    def _trainer(self, candidate: Candidate) -> HeadTrainer:
        return HeadTrainer(self._task, candidate.params(self._params), candidate.head, inputs=self._inputs)

    def _made(self, trainer: HeadTrainer, watching: _Watching) -> Made | None:
        """Trains the candidate; None if the loss was not finite."""
        try:
            return trainer.of_seed(self._seed, watch=watching)
        except NotFiniteError:
            return None

    def _tried(
        self, candidate: Candidate, trainer: HeadTrainer, made: Made | None, ended: Ended, epochs: int, started: float
    ) -> Tried:
        seconds = self._clock.used - started
        if made is None:
            return Tried(candidate, "not finite", None, epochs, None, -math.inf, math.inf, 0, seconds)
        fit, trained = made
        solved = fit.penalty is not None
        return Tried(
            candidate=candidate,
            ended=ended,
            epochs=None if solved else len(fit.curve),
            of_epochs=None if solved else epochs,
            penalty=fit.penalty,
            val_score=fit.best.val_score,
            val_loss=fit.best.val_loss,
            parameters=trained.parameters_trained,
            seconds=seconds,
            estimate=self._estimate(trainer, trained) if ended != "behind" else None,
        )

    def _epochs(self, candidate: Candidate) -> int:
        recipe = candidate.params(self._params).recipe_of(candidate.head)
        return recipe.for_batches(-(-self._rows // recipe.batch_size)).epochs

    def _estimate(self, trainer: HeadTrainer, trained: TrainedHead) -> Estimate | None:
        """Estimates the figure; None if there are too few examples to define it."""
        if self._task.rows(VALIDATION) < 2:
            return None
        predicted, y = trainer.validated(trained.head, self._seed)
        try:
            return estimate_of(trainer.objective, predicted[None], y, f"head '{trained.head.spec.name}'")
        except UserError:
            return None


class _Watching:
    """Ends a candidate's training: for being behind (with `trial`), or for the clock."""

    def __init__(self, clock: Clock | None, trial: optuna.Trial | None, epochs: int, may_shorten: bool = True) -> None:
        self._clock, self._trial, self._epochs, self._may_shorten = clock, trial, epochs, may_shorten
        self._began = 0.0 if clock is None else clock.used
        self._part = 0
        self.ended: Ended = "finished"
        self.fitting: int | None = None
        """Epochs that there is time for, where it does not suffice for all; then none of this training counts."""

    def __call__(self, epoch: int, score: float) -> bool:
        done = epoch + 1
        if done == self._epochs:
            return False  # it ends by itself; a path of penalties continues to the next one at most
        if self._clock is not None and self._is_late(self._clock, done):
            self.ended = "out of time"
        elif self._trial is not None and self._is_behind(self._trial, done, score):
            self.ended = "behind"
        return self.ended != "finished"

    def _is_late(self, clock: Clock, done: int) -> bool:
        """Whether the time is up; or, after the first epoch, whether the others would take longer than is left."""
        if clock.left <= 0:
            return True
        if done > 1 or self._trial is None or not self._may_shorten:
            return False
        one = clock.used - self._began
        if one * (self._epochs - 1) <= clock.left:
            return False
        fitting = int(MARGIN * clock.left / one)
        if fitting >= FEWEST:
            self.fitting = fitting
            return True
        return False

    def _is_behind(self, trial: optuna.Trial, done: int, score: float) -> bool:
        part = PARTS * done // self._epochs
        if part == self._part:
            return False
        self._part = part
        trial.report(score, part)
        return bool(trial.should_prune())
