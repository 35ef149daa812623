"""One task: the examples table joined to a cache's rows.

Training sees `training_split`. The test split has two doors, and a test walks the code for both: `held_out`, which
evaluation alone uses, and `unlabelled`, which tells what has to be answered and no target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ilse.core.errors import MissingError, UserError
from ilse.core.files.table_files import read_parquet
from ilse.core.tables import PAIR_TEXT_ID, SPLIT, TEST, TEXT_ID, TRAIN, VALIDATION
from pipeline.store import Cache
from trainer.data.joined import AnyCache, JoinedCaches, gathered
from trainer.data.poolings import TOKENS, Poolings, row_width
from trainer.data.targets import Targets, refused, targets_of
from trainer.data.truncated import Truncated, truncated_of
from trainer.rows.in_memory import PairRows, Rows
from trainer.rows.pair_stream import rows_of_pairs, tokens_of_pairs
from trainer.rows.stream import Streamed, StreamedRows, shards_in
from trainer.rows.token_rows import TokenRows
from trainer.rows.token_shelf import lengths_of, shelf_of, token_bytes
from trainer.rows.token_stream import StreamedTokens, token_shards_in

ROW, PAIR_ROW = "cache_row", "pair_cache_row"
InMemory = Rows | PairRows | TokenRows
R = TypeVar("R", bound=InMemory | Streamed)


class Task:
    """Examples of one or two texts with a target each, over a cache, or several, that hold all their texts."""

    def __init__(self, cache: AnyCache, examples: pl.DataFrame, targets: Targets, digest: str) -> None:
        self.cache = cache
        self.targets = targets
        self.pairs = PAIR_ROW in examples.columns
        self.digest = digest
        """SHA-256 of the examples' file."""
        self._examples = examples

    @property
    def labels(self) -> tuple[str, ...]:
        """Names in the order of their indices; none for scores."""
        return self.targets.labels

    def rows(self, split: str) -> int:
        """How many examples a split has."""
        return int((self._examples[SPLIT] == split).sum())

    def texts(self, split: str) -> int:
        """How many rows of the cache a split takes in memory."""
        chosen = self._examples_of(split)
        return len(chosen) if not self.pairs else len(_distinct(chosen)[0])

    def bytes(self, split: str, layers: int, poolings: Poolings) -> int:
        """Memory that those rows take, with so many layers and these poolings; `TOKENS` are held as they are stored."""
        if poolings == TOKENS:
            return self._tokens(split) * token_bytes(self._of_tokens, layers)
        return self.texts(split) * layers * row_width(self.cache, poolings) * 4

    def training_ids(self, split: str) -> pl.DataFrame:
        """The texts of `train` or `validation`, in order: the columns `text_id` and, of pairs, `pair_text_id`."""
        return self._ids(_for_training(split))

    def training_targets(self, split: str) -> Tensor:
        """Targets of the split's examples, as `Targets.tensor` returns them, for methods that read texts, not rows."""
        return self.targets.tensor(self._examples_of(_for_training(split)))

    def training_split(self, split: str, layers: Sequence[int] | None = None, poolings: Poolings = "mean") -> InMemory:
        """The examples of `train` or `validation` in memory, with the rows of the chosen `layers`."""
        return self._load(_for_training(split), layers, poolings)

    def streamed_split(
        self, split: str, layers: Sequence[int], poolings: Poolings = "mean", *, memory_budget: int
    ) -> Streamed:
        """The examples of `train` or `validation`, whose rows are read as they are used.

        `memory_budget` is that of the blocks that they are read in, in bytes; see `trainer.rows.stream`. Raises
        `UserError` for one that does not hold single shards.
        """
        return self._streamed(_for_training(split), layers, poolings, memory_budget)

    def unlabelled_ids(self) -> pl.DataFrame:
        """The texts of the test examples, in order, as `training_ids` has them."""
        return self._ids(TEST)

    def unlabelled(self, layers: Sequence[int] | None = None, poolings: Poolings = "mean") -> InMemory:
        """The test examples for those who answer them: their rows without targets, of which `y` [rows, 0] has none."""
        return _without_targets(self._load(TEST, layers, poolings))

    def unlabelled_streamed(
        self, layers: Sequence[int], poolings: Poolings = "mean", *, memory_budget: int
    ) -> Streamed:
        """The test examples without targets, read as they are used; `memory_budget` as for `streamed_split`."""
        return _without_targets(self._streamed(TEST, layers, poolings, memory_budget))

    def sample(self, split: str, texts: int, poolings: Poolings = "mean") -> Float[torch.Tensor, "texts layers dim"]:
        """Rows of at most this many distinct texts of `train` or `validation`, the same ones every time."""
        chosen = self._examples_of(_for_training(split))
        places = np.unique(chosen.select(name for name in (ROW, PAIR_ROW) if name in chosen.columns).to_numpy())
        drawn = np.random.default_rng(0).permutation(places)[:texts]
        return gathered(self.cache, np.sort(drawn), None, poolings)

    def held_out(self, layers: Sequence[int] | None = None, poolings: Poolings = "mean") -> InMemory:
        """The test examples. For `trainer.stages.evaluate` alone, once every choice has been made."""
        return self._load(TEST, layers, poolings)

    def held_out_streamed(self, layers: Sequence[int], poolings: Poolings = "mean", *, memory_budget: int) -> Streamed:
        """The test examples with targets, read as they are used; `memory_budget` as for `streamed_split`."""
        return self._streamed(TEST, layers, poolings, memory_budget)

    def held_out_targets(self) -> Tensor:
        """The test examples' targets, for `trainer.stages.evaluate` alone too."""
        return self.targets.tensor(self._examples_of(TEST))

    def truncated(self) -> Truncated:
        """How many examples of all splits have a text that was cut, by label. For `trainer.stages.evaluate` alone."""
        rows = [name for name in (ROW, PAIR_ROW) if name in self._examples.columns]
        return truncated_of(self._examples, rows, self.cache.truncated(), self.targets)

    def _ids(self, split: str) -> pl.DataFrame:
        chosen = self._examples_of(split)
        return chosen.select(name for name in (TEXT_ID, PAIR_TEXT_ID) if name in chosen.columns)

    def _tokens(self, split: str) -> int:
        """How many tokens the distinct texts of a split have."""
        chosen = self._examples_of(split)
        texts = np.unique(chosen.select(name for name in (ROW, PAIR_ROW) if name in chosen.columns).to_numpy())
        return int(lengths_of(self._of_tokens, texts).sum())

    @property
    def _of_tokens(self) -> Cache:
        """The one cache whose tokens are read: heads over several are refused them when they are built."""
        assert not isinstance(self.cache, JoinedCaches)
        return self.cache

    def _streamed(self, split: str, layers: Sequence[int], poolings: Poolings, memory_budget: int) -> Streamed:
        chosen = self._examples_of(split)
        ids, y, ahead = chosen[TEXT_ID].to_list(), self.targets.tensor(chosen), not self.cache.is_local
        if self.pairs:
            pairs = chosen.select(ROW, PAIR_ROW).to_numpy().astype(np.int64)
            if poolings == TOKENS:
                return tokens_of_pairs(self._of_tokens, tuple(layers), pairs, y, ids, memory_budget)
            return rows_of_pairs(self.cache, tuple(layers), poolings, pairs, y, ids, memory_budget)
        places = chosen[ROW].to_numpy().astype(np.int64)
        if poolings == TOKENS:
            cache = self._of_tokens
            lengths_of(cache, places)  # refuses texts without any
            shards = token_shards_in(memory_budget, cache, len(layers))
            return StreamedTokens(cache, tuple(layers), places, y, ids, shards, ahead=ahead)
        shards = shards_in(memory_budget, self.cache, layers, poolings)
        return StreamedRows(self.cache, tuple(layers), places, y, ids, shards, ahead=ahead, poolings=poolings)

    def _load(self, split: str, layers: Sequence[int] | None, poolings: Poolings) -> InMemory:
        chosen = self._examples_of(split)
        if poolings == TOKENS:
            return self._load_tokens(chosen, layers)
        if self.pairs:
            texts, places = _distinct(chosen)
            x = gathered(self.cache, texts, layers, poolings)
            return PairRows(x, places, self.targets.tensor(chosen), chosen[TEXT_ID].to_list())
        x = gathered(self.cache, chosen[ROW].to_numpy(), layers, poolings)
        return Rows(x, self.targets.tensor(chosen), chosen[TEXT_ID].to_list())

    def _load_tokens(self, chosen: pl.DataFrame, layers: Sequence[int] | None) -> TokenRows:
        if self.pairs:
            texts, places = _distinct(chosen)
        else:  # in the cache's order, so that shards are copied as a whole
            texts, inverse = np.unique(chosen[ROW].to_numpy(), return_inverse=True)
            places = torch.from_numpy(inverse)
        cache = self._of_tokens
        shelf = shelf_of(cache, texts, cache.token_layers if layers is None else tuple(layers))
        return TokenRows(shelf, places, self.targets.tensor(chosen), chosen[TEXT_ID].to_list())

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


def _without_targets(rows: R) -> R:
    return replace(rows, y=torch.empty(len(rows.y), 0))


def _for_training(split: str) -> str:
    if split not in (TRAIN, VALIDATION):
        raise ValueError(f"'{split}' is no split to train or choose on")
    return split


def _distinct(pairs: pl.DataFrame) -> tuple[NDArray[np.int64], Int[torch.Tensor, "rows 2"]]:
    """The cache's rows that pairs need, each once, and where in them each pair's two are."""
    texts, places = np.unique(pairs.select(ROW, PAIR_ROW).to_numpy(), return_inverse=True)
    return texts, torch.from_numpy(places.reshape(len(pairs), 2))


def open_task(cache: AnyCache, examples: Path) -> Task:
    """The task of an `examples.parquet` over `cache`, or over several as one.

    Raises `UserError` for a missing or unreadable table, one without labels, or one with texts that the cache does
    not hold.
    """
    table = read_examples(examples)
    targets = targets_of(table, examples)
    ids = cache.text_ids()
    joined, missing = table, 0
    for name, row in ((TEXT_ID, ROW), (PAIR_TEXT_ID, PAIR_ROW)):
        if name in table.columns:
            rows = pl.DataFrame({name: ids, row: pl.Series(range(len(ids)), dtype=pl.Int64)})
            joined = joined.join(rows, on=name, how="left", maintain_order="left")
            missing = max(missing, joined[row].null_count())
    if missing:
        raise UserError(
            f"cache {cache.path}",
            expected="the texts of all examples",
            found=f"{missing} of {len(table)} examples whose text is not in it",
            next_step="run 'ilse extract' on the texts of this data set",
        )
    return Task(cache, joined, targets, hashlib.sha256(examples.read_bytes()).hexdigest())


def read_examples(examples: Path) -> pl.DataFrame:
    """The table, with ids and splits. Raises `UserError` for one that is missing, unreadable or without these."""
    if not examples.is_file():
        raise MissingError(
            f"examples {examples}",
            expected="the table that 'ilse prepare' writes",
            found="no such file",
            next_step="run 'ilse prepare' first, or 'dvc repro'",
        )
    try:
        table = read_parquet(examples)
    except pl.exceptions.PolarsError as error:
        raise refused(examples, "a Parquet table", str(error).splitlines()[0]) from error
    if missing := [name for name in (TEXT_ID, SPLIT) if name not in table.columns]:
        raise refused(examples, f"columns {', '.join(missing)}", f"columns {', '.join(table.columns)}")
    for name in (TEXT_ID, PAIR_TEXT_ID, SPLIT):
        if name in table.columns and table.schema[name] != pl.String:
            raise refused(examples, f"strings in column {name}", str(table.schema[name]))
    return table
