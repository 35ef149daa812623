"""The sample of texts for metrics that are not sums over all texts: always the same, whatever the cache's order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.store import TextIds

_SEED = 0x6C6179657273
"""Seed of the sample. It differs from the id alone, by which `subset` and others may have drawn."""


def drawn(text_ids: TextIds, count: int, among: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Rows of `count` texts by a hash of their ids, in the order of their hashes: fewer of them are the first ones.

    Among all texts, or those of the rows `among`.
    """
    rows = np.arange(len(text_ids)) if among is None else np.unique(among)
    return rows[np.argsort(_hashes(text_ids[rows]), kind="stable")[:count]]


def _hashes(text_ids: TextIds) -> NDArray[np.uint64]:
    first, second = np.ascontiguousarray(text_ids).view("<u8").T
    return _mixed(first ^ _mixed(second ^ np.uint64(_SEED)))


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): every bit of 64 depends on every one."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
