"""Which texts a figure is of that is no sum over all: the same ones every time, whatever the order of the cache."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from pipeline.store import TextIds


def drawn(text_ids: TextIds, count: int, among: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Rows of `count` texts by a hash of their ids, in the order of their hashes: fewer of them are the first ones.

    Among all texts, or those of the rows `among`.
    """
    rows = np.arange(len(text_ids)) if among is None else np.unique(among)
    hashes = np.array([_hash(text_ids[row].tobytes()) for row in rows.tolist()], np.uint64)
    return rows[np.argsort(hashes, kind="stable")[:count]]


def _hash(text_id: bytes) -> int:
    # Not the id itself, of which `subset` and others may have drawn.
    return int.from_bytes(hashlib.blake2b(b"layers:" + text_id, digest_size=8).digest(), "big")
