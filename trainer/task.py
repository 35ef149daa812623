"""One classification task: the examples table joined to a cache's rows.

Training sees `training_split`; the test split has a door of its own, `held_out`, which evaluation alone uses (a test
walks the code for it).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch

from ilse.errors import UserError
from ilse.tables import LABEL, LABEL_INDEX, SCORE, SPLIT, TEST, TEXT_ID, TRAIN, VALIDATION
from pipeline.store import Cache
from trainer.rows import Rows
from trainer.stored import gather
from trainer.stream import StreamedRows, shards_in


class Task:
    """Examples with a label each, over a cache that holds all their texts."""

    def __init__(self, cache: Cache, examples: pl.DataFrame, labels: tuple[str, ...], digest: str) -> None:
        self.cache = cache
        self.labels = labels
        self.digest = digest
        """SHA-256 of the examples' file."""
        self._examples = examples

    def rows(self, split: str) -> int:
        """How many examples a split has."""
        return int((self._examples[SPLIT] == split).sum())

    def training_split(self, split: str, layers: Sequence[int] | None = None, pooling: str = "mean") -> Rows:
        """The examples of `train` or `validation` in memory, with the rows of the chosen `layers`."""
        return self._load(_for_training(split), layers, pooling)

    def streamed_split(
        self, split: str, layers: Sequence[int], pooling: str = "mean", *, memory_budget: int
    ) -> StreamedRows:
        """The examples of `train` or `validation`, whose rows are read as they are used.

        `memory_budget` is that of the blocks that they are read in, in bytes; see `trainer.stream`. Raises
        `UserError` for one that does not hold single shards.
        """
        return self._streamed(_for_training(split), layers, pooling, memory_budget)

    def held_out(self, layers: Sequence[int] | None = None, pooling: str = "mean") -> Rows:
        """The test examples. For `trainer.evaluate` alone, once every choice has been made."""
        return self._load(TEST, layers, pooling)

    def held_out_streamed(self, layers: Sequence[int], pooling: str = "mean", *, memory_budget: int) -> StreamedRows:
        """The same, read as they are used; `memory_budget` as for `streamed_split`."""
        return self._streamed(TEST, layers, pooling, memory_budget)

    def _streamed(self, split: str, layers: Sequence[int], pooling: str, memory_budget: int) -> StreamedRows:
        chosen = self._examples_of(split)
        places = chosen["cache_row"].to_numpy().astype(np.int64)
        shards = shards_in(memory_budget, self.cache, len(layers))
        ids = chosen[TEXT_ID].to_list()
        return StreamedRows(self.cache, tuple(layers), pooling, places, _labels(chosen), ids, shards)

    def _load(self, split: str, layers: Sequence[int] | None, pooling: str) -> Rows:
        chosen = self._examples_of(split)
        x = gather(self.cache, chosen["cache_row"].to_numpy(), layers, pooling)
        return Rows(x, _labels(chosen), chosen[TEXT_ID].to_list())

    def _examples_of(self, split: str) -> pl.DataFrame:
        chosen = self._examples.filter(pl.col(SPLIT) == split)
        if chosen.is_empty():
            raise UserError(
                f"split '{split}'",
                expected="at least one example",
                found="none",
                next_step="change the fractions in section 'prepare', or give more data",
            )
        return chosen


def _for_training(split: str) -> str:
    if split not in (TRAIN, VALIDATION):
        raise ValueError(f"'{split}' is no split to train or choose on")
    return split


def _labels(examples: pl.DataFrame) -> torch.Tensor:
    return torch.from_numpy(examples[LABEL_INDEX].to_numpy().astype("int64"))


def open_task(cache: Cache, examples: Path) -> Task:
    """The task of an `examples.parquet` over `cache`.

    Raises `UserError` for a missing or unreadable table, one without labels, or one with texts that the cache does
    not hold.
    """
    table = _read(examples)
    ids = cache.text_ids()
    rows = pl.DataFrame({TEXT_ID: ids, "cache_row": pl.Series(range(len(ids)), dtype=pl.Int64)})
    joined = table.join(rows, on=TEXT_ID, how="left", maintain_order="left")
    missing = joined["cache_row"].null_count()
    if missing:
        raise UserError(
            f"cache {cache.path}",
            expected="the texts of all examples",
            found=f"{missing} of {len(table)} examples whose text is not in it",
            next_step="run 'ilse extract' on the texts of this data set",
        )
    return Task(cache, joined, _label_map(examples, table), hashlib.sha256(examples.read_bytes()).hexdigest())


def _read(examples: Path) -> pl.DataFrame:
    if not examples.is_file():
        raise UserError(
            f"examples {examples}",
            expected="the table that 'ilse prepare' writes",
            found="no such file",
            next_step="run 'ilse prepare' first, or 'dvc repro'",
        )
    try:
        table = pl.read_parquet(examples)
    except pl.exceptions.PolarsError as error:
        raise _refused(examples, "a Parquet table", str(error).splitlines()[0]) from error
    if SCORE in table.columns:
        raise UserError(
            f"examples {examples}",
            expected=f"a column '{LABEL}': heads are trained on labels",
            found=f"a column '{SCORE}'",
            next_step="prepare the data set with prepare.label_column in place of prepare.score_column",
        )
    if missing := [name for name in (TEXT_ID, LABEL, LABEL_INDEX, SPLIT) if name not in table.columns]:
        raise _refused(examples, f"columns {', '.join(missing)}", f"columns {', '.join(table.columns)}")
    return table


def _label_map(examples: Path, table: pl.DataFrame) -> tuple[str, ...]:
    """The labels in the order of their indices, over all splits: a label may stand in one split only."""
    pairs = table.select(LABEL_INDEX, LABEL).unique().sort(LABEL_INDEX, LABEL)
    labels = pairs[LABEL].to_list()
    if pairs[LABEL_INDEX].to_list() != list(range(len(labels))) or len(set(labels)) < len(labels):
        raise _refused(examples, "one index from 0 for each label, without gaps", f"{pairs.rows()[:20]}")
    return tuple(labels)


def _refused(examples: Path, expected: str, found: str) -> UserError:
    return UserError(
        f"examples {examples}", expected=expected, found=found, next_step="run 'ilse prepare' again, or 'dvc repro'"
    )
