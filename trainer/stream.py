"""A split's examples that stay in the cache: whole shards are read in random order into a shuffle buffer.

Rows are shuffled within a block of shards, and the shards of a block are drawn anew every epoch. While one block is
trained on, a thread reads and treats the next. The memory budget sizes the blocks; what the process takes beside them
(reading's temporaries that the allocator keeps, libraries, the head) is more than they: `benchmarks/training.py` says
how much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ilse.errors import UserError
from pipeline.store import Cache
from trainer.rows import Batch, Rows

Treat = Callable[[Float[Tensor, "rows layers dim"]], Float[Tensor, "rows layers width"]]

BLOCKS = 2
"""One that is trained on, one that is read."""
LOOSE_SHARDS = 3
"""Memory beside the blocks: a shard as stored, decoded and treated."""


@dataclass(frozen=True)
class StreamedRows:
    """The examples of one split by their place in the cache.

    Parameters
    ----------
    cache, layers, pooling
        Where the rows are and which of them are read.
    places
        Row of each example in the cache, [rows].
    y, text_ids
        Labels and texts, [rows].
    block_shards
        Shards of a block.
    treat
        What is done to rows as they are read; None for nothing.
    """

    cache: Cache
    layers: Sequence[int]
    pooling: str
    places: NDArray[np.int64]
    y: Int[Tensor, " rows"]
    text_ids: list[str]
    block_shards: int
    treat: Treat | None = None

    def treated(self, treat: Treat) -> StreamedRows:
        """The same examples, treated as they are read."""
        return replace(self, treat=treat)

    def take(self, chosen: Int[Tensor, " chosen"]) -> Rows:
        """The examples at these positions, in memory."""
        x = torch.from_numpy(self.cache.gather(self.places[chosen.numpy()], self.layers, self.pooling))
        ids = [self.text_ids[place] for place in chosen.tolist()]
        return Rows(x if self.treat is None else self.treat(x), self.y[chosen], ids)

    def chunks(self, size: int) -> Iterator[Batch]:
        """All examples, shard by shard."""
        for shard in self.shards():
            x, y = self.read([shard])
            yield from zip(x.split(size), y.split(size), strict=True)

    def shuffled(self, batch_size: int, seed: int, balanced: bool = False) -> StreamedBatches:
        """Batches for training; `UserError` for balanced ones, which would read the shards in any order."""
        if balanced:
            raise UserError(
                "parameter train.recipe.imbalance",
                expected="'weights' or 'none' where rows do not fit in memory",
                found="'sampling'",
                next_step="take 'weights', or raise train.memory_budget",
            )
        return StreamedBatches(self, batch_size, seed)

    def shards(self) -> list[int]:
        """Shards that hold an example of this split."""
        found: list[int] = np.unique(self.places // self.cache.header.shard_rows).tolist()
        return found

    def read(self, shards: Sequence[int]) -> Batch:
        """The examples of these shards, shard after shard, treated."""
        shard_of = self.places // self.cache.header.shard_rows
        chosen = [np.flatnonzero(shard_of == shard) for shard in shards]
        block, filled = torch.empty(0), 0
        for shard, examples in zip(shards, chosen, strict=True):
            rows = self.cache.header.rows_of(shard)
            x = torch.from_numpy(self.cache.read(rows, self.layers, self.pooling)[self.places[examples] - rows.start])
            x = x if self.treat is None else self.treat(x)
            if not filled:  # one tensor for all: joining parts would hold every row twice
                block = torch.empty(sum(map(len, chosen)), *x.shape[1:])
            block[filled : filled + len(x)] = x
            filled += len(x)
        return block, self.y[torch.from_numpy(np.concatenate(chosen))]


class StreamedBatches:
    """Shuffled batches out of blocks; all but the last have `batch_size` rows, as in memory."""

    def __init__(self, rows: StreamedRows, batch_size: int, seed: int) -> None:
        self._rows = rows
        self._batch_size = batch_size
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self._rows.y) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        left: Batch | None = None
        for x, y in self._blocks():
            order = torch.randperm(len(y), generator=self._generator)
            start = 0
            if left is not None:  # what was too little for a batch of the block before
                start = min(len(y), self._batch_size - len(left[1]))
                first = order[:start]
                left = torch.cat([left[0], x[first]]), torch.cat([left[1], y[first]])
                if len(left[1]) < self._batch_size:
                    continue
                yield left
            whole = start + (len(y) - start) // self._batch_size * self._batch_size
            for place in range(start, whole, self._batch_size):
                chosen = order[place : place + self._batch_size]
                yield x[chosen], y[chosen]
            rest = order[whole:]
            left = (x[rest], y[rest]) if len(rest) else None
        if left is not None:
            yield left

    def _blocks(self) -> Iterator[Batch]:
        """Blocks of shards in a new order, each read while the one before is used."""
        shards = self._rows.shards()
        order = torch.randperm(len(shards), generator=self._generator).tolist()
        size = self._rows.block_shards
        blocks = [[shards[place] for place in order[start : start + size]] for start in range(0, len(order), size)]
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self._rows.read, blocks[0])
            for following in [*blocks[1:], None]:
                block = ahead.result()
                if following is not None:
                    ahead = reader.submit(self._rows.read, following)
                yield block
                del block  # before the next one is waited for


def shards_in(budget: int, cache: Cache, layers: int) -> int:
    """Shards of a block so that streaming stays within `budget` bytes; `UserError` where not even single ones do."""
    shard = min(cache.header.shard_rows, cache.header.texts) * layers * cache.dim * 4
    fitting = (budget // shard - LOOSE_SHARDS) // BLOCKS
    if fitting < 1:
        least = (BLOCKS + LOOSE_SHARDS) * shard
        raise UserError(
            "parameter train.memory_budget",
            expected=f"at least {least / 1e9:.3g} GB: {BLOCKS + LOOSE_SHARDS} shards of {shard / 1e6:.3g} MB",
            found=f"{budget / 1e9:.3g} GB",
            next_step="raise it, or extract with a smaller extract.shard_rows",
        )
    return int(fitting)
