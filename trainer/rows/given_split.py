"""Rows that somebody has in memory, for `HeadClassifier`: some are trained on and some held back, and both treated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float
from torch import Tensor

from trainer.data.inputs import TREATED_ROWS
from trainer.rows.in_memory import Rows
from trainer.rows.token_rows import TokenRows, of_statistics
from trainer.rows.weights import weights_at
from trainer.treatment import Treatment


def held_back(y: npt.NDArray[np.int64], fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which rows choose the epoch: `fraction` of every label's on average, but never its first one drawn, [rows]."""
    if not 0 <= fraction < 1:
        raise ValueError(f"validation_fraction should be at least 0 and below 1, got {fraction}")
    generator, chosen = np.random.default_rng(seed), np.zeros(len(y), bool)
    for label in np.unique(y):
        places = generator.permutation(np.flatnonzero(y == label))
        marks = np.floor(fraction * np.arange(len(places)) + generator.random())
        chosen[places] = np.diff(marks, prepend=0) > 0
    return chosen


def treated_split(
    examples: Rows | TokenRows, held: Bool[Tensor, " rows"], treatment: Treatment, reads: list[int]
) -> tuple[Rows | TokenRows, Rows | TokenRows]:
    """Examples to train on, to which `treatment` is fitted, and those that are held back; of the layers `reads`.

    Rows may be treated in the memory of the examples, which are not to be used afterwards: a copy might not fit.
    """
    parts = [(~held).nonzero()[:, 0], held.nonzero()[:, 0]]
    if isinstance(examples, Rows):
        x = _of_layers(examples.x, reads)
        inside = x.index_select(0, parts[0]) if held.any() else x
        outside = x.index_select(0, parts[1])
        weights = [weights_at(examples, part) for part in parts]
        treatment.fit(inside, weights=weights[0])
        treated = treatment.in_place(inside), treatment.in_place(outside)
        every = zip(treated, parts, weights, strict=True)
        train, validation = (Rows(rows, examples.y[part], [], own) for rows, part, own in every)
        return train, validation
    shelf = replace(examples.shelf, values=_of_layers(examples.shelf.values, reads))
    ragged, others = (replace(examples, shelf=shelf).take(part) for part in parts)
    by_token = None if ragged.weights is None else ragged.weights.repeat_interleave(shelf.lengths[ragged.places])
    treatment.fit_chunks(lambda: of_statistics(ragged.chunks(TREATED_ROWS)), by_token)
    return ragged.treated(treatment.in_place), others.treated(treatment.in_place)


def _of_layers(x: Float[Tensor, "rows layers dim"], reads: list[int]) -> Float[Tensor, "rows read dim"]:
    return x if reads == list(range(x.shape[1])) else x[:, reads]
