"""Pairs of texts that stay in the cache: read in blocks of groups of examples, as `stream` reads blocks of shards.

The two texts of an example may lie in any two shards. Examples are grouped by the shard of the later text, where
`ilse prepare` puts most earlier ones too, so that a block reads few shards beside its own; where texts are paired
across the whole cache, every block reads most of it. A shard is read once for a block, and of it the needed texts are
kept. Every answer and figure is that of the examples in memory. A loss that compares the examples of a batch, cosent,
is over other batches of validation pairs than there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from pipeline.store import Cache
from trainer.data.joined import AnyCache, gathered
from trainer.data.poolings import Poolings, row_width
from trainer.rows.in_memory import Batch, PairRows
from trainer.rows.stream import Streamed, fitting_shards, require_shared_shards
from trainer.rows.token_rows import TokenRows
from trainer.rows.token_shelf import lengths_of, room_for, shelf_of, token_bytes, token_type
from trainer.rows.token_stream import largest_shard

GROUP_SHARDS = 2
"""Shards whose memory a group may take at most. Groups take about one where pairs lie together: few are cut."""
LOOSE_SHARDS = 3 + GROUP_SHARDS
"""Shards of memory besides the blocks: a shard as read, in order, what is needed of it, and a validation group."""
SCALES = 4
"""Tokens whose states take as much memory as a shard's scales in int8."""


@dataclass(frozen=True)
class PairRoom:
    """Memory for some groups' texts."""

    values: Tensor  # [rows or tokens, layers, width]; of tokens as they are stored

    def announce(self, group: int) -> None:
        """Does nothing, as two groups may share shards."""


@dataclass(frozen=True)
class Groups:
    """Groups of examples that are read together.

    Parameters
    ----------
    numbers
        Group of each example, counted from 0.
    most
        Rows, or tokens, that a group needs at most.
    block
        Groups of a block.
    """

    numbers: NDArray[np.int64]
    most: int
    block: int


@dataclass(frozen=True, kw_only=True)
class StreamedPairs(Streamed):
    """Examples of two texts each: `places` are [rows, 2], and groups take the place of shards."""

    groups: Groups

    def chunks(self, size: int) -> Iterator[Batch]:
        """All examples, group by group."""
        groups = self.shards()
        # Training keeps its block meanwhile, and both of them where one is read ahead.
        step = 1 if self.ahead else max(1, min(self.groups.block // 2, len(groups)))
        room = self.room(step)
        for start in range(0, len(groups), step):
            block = self.read(groups[start : start + step], room)
            yield from block.chunks(size)

    def take(self, chosen: Int[Tensor, " chosen"]) -> PairRows | TokenRows:
        """The examples at these positions, in memory."""
        return self._held(chosen.numpy(), [self.text_ids[place] for place in chosen.tolist()])

    def read(self, shards: Sequence[int], into: PairRoom | None = None) -> PairRows | TokenRows:
        """The examples of these groups, group after group; in the memory of `into`, which must hold them."""
        chosen = [np.flatnonzero(self.groups.numbers == group) for group in shards]
        return self._held(np.concatenate(chosen), [], into)

    def order(self) -> Int[Tensor, " rows"]:
        """Group by group, and within a group as they are."""
        return torch.from_numpy(np.argsort(self.groups.numbers, kind="stable"))

    def shards(self) -> list[int]:
        """The groups."""
        return list(range(int(self.groups.numbers.max()) + 1))

    def _held(self, chosen: NDArray[np.int64], ids: list[str], into: PairRoom | None = None) -> PairRows | TokenRows:
        """The examples at these positions, with each text that they need once."""
        texts, places = np.unique(self.places[chosen], return_inverse=True)
        room = None if into is None else into.values
        return self._of_texts(texts, torch.from_numpy(places.reshape(-1, 2)), self.y[chosen], ids, room)

    def room(self, shards: int) -> PairRoom:
        """Memory for this many groups."""
        raise NotImplementedError

    def _of_texts(
        self, texts: NDArray[np.int64], places: Int[Tensor, "rows 2"], y: Tensor, ids: list[str], into: Tensor | None
    ) -> PairRows | TokenRows:
        """Examples by the places of their two in `texts`, which are read to `into`."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class StreamedPairRows(StreamedPairs):
    """Pairs with their rows; `poolings` are read side by side."""

    what: ClassVar[str] = "rows"

    poolings: Poolings

    def room(self, shards: int) -> PairRoom:
        """Memory for the rows of this many groups, float32."""
        shape = shards * self.groups.most, len(self.layers), row_width(self.cache, self.poolings)
        return PairRoom(torch.empty(shape))

    def _of_texts(
        self, texts: NDArray[np.int64], places: Int[Tensor, "rows 2"], y: Tensor, ids: list[str], into: Tensor | None
    ) -> PairRows:
        x = gathered(self.cache, texts, self.layers, self.poolings, None if into is None else into[: len(texts)])
        return PairRows(x, places, y, ids, self.treat)


@dataclass(frozen=True)
class StreamedPairTokens(StreamedPairs):
    """Pairs with the states of their tokens."""

    what: ClassVar[str] = "token states"

    cache: Cache

    def room(self, shards: int) -> PairRoom:
        """Memory for the tokens of this many groups, as they are stored."""
        return PairRoom(room_for(self.cache, len(self.layers), shards, self.groups.most).values)

    def _of_texts(
        self, texts: NDArray[np.int64], places: Int[Tensor, "rows 2"], y: Tensor, ids: list[str], into: Tensor | None
    ) -> TokenRows:
        return TokenRows(shelf_of(self.cache, texts, self.layers, into), places, y, ids, self.treat)


def rows_of_pairs(
    cache: AnyCache,
    layers: tuple[int, ...],
    poolings: Poolings,
    places: NDArray[np.int64],
    y: Tensor,
    ids: list[str],
    budget: int,
) -> StreamedPairRows:
    """Pairs whose rows are read within `budget` bytes. Raises `UserError` where single shards do not fit."""
    rows, each = require_shared_shards(cache, budget), np.ones(int(places.max()) + 1, np.int64)
    groups = _groups(places, each, each, rows, rows, len(layers) * row_width(cache, poolings) * 4, budget)
    ahead = not cache.is_local
    return StreamedPairRows(cache, layers, places, y, ids, groups.block, ahead=ahead, groups=groups, poolings=poolings)


def tokens_of_pairs(
    cache: Cache, layers: tuple[int, ...], places: NDArray[np.int64], y: Tensor, ids: list[str], budget: int
) -> StreamedPairTokens:
    """Streams the token states of pairs. Raises `UserError` also for texts without any token."""
    lengths_of(cache, places.ravel())
    counts, scales = cache.token_counts().astype(np.int64), SCALES if token_type(cache) == "int8" else 0
    # Of int8 a text brings its shard's scales along, at most.
    groups = _groups(
        places, counts, counts + scales, cache.header.shard_rows, largest_shard(cache) + scales,
        token_bytes(cache, len(layers)), budget,
    )  # fmt: skip
    return StreamedPairTokens(cache, layers, places, y, ids, groups.block, ahead=not cache.is_local, groups=groups)


def _groups(
    places: NDArray[np.int64],
    counts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    shard_rows: int,
    shard: int,
    unit: int,
    budget: int,
) -> Groups:
    """Groups so that blocks of them stay within `budget` bytes.

    A text of the cache has `counts` rows or tokens, which take `sizes` times `unit` bytes; its largest shard takes
    `shard` times as much.
    """
    shard = max(shard, int(sizes[places].sum(1).max()))  # a pair may be more than a shard
    room = fitting_shards(budget, shard * unit, LOOSE_SHARDS) * shard
    numbers = grouped(places, sizes, shard_rows, min(GROUP_SHARDS * shard, room))
    return Groups(numbers, most_needed(numbers, places, counts), room // most_needed(numbers, places, sizes))


def grouped(places: NDArray[np.int64], sizes: NDArray[np.int64], shard_rows: int, limit: int) -> NDArray[np.int64]:
    """A number for each pair, from 0: those alike have their later text in one shard, and their texts' `sizes`, each
    text once, sum to `limit` at most.
    """
    later, earlier = places.max(1), places.min(1)
    order = np.lexsort((earlier, later // shard_rows))
    numbers, group, shard, needed, held = np.empty(len(places), np.int64), -1, -1, 0, set[int]()
    for example, pair in zip(order.tolist(), places[order].tolist(), strict=True):
        own = max(pair) // shard_rows
        further = sum(int(sizes[text]) for text in {*pair} - held)
        if own != shard or needed + further > limit:
            group, shard, needed, held = group + 1, own, 0, set()
            further = sum(int(sizes[text]) for text in {*pair})
        held.update(pair)
        needed += further
        numbers[example] = group
    return numbers


def most_needed(numbers: NDArray[np.int64], places: NDArray[np.int64], sizes: NDArray[np.int64]) -> int:
    """Largest sum over the texts of any group, each text counted once."""
    once = np.unique(numbers.repeat(2) * len(sizes) + places.ravel())
    return int(np.bincount(once // len(sizes), weights=sizes[once % len(sizes)]).max())
