"""The part of the texts that a run computes if an earlier cache holds the rows of the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ilse.core.files.table_files import scan_parquet
from ilse.core.tables import TEXT


@dataclass(frozen=True)
class ToDo:
    """The texts that run through the model."""

    texts: int
    share: float
    """Share of the bytes of all texts, 0 to 1. New texts may be much longer than old ones, and tokens grow with length.
    """


def to_do_of(texts: Path, new: np.ndarray[tuple[int], np.dtype[np.int64]]) -> ToDo | None:
    """The part of the texts at the positions `new` of the table that is to be computed; None if it is all of them."""
    table = scan_parquet(texts)
    if len(new) == table.select(pl.len()).collect().item():  # the file's own count: a first run reads no text for this
        return None
    sizes = table.select(pl.col(TEXT).str.len_bytes()).collect()[TEXT].to_numpy()
    return ToDo(len(new), float(sizes[new].sum() / sizes.sum()))
