"""Finds texts by their ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import store


class TextIndex:
    """Index from text ids to their positions in a list of distinct ids; 24 bytes per text."""

    def __init__(self, text_ids: store.TextIds) -> None:
        keys = _as_keys(text_ids)
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def places(self, text_ids: store.TextIds) -> npt.NDArray[np.int64]:
        """The position in the list of each of these texts, −1 for one that is not in it; [texts]."""
        wanted = _as_keys(text_ids)
        at = np.searchsorted(self._sorted, wanted).clip(max=len(self._sorted) - 1)
        return np.where(self._sorted[at] == wanted, self._order[at], -1)


def _as_keys(text_ids: store.TextIds) -> npt.NDArray[Any]:
    return np.ascontiguousarray(text_ids).view("S16").reshape(-1)
