"""What a head is trained on: both splits' rows, in memory or streamed, treated by statistics of the training rows."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from ilse.core.errors import UserError
from ilse.core.tables import TRAIN, VALIDATION
from ilse.core.terminal import say
from trainer.config import TrainParams
from trainer.data.joined import layer_widths
from trainer.data.memory import memory_budget
from trainer.data.poolings import TOKENS, Poolings, row_width
from trainer.data.subset import draw_share, draw_shots
from trainer.data.task import InMemory, Task
from trainer.rows.in_memory import Examples, PairRows, Rows
from trainer.rows.stream import Streamed
from trainer.rows.token_rows import of_statistics
from trainer.treatment import Treatment, TreatmentOptions

TREATED_ROWS = 256
"""Examples that are treated at a time."""


class Inputs:
    """Treated rows of both splits: the same for every seed, or a smaller training set that the seed draws."""

    def __init__(
        self,
        task: Task,
        params: TrainParams,
        options: TreatmentOptions,
        reads: tuple[int, ...],
        poolings: Poolings | None = None,
    ) -> None:
        """`poolings` are those of `params` where none are given; for `TOKENS`, tokens take the place of rows."""
        self._task, self._params = task, params
        poolings = params.pooling if poolings is None else poolings
        self._reads_tokens = poolings == TOKENS
        widths = None if poolings == TOKENS else layer_widths(task.cache, reads, poolings)
        self._treatment = Treatment(options, len(reads), row_width(task.cache, poolings), widths)
        self._train, self._validation = _splits(task, params, reads, poolings)
        if self._is_whole:
            self._fit(self._train)
            self._train, self._validation = self._treated(self._train), self._treated(self._validation)

    def of_seed(self, seed: int) -> tuple[Treatment, Examples, Examples]:
        """The treatment, the training rows and the validation rows."""
        if self._is_whole:
            return self._treatment, self._train, self._validation
        drawn = self._train.take(drawn_of(self._task, self._params, seed))
        self._fit(drawn)
        validation = self._validation
        if isinstance(validation, Rows | PairRows):
            validation = replace(validation, x=validation.x.clone())  # treating works in place
        return self._treatment, self._treated(drawn), self._treated(validation)

    @property
    def _is_whole(self) -> bool:
        return draws_all(self._params)

    def _fit(self, rows: InMemory | Streamed) -> None:
        if self._reads_tokens:
            self._treatment.fit_chunks(lambda: of_statistics(rows.chunks(TREATED_ROWS)))
        else:
            self._treatment.fit_chunks(lambda: (x for x, _ in rows.chunks(TREATED_ROWS)))

    def _treated(self, rows: InMemory | Streamed) -> InMemory | Streamed:
        """Treats rows once and not once a batch, in place, because a second copy might not fit; or as they are read."""
        if not isinstance(rows, Rows | PairRows):
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
    task: Task, params: TrainParams, reads: tuple[int, ...], poolings: Poolings
) -> tuple[InMemory | Streamed, InMemory | Streamed]:
    """Training and validation rows: in memory where both fit the budget, else read as they are used."""
    budget = memory_budget(params.memory_budget)
    need = sum(task.bytes(split, len(reads), poolings) for split in (TRAIN, VALIDATION))
    if need <= budget:
        in_memory = (task.training_split(split, reads, poolings) for split in (TRAIN, VALIDATION))
        return next(in_memory), next(in_memory)
    what = "token states" if poolings == TOKENS else "rows"
    line = f"{need / 1e9:.3g} GB of {what}, {budget / 1e9:.3g} GB for them: they are read from the cache every epoch"
    say(line)
    streamed = (task.streamed_split(s, reads, poolings, memory_budget=budget) for s in (TRAIN, VALIDATION))
    return next(streamed), next(streamed)
