"""What a head is trained on: both splits' rows, in memory or streamed, treated by statistics of the training rows."""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from ilse.errors import UserError
from ilse.tables import TRAIN, VALIDATION
from trainer.config import TrainParams
from trainer.memory import memory_budget
from trainer.rows import Examples, PairRows, Rows
from trainer.stream import StreamedRows
from trainer.subset import draw_share, draw_shots
from trainer.task import Task
from trainer.treatment import Treatment, TreatmentOptions

TREATED_ROWS = 256
"""Examples that are treated at a time."""
InMemory = Rows | PairRows


class Inputs:
    """Treated rows of both splits: the same for every seed, or a smaller training set that the seed draws."""

    def __init__(self, task: Task, params: TrainParams, options: TreatmentOptions, reads: tuple[int, ...]) -> None:
        self._task, self._params = task, params
        self._treatment = Treatment(options, len(reads), task.cache.dim)
        self._train, self._validation = _splits(task, params, reads)
        if self._is_whole:
            self._treatment.fit_chunks(lambda: (x for x, _ in self._train.chunks(TREATED_ROWS)))
            self._train, self._validation = self._treated(self._train), self._treated(self._validation)

    def of_seed(self, seed: int) -> tuple[Treatment, Examples, Examples]:
        """The treatment, the training rows and the validation rows."""
        if self._is_whole:
            return self._treatment, self._train, self._validation
        drawn = self._train.take(drawn_of(self._task, self._params, seed))
        self._treatment.fit(drawn.x)
        validation = self._validation
        if not isinstance(validation, StreamedRows):
            validation = replace(validation, x=validation.x.clone())  # treating works in place
        return self._treatment, self._treated(drawn), self._treated(validation)

    @property
    def _is_whole(self) -> bool:
        return draws_all(self._params)

    def _treated(self, rows: InMemory | StreamedRows) -> InMemory | StreamedRows:
        """Treats rows once and not once a batch, in place, because a second copy might not fit; or as they are read."""
        if isinstance(rows, StreamedRows):
            return rows.treated(self._treatment.in_place)
        x = rows.x[..., : self._treatment.width]
        for place in range(0, len(x), TREATED_ROWS):
            part = slice(place, place + TREATED_ROWS)
            x[part] = self._treatment(rows.x[part])
        return replace(rows, x=x.contiguous())


def draws_all(params: TrainParams) -> bool:
    """Whether every seed is trained on all training examples."""
    return params.shots is None and params.share is None


def drawn_of(task: Task, params: TrainParams, seed: int) -> Int[Tensor, " chosen"]:
    """Positions of the training examples that a seed is trained on, in ascending order.

    Raises `UserError` as `draw_shots` does, and for shots of examples without a single label.
    """
    y = task.training_targets(TRAIN)
    if params.shots is None:
        return torch.arange(len(y)) if params.share is None else draw_share(y, params.share, seed)
    if task.targets.kind != "label":
        raise UserError(
            "parameter train.shots",
            expected="examples with one label each",
            found=f"a column '{task.targets.kind}'",
            next_step="set train.share instead",
        )
    return draw_shots(y, params.shots, seed, task.labels)


def _splits(
    task: Task, params: TrainParams, reads: tuple[int, ...]
) -> tuple[InMemory | StreamedRows, InMemory | StreamedRows]:
    """Training and validation rows: in memory where both fit the budget, else read as they are used."""
    budget = memory_budget(params.memory_budget)
    need = (task.texts(TRAIN) + task.texts(VALIDATION)) * len(reads) * task.cache.dim * 4
    if need <= budget:
        in_memory = (task.training_split(split, reads, params.pooling) for split in (TRAIN, VALIDATION))
        return next(in_memory), next(in_memory)
    line = f"{need / 1e9:.3g} GB of rows, {budget / 1e9:.3g} GB for them: they are read from the cache every epoch"
    print(line, file=sys.stderr, flush=True)
    streamed = (task.streamed_split(s, reads, params.pooling, memory_budget=budget) for s in (TRAIN, VALIDATION))
    return next(streamed), next(streamed)
