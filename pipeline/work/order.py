"""Assigns rows to texts: a text keeps the row that it had in an earlier cache, so that shards stay as they are.

The table of texts is in the order of the data set's source, and there a change moves what stands behind it: a file that
is added to a folder comes somewhere in the middle. Shards that do not move are not stored, pushed or pulled again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ilse.core.errors import UserError
from ilse.core.files.atomic import replacing
from ilse.core.files.table_files import literal, scan_parquet
from ilse.core.tables import TEXT_ID
from pipeline import store
from pipeline.work.ids import TextIndex

PIECE = 262_144
"""Texts that are put in order at a time: the memory that it takes, whatever the table's length."""
ROW_GROUP = 8_192

Order = npt.NDArray[np.int64]
"""The position in the table of each row's text, [texts]."""


def row_order(text_ids: store.TextIds, earlier: Sequence[str]) -> Order:
    """The order by the first of the `earlier` caches that proves its list of texts; without one, the table's own."""
    for cache in earlier:
        try:
            return keeping_rows(text_ids, store.open_proven(cache).text_id_rows())
        except UserError:  # it was there when the run began, and is damaged or gone now
            continue
    return np.arange(len(text_ids))


def keeping_rows(text_ids: store.TextIds, before: store.TextIds) -> Order:
    """Texts of `before` keep their row; new ones take the rows of those that left, and the rows behind.

    Where more left than came, the last texts move into the gaps. So k changed texts touch k shards at most, and the
    last ones.
    """
    places = TextIndex(before).places(text_ids)
    stays = (places >= 0) & (places < len(text_ids))
    order = np.full(len(text_ids), -1)
    order[places[stays]] = np.flatnonzero(stays)
    order[order < 0] = np.flatnonzero(~stays)
    return order


def in_order(texts: Path, order: Order, copy: Path, text_ids: store.TextIds) -> Path:
    """The table whose row i is the text of row i: `texts` itself, or a `copy` of it in that order.

    A copy that is there is taken as it is where its texts are these, of `text_ids`.
    """
    if np.array_equal(order, np.arange(len(order))):
        return texts
    if not _holds(copy, text_ids):
        import pyarrow.parquet as pq

        schema = pq.read_schema(literal(texts))
        with replacing(copy) as new, pq.ParquetWriter(new, schema) as writer:
            for piece in _pieces(texts, order):
                writer.write_table(piece.to_arrow().cast(schema), row_group_size=ROW_GROUP)
    return copy


def _holds(copy: Path, text_ids: store.TextIds) -> bool:
    if not copy.is_file():
        return False
    table, start = scan_parquet(copy).select(TEXT_ID), 0
    try:
        while start < len(text_ids):
            part = store.text_id_rows(table.slice(start, PIECE).collect()[TEXT_ID].to_list())
            if not len(part) or not np.array_equal(part, text_ids[start : start + PIECE]):
                return False
            start += len(part)
    except (pl.exceptions.PolarsError, ValueError, TypeError):  # another table, or one that a power cut left
        return False
    return True


def _pieces(texts: Path, order: Order) -> Iterator[pl.DataFrame]:
    """The table's rows in this order, `PIECE` at a time; of the table, only the parts that hold them are read."""
    for start in range(0, len(order), PIECE):
        wanted = order[start : start + PIECE]
        parts, at = [], []
        for group in np.unique(wanted // ROW_GROUP):
            here = np.flatnonzero(wanted // ROW_GROUP == group)
            part = scan_parquet(texts).slice(int(group) * ROW_GROUP, ROW_GROUP).collect()
            parts.append(part[wanted[here] - group * ROW_GROUP])
            at.append(here)
        yield pl.concat(parts)[np.argsort(np.concatenate(at))]
