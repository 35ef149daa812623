"""Rows of texts in a cache, found by their ids."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ilse.core.errors import UserError
from pipeline.store import Cache, TextIds


def places_of(cache: Cache, text_ids: Iterable[str]) -> NDArray[np.int64]:
    """The row of each text. Raises `UserError` for a text that the cache does not hold."""
    asked = list(text_ids)
    place = {text: row for row, text in enumerate(cache.text_ids())}
    missing = [text for text in asked if text not in place]
    if missing:
        raise UserError(
            f"cache {cache.path}",
            expected="the texts of all ids",
            found=f"{len(missing)} that are not in it, such as '{missing[0]}'",
            next_step="give ids of its texts.parquet, or extract these texts too",
        )
    return np.array([place[text] for text in asked], np.int64)


def matched_rows(held: TextIds, wanted: TextIds) -> NDArray[np.int64]:
    """Position of each wanted text in a list of distinct ids; −1 if it is not there."""
    place = {text.tobytes(): row for row, text in enumerate(held)}
    return np.array([place.get(text.tobytes(), -1) for text in wanted], np.int64)
