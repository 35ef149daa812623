"""How far two caches of the same texts are apart, layer by layer.

Layers are taken in groups that fit the memory budget. Each is read twice: for means and spreads, and for all else. For
CKA and neighbours rows are standardised by those of their own cache, as a head has them: a few massive coordinates
would else be the whole figure. CKA is of a sample of texts, the same ones that neighbours are sought of. A row's error
is that of the row as it is, over all texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from trainer.cache_drift.alikeness import LEAST_TEXTS, alikeness
from trainer.cache_drift.drift_table import Figure
from trainer.cache_drift.matching import Both, Matched
from trainer.cache_drift.neighbours import Nearest, overlap
from trainer.layer_metrics.geometry import Mean
from trainer.layer_metrics.measuring import BUDGET, NOTHING_DIFFERS
from trainer.layer_metrics.sampling import drawn
from trainer.treatment import Standardise

PIECE = 1_024
"""Texts that are read at a time."""


@dataclass(frozen=True)
class Options:
    """How two caches are compared.

    Parameters
    ----------
    pooling
        Which rows are read.
    texts
        Most texts of the sample, for CKA and for those whose neighbours are sought.
    neighbours
        How many of each text are compared.
    budget
        Bytes for rows and samples.
    """

    pooling: str = "mean"
    texts: int = 1_000
    neighbours: int = 10
    budget: int = BUDGET


def measure_layers(matched: Matched, options: Options) -> list[Figure]:
    """CKA, shared neighbours and row errors of every layer. Raises `UserError` for damaged rows."""
    sample = np.sort(drawn(matched.text_ids, options.texts))
    every, width = range(len(matched.a.layers)), matched.a.dim + matched.b.dim
    fixed = 8 * len(sample) * (3 * PIECE + 4 * len(sample))
    size = max(1, (options.budget - fixed) // (4 * width * (len(sample) + 3 * PIECE)))
    groups = (tuple(every[first : first + size]) for first in range(0, len(every), size))
    return [figure for layers in groups for figure in _of_group(matched, layers, sample, options)]


class _Layer:
    """Sums over all texts, for one layer."""

    def __init__(self, queries: tuple[Tensor, Tensor], places: Tensor, neighbours: int) -> None:
        self.nearest = [Nearest(rows, places, neighbours) for rows in queries]
        self.error, self.largest = Mean(), 0.0
        self.varies = [False, False]

    def add(self, rows: tuple[Tensor, Tensor], treated: tuple[Tensor, Tensor], first: int) -> None:
        """Some more texts from `first` on, as they are and standardised, float64."""
        for nearest, x in zip(self.nearest, treated, strict=True):
            nearest.add(x, first)
        a, b = rows
        if a.shape == b.shape:
            norms = a.norm(dim=1)
            errors = (b - a).norm(dim=1)[norms > 0] / norms[norms > 0]
            self.error.add(errors)
            self.largest = max([self.largest, *errors.tolist()])


def _of_group(
    matched: Matched, layers: tuple[int, ...], sample: NDArray[np.int64], options: Options
) -> Iterator[Figure]:
    treatments = _treatments(matched, layers, options.pooling)
    raw = matched.rows(sample, layers, options.pooling)
    rows = _treated(raw, treatments)
    places = torch.from_numpy(sample)
    found = [
        _Layer((rows[0][:, at].double(), rows[1][:, at].double()), places, options.neighbours)
        for at in range(len(layers))
    ]
    firsts: list[Tensor] = []
    for texts in matched.pieces(PIECE):
        both = matched.rows(texts, layers, options.pooling)
        firsts = firsts or [x[0].clone() for x in both]
        treated = _treated(both, treatments)
        for at, layer in enumerate(found):
            for side, (x, start) in enumerate(zip(both, firsts, strict=True)):
                layer.varies[side] |= bool((x[:, at] != start[at]).any())
            ours, theirs = (x[:, at].double() for x in both)
            layer.add((ours, theirs), (treated[0][:, at].double(), treated[1][:, at].double()), int(texts[0]))
    for at, place in enumerate(layers):
        own = rows[0][:, at].double(), rows[1][:, at].double()
        yield from _figures(place, own, found[at], matched, options)


def _treatments(matched: Matched, layers: tuple[int, ...], pooling: str) -> tuple[Standardise, Standardise]:
    a, b = Standardise(len(layers), matched.a.dim), Standardise(len(layers), matched.b.dim)
    a.fit_chunks(matched.rows_of_a(texts, layers, pooling) for texts in matched.pieces(PIECE))
    b.fit_chunks(matched.rows_of_b(texts, layers, pooling) for texts in matched.pieces(PIECE))
    return a, b


def _treated(both: Both, treatments: tuple[Standardise, Standardise]) -> Both:
    return treatments[0](both[0]), treatments[1](both[1])


def _figures(
    layer: int,
    rows: tuple[Float[Tensor, "texts width"], Float[Tensor, "texts others"]],
    found: _Layer,
    matched: Matched,
    options: Options,
) -> Iterator[Figure]:
    texts, every, k = len(rows[0]), matched.texts, options.neighbours
    missing = math.sqrt(1 - texts / every)  # of all texts there is nothing to choose
    constant = "" if all(found.varies) else f"in one of the two {NOTHING_DIFFERS}"
    if constant or texts < LEAST_TEXTS:
        yield Figure(layer, "cka", None, texts, note=constant or f"CKA takes {LEAST_TEXTS} texts, {texts} are here")
    else:
        alike = alikeness(*rows)
        error = None if texts == every or alike.error is None else alike.error * missing
        yield Figure(layer, "cka", alike.value, texts, error)
    if constant or every <= k + 1:
        few = f"all {every} texts are among one another's {k} nearest"
        yield Figure(layer, "neighbours", None, texts, note=constant or few)
    else:
        shares = Mean()
        shares.add(overlap(found.nearest[0].found, found.nearest[1].found))
        error = None if texts == every or shares.error is None else shares.error * missing
        yield Figure(layer, "neighbours", shares.value, texts, error)
    yield from _errors(layer, found, matched)


def _errors(layer: int, found: _Layer, matched: Matched) -> Iterator[Figure]:
    left = matched.texts - found.error.count
    if not matched.same_shape:
        why = f"rows of {matched.a.dim} values and of {matched.b.dim}"
    else:
        why = f"{left} texts whose row in the first cache is 0" if left else ""
    known = found.error.count > 0
    for metric, value in (("row_error", found.error.value), ("largest_row_error", found.largest)):
        yield Figure(layer, metric, value if known else None, found.error.count, excluded=left, note=why)
