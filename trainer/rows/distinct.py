"""Rows that are given several times are one row that counts more, and their order says nothing.

Equal rows with equal labels become one, and the others are put into an order that follows from what they hold. What is
drawn afterwards (folds, held-back rows, batches) is then the same for a row given twice and for one of weight 2, and
for rows in any order. Copies of a row cannot be on both sides of a fold either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

Content = Callable[[int], npt.NDArray[np.float32]]
"""The values of the row at a position, contiguous."""

KEY_BYTES = 4096
"""Of a row's end, which tell most rows apart: all of a row is read of those alone that agree in them."""


@dataclass(frozen=True)
class Distinct:
    """Rows in the order of their content.

    Parameters
    ----------
    chosen
        Which of the rows that were asked for; of equal ones any.
    weights
        What each counts, 1 on average; None where all count 1.
    scale
        The mean of the weights as they were given.
    """

    chosen: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64] | None
    scale: float


def distinct_rows(
    content: Content,
    places: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64] | None = None,
) -> Distinct:
    """The rows at `places`, each once.

    Parameters
    ----------
    content
        Of a position.
    places
        Positions of the rows that are asked for.
    labels, weights
        Of these rows; without weights each counts 1.
    """
    counts = np.ones(len(places)) if weights is None else weights
    end, whole = _digests(content, places, labels, KEY_BYTES), np.zeros((2, len(places)), np.uint64)
    order = np.lexsort(end)
    same = (np.diff(end[:, order]) == 0).all(0)
    alike = order[np.append(same, False) | np.insert(same, 0, False)]
    whole[:, alike] = _digests(content, places[alike], labels[alike], None)
    # The end comes first (in lexsort: last): whether a row is read whole follows from how often it is given. The weight
    # comes last, because the rounding of a sum must not follow from the order that copies are given in.
    keys = np.concatenate([whole, end])
    order = np.lexsort([counts, *keys])
    starts = np.flatnonzero(np.insert((np.diff(keys[:, order]) != 0).any(0), 0, True))
    sums = np.add.reduceat(counts[order], starts)
    scale = float(sums.mean())
    return Distinct(order[starts], None if (sums == sums[0]).all() else sums / scale, scale)


def _digests(
    content: Content, places: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], end: int | None
) -> npt.NDArray[Any]:
    """Two numbers of each row, [2, rows], from its label, its length and its last `end` bytes, or all of them."""
    found = bytearray()
    for place, label in zip(places.tolist(), labels.tolist(), strict=True):
        values = content(place).reshape(-1).view(np.uint8).data
        digest = blake2b(values if end is None else values[-end:], digest_size=16)
        digest.update(b"%d %d" % (label, len(values)))
        found += digest.digest()
    return np.frombuffer(found, "<u8").reshape(-1, 2).T
