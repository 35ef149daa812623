"""A split's examples that stay in the cache: whole shards are read in random order into a shuffle buffer.

Rows are shuffled within a block of shards, and the shards of a block are drawn anew every epoch. While one block is
trained on, a thread reads the next. Blocks keep rows as they are stored, half of float32 as a rule; a batch is widened
and treated when it is taken. The memory budget sizes the blocks; what the process takes beside them (libraries, the
head) is more than they: `benchmarks/training.py` says how much.
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
from trainer.stored import compact_type, gather, read_into, widened

Treat = Callable[[Float[Tensor, "rows layers dim"]], Float[Tensor, "rows layers width"]]

BLOCKS = 2
"""One that is trained on, one that is read."""
LOOSE_SHARDS = 3
"""Memory beside the blocks: a shard's bytes, the layers read from it, and those layers side by side."""


@dataclass(frozen=True)
class Block:
    """Some shards as they are stored, which of their rows are examples, and how to treat those."""

    values: Float[Tensor, "stored layers dim"]
    places: Int[Tensor, " rows"]
    y: Tensor
    treat: Treat | None

    def batch(self, chosen: Tensor | slice) -> Batch:
        """The examples at these positions, float32 and treated."""
        # `index_select` copies whole rows at a time; indexing goes element by element.
        x = widened(self.values.index_select(0, self.places[chosen]))
        return (x if self.treat is None else self.treat(x)), self.y[chosen]


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
        Targets and texts, [rows].
    block_shards
        Shards of a block.
    treat
        What is done to the rows of a batch; None for nothing.
    """

    cache: Cache
    layers: Sequence[int]
    pooling: str
    places: NDArray[np.int64]
    y: Tensor
    text_ids: list[str]
    block_shards: int
    treat: Treat | None = None

    def treated(self, treat: Treat) -> StreamedRows:
        """The same examples, treated as they are taken."""
        return replace(self, treat=treat)

    def take(self, chosen: Int[Tensor, " chosen"]) -> Rows:
        """The examples at these positions, in memory."""
        x = gather(self.cache, self.places[chosen.numpy()], self.layers, self.pooling)
        ids = [self.text_ids[place] for place in chosen.tolist()]
        return Rows(x if self.treat is None else self.treat(x), self.y[chosen], ids)

    def chunks(self, size: int) -> Iterator[Batch]:
        """All examples, shard by shard."""
        for shard in self.shards():
            block = self.read([shard])
            for start in range(0, len(block.y), size):
                yield block.batch(slice(start, start + size))

    def order(self) -> Int[Tensor, " rows"]:
        """Shard by shard, and within a shard as they are."""
        return torch.from_numpy(np.argsort(self.places // self.cache.header.shard_rows, kind="stable"))

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

    def read(self, shards: Sequence[int], into: Tensor | None = None) -> Block:
        """The examples of these shards, shard after shard; in the memory of `into`, which must hold them."""
        values, size = self.room(len(shards)) if into is None else into, self.cache.header.shard_rows
        shard_of = self.places // size
        chosen = [np.flatnonzero(shard_of == shard) for shard in shards]
        inside, start = [], 0
        for shard, examples in zip(shards, chosen, strict=True):
            rows = self.cache.header.rows_of(shard)  # the last shard has fewer
            stop = start + rows.stop - rows.start
            # Whole shards, since to copy the examples' rows out of them would take as long again as to read them.
            read_into(values[start:stop], self.cache, shard, self.layers, self.pooling)
            inside.append(self.places[examples] - rows.start + start)
            start = stop
        places, kept = (torch.from_numpy(np.concatenate(parts)) for parts in (inside, chosen))
        return Block(values, places, self.y[kept], self.treat)

    def room(self, shards: int) -> Float[Tensor, "stored layers dim"]:
        """Memory for so many shards as they are stored."""
        rows = min(shards * self.cache.header.shard_rows, self.cache.header.texts)
        return torch.empty(rows, len(self.layers), self.cache.dim, dtype=compact_type(self.cache))


class StreamedBatches:
    """Shuffled batches out of blocks; all but the last have `batch_size` rows, as in memory."""

    def __init__(self, rows: StreamedRows, batch_size: int, seed: int) -> None:
        self._rows = rows
        self._batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)
        # For all epochs: the kernel takes longer to map and zero new memory than a disk's cache to fill it.
        self._places: list[Tensor] = []

    def __len__(self) -> int:
        return -(-len(self._rows.y) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        left: Batch | None = None
        for block in self._blocks():
            order = torch.randperm(len(block.y), generator=self.generator)
            start = 0
            if left is not None:  # what was too little for a batch of the block before
                start = min(len(order), self._batch_size - len(left[1]))
                left = _joined(left, block.batch(order[:start]))
                if len(left[1]) < self._batch_size:
                    continue
                yield left
            whole = start + (len(order) - start) // self._batch_size * self._batch_size
            for place in range(start, whole, self._batch_size):
                yield block.batch(order[place : place + self._batch_size])
            left = block.batch(order[whole:]) if whole < len(order) else None
        if left is not None:
            yield left

    def close(self) -> None:
        """Frees the blocks' memory: Lightning's references to a fit outlive it."""
        self._places.clear()

    def _blocks(self) -> Iterator[Block]:
        """Blocks of shards in a new order, each read while the one before is used, in two places in turn."""
        shards = self._rows.shards()
        order = torch.randperm(len(shards), generator=self.generator).tolist()
        size = self._rows.block_shards
        blocks = [[shards[place] for place in order[start : start + size]] for start in range(0, len(order), size)]
        if not self._places:
            self._places = [self._rows.room(len(blocks[0])) for _ in blocks[:BLOCKS]]
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self._rows.read, blocks[0], self._places[0])
            for number, following in enumerate([*blocks[1:], None], 1):
                block = ahead.result()
                if following is not None:
                    ahead = reader.submit(self._rows.read, following, self._places[number % BLOCKS])
                yield block


def _joined(one: Batch, other: Batch) -> Batch:
    return torch.cat([one[0], other[0]]), torch.cat([one[1], other[1]])


def shards_in(budget: int, cache: Cache, layers: int) -> int:
    """Shards of a block so that streaming stays within `budget` bytes; `UserError` where not even single ones do."""
    shard = min(cache.header.shard_rows, cache.header.texts) * layers * cache.dim * compact_type(cache).itemsize
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
