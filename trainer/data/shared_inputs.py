"""Inputs of heads that are trained one after the other: read again only for a head that reads something else."""

from __future__ import annotations

from typing import Any

from trainer.config import TrainParams
from trainer.data.inputs import Inputs
from trainer.data.poolings import Poolings
from trainer.data.task import Task
from trainer.treatment import TreatmentOptions


class SharedInputs:
    """The last inputs of a task, for the next head that reads the same layers, treated in the same way.

    Which examples there are, and how much memory they may take, is the same for all: that is what `params` says.
    """

    def __init__(self, task: Task, params: TrainParams) -> None:
        self._task, self._params = task, params
        self._last: tuple[Any, Inputs] | None = None

    def of(self, options: TreatmentOptions, reads: tuple[int, ...], poolings: Poolings) -> Inputs:
        """The rows of these layers and poolings. Raises `UserError` as `Inputs` does."""
        wanted = options, reads, poolings
        if self._last is None or self._last[0] != wanted:
            self._last = None  # frees the rows before others are read
            self._last = wanted, Inputs(self._task, self._params, options, reads, poolings)
        return self._last[1]
