"""A split's examples that stay in the cache: whole shards are read in random order into a shuffle buffer.

Rows are shuffled within a block of shards, and the shards of a block are drawn again every epoch. Blocks keep rows as
they are stored, half of float32 as a rule; a batch is gathered, widened and treated when it is taken. From an object
store a thread reads the next block while one is trained on; to read a folder takes less than such a thread costs the
training. The memory budget sizes the blocks, and alike in both cases: the order of the rows does not depend on where
the cache lies. A folder's rows take half of it. What the process takes beside them (libraries, the head) is more than
they: `benchmarks/training.py` says how much.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import cycle, zip_longest
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from ilse.core.errors import UserError
from trainer.data.joined import AnyCache, JoinedRoom, bytes_of_shard, gathered, room_of
from trainer.data.poolings import Poolings
from trainer.rows.in_memory import Batch, Rows
from trainer.rows.ragged import Tokens, joined
from trainer.rows.stored import Room
from trainer.treatment import Treat

S = TypeVar("S", bound="Streamed")

BLOCKS = 2
"""Parts of the budget, each for a block: one that is trained on, and one that is read."""
LOOSE_SHARDS = 1
"""Memory in addition to the blocks: a shard of validation rows, or the answer of an object store."""


@dataclass(frozen=True)
class Block:
    """Some shards as they are stored, which of their rows are examples, and how to treat those."""

    room: Room | JoinedRoom
    starts: Int[Tensor, " rows"]
    y: Tensor
    treat: Treat | None

    def batch(self, chosen: Tensor | slice) -> Batch:
        """The examples at these positions, float32 and treated."""
        x = self.room.rows(self.starts[chosen])
        return (x if self.treat is None else self.treat(x)), self.y[chosen]


@runtime_checkable
class ReadBlock(Protocol):
    """Some shards in memory."""

    @property
    def y(self) -> Tensor:
        """Targets of the examples."""

    def batch(self, chosen: Any) -> Batch:
        """The examples at these positions."""


@dataclass(frozen=True)
class Streamed(ABC):
    """The examples of one split by their place in the cache, which are read in blocks of shards.

    Parameters
    ----------
    cache, layers
        Where the examples are and which layers of them are read; of several caches, whose shards hold the same texts.
    places
        Row of each example in the cache, [rows].
    y, text_ids
        Targets and texts, [rows].
    block_shards
        Shards of a block.
    treat
        What is done to the values of a batch, which are its own to change; None for nothing.
    ahead
        Whether a thread reads a block while the one before it is trained on.
    """

    what: ClassVar[str]
    """What is streamed, in the words of messages."""

    cache: AnyCache
    layers: tuple[int, ...]
    places: NDArray[np.int64]
    y: Tensor
    text_ids: list[str]
    block_shards: int
    treat: Treat | None = None
    ahead: bool = False

    def treated(self: S, treat: Treat) -> S:
        """The examples, treated as they are read."""
        return replace(self, treat=treat)

    @abstractmethod
    def take(self, chosen: Int[Tensor, " chosen"]) -> Any:
        """The examples at these positions, in memory."""

    @abstractmethod
    def chunks(self, size: int) -> Iterator[Batch]:
        """All examples, shard by shard, at most `size` at a time."""

    @abstractmethod
    def read(self, shards: Sequence[int], into: Any = None) -> ReadBlock:
        """The examples of these shards, shard after shard; in the memory of `into`, which must hold them."""

    @abstractmethod
    def room(self, shards: int) -> Any:
        """Memory for this many shards, which may `announce` one."""

    def order(self) -> Int[Tensor, " rows"]:
        """Shard by shard, and within a shard as they are."""
        return torch.from_numpy(np.argsort(self.places // self.shard_rows, kind="stable"))

    def shuffled(self, batch_size: int, seed: int, balanced: bool = False) -> StreamedBatches:
        """Batches for training; `UserError` for balanced ones, which would read the shards in any order."""
        if balanced:
            raise UserError(
                "parameter train.recipe.imbalance",
                expected=f"'weights' or 'none' where {self.what} do not fit in memory",
                found="'sampling'",
                next_step="take 'weights', or raise train.memory_budget",
            )
        return StreamedBatches(self, batch_size, seed)

    def shards(self) -> list[int]:
        """Shards that hold an example of this split."""
        found: list[int] = np.unique(self.places // self.shard_rows).tolist()
        return found

    @property
    def shard_rows(self) -> int:
        """Texts of a shard."""
        assert self.cache.shard_rows is not None
        return self.cache.shard_rows


@dataclass(frozen=True)
class StreamedRows(Streamed):
    """Examples with their rows.

    Parameters
    ----------
    poolings
        Which rows of a text are read, side by side; the others are those of `Streamed`.
    """

    what: ClassVar[str] = "rows"

    poolings: Poolings = "mean"

    def take(self, chosen: Int[Tensor, " chosen"]) -> Rows:
        """The examples at these positions, in memory."""
        x = gathered(self.cache, self.places[chosen.numpy()], self.layers, self.poolings)
        ids = [self.text_ids[place] for place in chosen.tolist()]
        return Rows(x if self.treat is None else self.treat(x), self.y[chosen], ids)

    def chunks(self, size: int) -> Iterator[Batch]:
        """All examples, shard by shard."""
        for shard in self.shards():
            block = self.read([shard])
            for start in range(0, len(block.y), size):
                yield block.batch(slice(start, start + size))

    def read(self, shards: Sequence[int], into: Room | JoinedRoom | None = None) -> Block:
        """The examples of these shards, shard after shard; in the memory of `into`, which must hold them."""
        room, size = self.room(len(shards)) if into is None else into, self.shard_rows
        shard_of = self.places // size
        kept = []
        for slot, shard in enumerate(shards):
            room.read(slot, shard)
            kept.append(np.flatnonzero(shard_of == shard))
        slots = np.repeat(np.arange(len(shards)), [len(examples) for examples in kept])
        chosen = np.concatenate(kept)
        starts = room.starts(torch.from_numpy(slots), torch.from_numpy(self.places[chosen] % size))
        return Block(room, starts, self.y[torch.from_numpy(chosen)], self.treat)

    def room(self, shards: int) -> Room | JoinedRoom:
        """Memory for this many shards."""
        return room_of(self.cache, self.layers, self.poolings, shards)


class StreamedBatches:
    """Shuffled batches out of blocks; all but the last have `batch_size` rows, as in memory."""

    def __init__(self, rows: Streamed, batch_size: int, seed: int) -> None:
        self._rows = rows
        self._batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)
        # For all epochs: the kernel takes longer to map and zero new memory than a disk's cache to fill it.
        self._rooms: list[Any] = []

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
        self._rooms.clear()

    def _blocks(self) -> Iterator[ReadBlock]:
        """Blocks of shards in a new order, of much the same size."""
        shards = np.array(self._rows.shards())
        order = torch.randperm(len(shards), generator=self.generator).numpy()
        blocks = np.array_split(shards[order], -(-len(shards) // self._rows.block_shards))
        if not self._rooms:
            self._rooms = [self._rows.room(len(blocks[0])) for _ in blocks[: BLOCKS if self._rows.ahead else 1]]
        reading = _ahead if self._rows.ahead else _in_turn
        return reading(self._rows, [block.tolist() for block in blocks], self._rooms)


def _in_turn(rows: Streamed, blocks: list[list[int]], rooms: list[Any]) -> Iterator[ReadBlock]:
    """Reads each block into the same room, while the disk prefetches the next one."""
    for shards, following in zip_longest(blocks, blocks[1:], fillvalue=()):
        block = rows.read(shards, rooms[0])
        for shard in following:
            rooms[0].announce(shard)
        yield block


def _ahead(rows: Streamed, blocks: list[list[int]], rooms: list[Any]) -> Iterator[ReadBlock]:
    """Reads each block into the next room, while a thread reads the one after it."""
    with ThreadPoolExecutor(1) as reader:
        coming = deque[Future[ReadBlock]]()
        for shards, room in zip(blocks, cycle(rooms)):
            coming.append(reader.submit(rows.read, shards, room))
            if len(coming) == BLOCKS:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def _joined(one: Batch, other: Batch) -> Batch:
    x = joined([one[0], other[0]]) if isinstance(one[0], Tokens) else torch.cat([one[0], other[0]])
    return x, torch.cat([one[1], other[1]])


def shards_in(budget: int, cache: AnyCache, layers: Sequence[int], poolings: Poolings) -> int:
    """Shards of a block so that streaming stays within `budget` bytes.

    Raises `UserError` where not even single ones do, and for caches whose shards do not hold the same texts.
    """
    require_shared_shards(cache, budget)
    return fitting_shards(budget, bytes_of_shard(cache, layers, poolings))


def require_shared_shards(cache: AnyCache, budget: int) -> int:
    """Texts of a shard; `UserError` for caches whose shards do not hold the same texts."""
    if cache.shard_rows is None:
        raise UserError(
            "parameter train.memory_budget",
            expected="room for all rows: caches are read together shard by shard where the same texts, in the same "
            "order, make a shard of each",
            found=f"{budget / 1e9:.3g} GB, and other shards in {cache.path}",
            next_step="raise it, or extract from one table of texts with the same extract.shard_rows",
        )
    return cache.shard_rows


def fitting_shards(budget: int, shard: int, loose: int = LOOSE_SHARDS) -> int:
    """Shards per block, for shards of at most `shard` bytes and `loose` more shards in memory besides the blocks."""
    fitting = (budget // shard - loose) // BLOCKS
    if fitting < 1:
        least = (BLOCKS + loose) * shard
        raise UserError(
            "parameter train.memory_budget",
            expected=f"at least {least / 1e9:.3g} GB: {BLOCKS + loose} shards of {shard / 1e6:.3g} MB",
            found=f"{budget / 1e9:.3g} GB",
            next_step="raise it, or extract with a smaller extract.shard_rows",
        )
    return int(fitting)
