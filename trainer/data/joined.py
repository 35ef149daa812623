"""Several caches of the same texts as one: the layers of the first, then those of the next, as wide as the widest.

A row of a narrower cache ends in zeros, which no head reads (`heads.joined_head`) and no treatment changes. So all that
takes rows by layer, from standardising to the analysis, takes joint rows as it does those of one cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import accumulate, groupby
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ilse.core.errors import UserError
from pipeline.store import Cache, TextIds, open_cache
from trainer.data.poolings import Poolings, pooling_names, row_width
from trainer.data.sources import Source, fingerprint_of, layer_names_of
from trainer.data.text_rows import matched_rows
from trainer.rows.stored import Room, gather, shard_room

Places = str | Path | Sequence[str | Path]
"""Location of a cache, or of several."""


class JoinedCaches:
    """Caches over the same texts, in an order that is part of what they are.

    A row's number is that of the first cache. Token states are not joined: `token_layers` has none.

    Attributes
    ----------
    parts
        The caches.

    Raises
    ------
    UserError
        For a capture that stands there twice, and for caches of other texts.
    """

    token_layers: tuple[int, ...] = ()

    def __init__(self, parts: Sequence[Cache]) -> None:
        self.parts = tuple(parts)
        self.sources = tuple(_source(cache) for cache in parts)
        _require_different(self.parts)
        first, *others = (cache.text_id_rows() for cache in parts)
        self._rows = [rows_in(first, ids, self.parts[0], cache) for ids, cache in zip(others, parts[1:], strict=True)]

    @property
    def path(self) -> str:
        """The folders or URLs."""
        return " and ".join(cache.path for cache in self.parts)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the captures in their order."""
        return fingerprint_of(self.sources)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all layers, `model:layer`."""
        return tuple(layer_names_of(self.sources))

    @property
    def dim(self) -> int:
        """Width of the widest row of one pooling."""
        return max(cache.dim for cache in self.parts)

    @property
    def token_width(self) -> int:
        """There are none."""
        return 0

    @cached_property
    def shard_rows(self) -> int | None:
        """Texts of a shard, where the same texts in the same order make a shard of every cache."""
        sizes = {cache.shard_rows for cache in self.parts}
        alike = all((rows == np.arange(len(rows))).all() for rows in self._rows)
        return sizes.pop() if alike and len(sizes) == 1 else None

    @property
    def is_local(self) -> bool:
        """Whether all caches are on this machine."""
        return all(cache.location.is_local for cache in self.parts)

    def text_ids(self) -> list[str]:
        """Identity of each text, in the rows' order."""
        return self.parts[0].text_ids()

    def truncated(self) -> NDArray[np.bool_]:
        """Mask of the texts that were too long for one of the models, [texts]."""
        cut = zip(self.parts, [None, *self._rows], strict=True)
        found = (cache.truncated() if rows is None else cache.truncated()[rows] for cache, rows in cut)
        return reduce(np.logical_or, found)

    def rows_of(self, part: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of these texts in one of the caches."""
        return places if part == 0 else self._rows[part - 1][places]

    def runs(self, layers: Sequence[int] | None) -> Iterator[tuple[int, list[int]]]:
        """The layers as they follow each other: cache by cache, with the layers' numbers there."""
        starts = [0, *accumulate(len(cache.layers) for cache in self.parts)]
        every = range(starts[-1])
        asked = every if layers is None else [every[layer] for layer in layers]
        for part, run in groupby(asked, lambda layer: sum(start <= layer for start in starts) - 1):
            yield part, [layer - starts[part] for layer in run]


AnyCache = Cache | JoinedCaches


def open_caches(places: Places) -> AnyCache:
    """A finished cache, or several as one. Raises `UserError` as `open_cache` and `JoinedCaches` do."""
    if isinstance(places, str | Path):
        return open_cache(places)
    opened = [open_cache(place) for place in places]
    return opened[0] if len(opened) == 1 else JoinedCaches(opened)


def sources_of(cache: AnyCache) -> tuple[Source, ...]:
    """The models that made the rows, with their captures."""
    return cache.sources if isinstance(cache, JoinedCaches) else (_source(cache),)


def widths_of(cache: AnyCache, poolings: Poolings) -> list[int]:
    """Width of each cache's part of a row with these poolings."""
    parts = cache.parts if isinstance(cache, JoinedCaches) else (cache,)
    return [len(pooling_names(poolings)) * part.dim for part in parts]


def gathered(
    cache: AnyCache,
    places: NDArray[np.int64],
    layers: Sequence[int] | None = None,
    poolings: Poolings = "mean",
    out: Float[Tensor, "rows layers width"] | None = None,
) -> Float[Tensor, "rows layers width"]:
    """Chosen rows in the order asked for, as `stored.gather` has them; of several caches zeros fill up the shorter.

    They are put into `out` where it is given.
    """
    if not isinstance(cache, JoinedCaches):
        return gather(cache, places, layers, poolings, out)
    count = len(cache.layers) if layers is None else len(layers)
    out = torch.empty(len(places), count, max(widths_of(cache, poolings))) if out is None else out
    out.zero_()
    start = 0
    for part, own in cache.runs(layers):
        within = out[:, start : start + len(own), : widths_of(cache, poolings)[part]]
        gather(cache.parts[part], cache.rows_of(part, places), own, poolings, within)
        start += len(own)
    return out


def layer_widths(cache: AnyCache, layers: Sequence[int], poolings: Poolings) -> list[int] | None:
    """How much of a joint row each layer fills; None where all rows are as wide as they stand there."""
    if not isinstance(cache, JoinedCaches):
        return None
    widths = widths_of(cache, poolings)
    return [widths[part] for part, own in cache.runs(layers) for _ in own]


def runs_of(cache: AnyCache, layers: Sequence[int], poolings: Poolings) -> list[tuple[slice, int]]:
    """The runs of `layers` that belong to one cache each: their slice in a row, and the width that its rows fill."""
    if not isinstance(cache, JoinedCaches):
        return [(slice(0, len(layers)), row_width(cache, poolings))]
    widths, found, start = widths_of(cache, poolings), [], 0
    for part, own in cache.runs(layers):
        found.append((slice(start, start + len(own)), widths[part]))
        start += len(own)
    return found


def last_of_each(cache: AnyCache) -> list[int]:
    """The last layer of each cache."""
    parts = cache.parts if isinstance(cache, JoinedCaches) else (cache,)
    return [end - 1 for end in accumulate(len(part.layers) for part in parts)]


@dataclass(frozen=True)
class JoinedRoom:
    """Memory for the same shards of several caches; what `stored.Room` does, with joint rows."""

    rooms: list[Room]
    widths: list[int]
    """Widths of the rows of each room."""
    shard_rows: int
    width: int
    """Width of a joint row."""

    def read(self, slot: int, shard: int) -> None:
        """Reads a shard of each cache to a place of the room. Raises `UserError` as `Cache.read` does."""
        for room in self.rooms:
            room.read(slot, shard)

    def announce(self, shard: int) -> None:
        """Has the system fetch what `read` will read, where it can."""
        for room in self.rooms:
            room.announce(shard)

    def starts(self, slots: Int[Tensor, " rows"], inside: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
        """Index of a row among all rows of the room, from its shard's place in the room and its place in the shard."""
        return slots * self.shard_rows + inside

    def rows(self, starts: Int[Tensor, " rows"]) -> Float[Tensor, "rows layers width"]:
        """Joint rows by what `starts` says of them, in memory of their own."""
        slots, inside = starts // self.shard_rows, starts % self.shard_rows
        out = torch.zeros(len(starts), sum(len(room.layers) for room in self.rooms), self.width)
        start = 0
        for room, width in zip(self.rooms, self.widths, strict=True):
            out[:, start : start + len(room.layers), :width] = room.rows(room.starts(slots, inside))
            start += len(room.layers)
        return out


def room_of(cache: AnyCache, layers: Sequence[int], poolings: Poolings, shards: int) -> Room | JoinedRoom:
    """Room for this many shards, with nothing in it."""
    if not isinstance(cache, JoinedCaches):
        return Room.of(cache, layers, poolings, shards)
    assert cache.shard_rows is not None
    runs, widths = list(cache.runs(layers)), widths_of(cache, poolings)
    rooms = [Room.of(cache.parts[part], own, poolings, shards) for part, own in runs]
    return JoinedRoom(rooms, [widths[part] for part, _ in runs], cache.shard_rows, max(widths))


def bytes_of_shard(cache: AnyCache, layers: Sequence[int], poolings: Poolings) -> int:
    """Bytes of a shard in a room, of every cache."""
    if not isinstance(cache, JoinedCaches):
        return shard_room(cache, len(layers), poolings)
    return sum(shard_room(cache.parts[part], len(own), poolings) for part, own in cache.runs(layers))


def _source(cache: Cache) -> Source:
    header = cache.header
    return Source(header.capture, header.model_name, header.model_parameters)


def _require_different(parts: Sequence[Cache]) -> None:
    seen: dict[str, Cache] = {}
    for cache in parts:
        earlier = seen.setdefault(cache.fingerprint, cache)
        if earlier is not cache:
            raise UserError(
                f"caches {earlier.path} and {cache.path}",
                expected="another model or another way to read it in each",
                found=f"the same capture in both ({cache.fingerprint[:16]})",
                next_step="name each cache once",
            )


def rows_in(first: TextIds, ids: TextIds, one: Cache, other: Cache) -> NDArray[np.int64]:
    """The row in the other cache of each text of the first; `UserError` where they do not hold the same texts."""
    rows = matched_rows(ids, first)
    missing = int((rows < 0).sum())
    further = len(ids) - (len(rows) - missing)
    if missing or further:
        raise UserError(
            f"caches {one.path} and {other.path}",
            expected="the same texts in both",
            found=f"{missing:,} texts of the first that the second lacks, and {further:,} of the second that the first "
            f"lacks, of {len(rows):,} and {len(ids):,}",
            next_step="run 'ilse extract' with both models on one table of texts, or 'ilse subset --texts' on the "
            "larger cache",
        )
    return rows
