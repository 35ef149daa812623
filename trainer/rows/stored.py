"""Rows of a cache as tensors: shards stay in memory as they are stored, and requested rows become float32.

Torch widens float16 in a fifth of NumPy's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from pipeline.store import Cache, chunk_bytes, value_bytes
from trainer.data.poolings import Poolings, pooling_names, row_width

TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}
"""Storage type → what torch calls it."""


@dataclass(frozen=True)
class Room:
    """Memory for some shards as they are stored: a pooling's layers one after the other, each with the shard's rows.

    Parameters
    ----------
    cache, layers, poolings
        Where the shards are read from, and what of them: a row has the poolings side by side.
    values
        The chunks as the store reads them, of the stored type: a layer's rows, and four bytes after them.
    scales
        Of int8.
    """

    cache: Cache
    layers: Sequence[int]
    poolings: tuple[str, ...]
    values: Tensor  # [shards, poolings, layers, chunk]; jaxtyping has no name for the storage types together
    scales: Float[Tensor, "shards layers width"] | None

    @classmethod
    def of(cls, cache: Cache, layers: Sequence[int], poolings: Poolings, shards: int) -> Room:
        """Room for this many shards, with nothing in it."""
        kind, values, names = cache.header.capture.storage_type, chunk_bytes(cache.header), pooling_names(poolings)
        return cls(
            cache,
            layers,
            names,
            torch.empty(shards, len(names), len(layers), values // value_bytes(kind), dtype=TYPES[kind]),
            torch.empty(shards, len(layers), row_width(cache, names)) if kind == "int8" else None,
        )

    def read(self, slot: int, shard: int) -> None:
        """Reads a shard to a place of the room. Raises `UserError` as `Cache.read` does."""
        for place, name in enumerate(self.poolings):
            out = self.values[slot, place].view(torch.uint8).numpy()
            scales = self.cache.read_chunks(shard, out, self.layers, name)
            if self.scales is not None:
                self.scales[slot].unflatten(1, (len(self.poolings), -1))[:, place] = torch.from_numpy(scales)

    def announce(self, shard: int) -> None:
        """Has the system fetch what `read` will read, where it can."""
        for name in self.poolings:
            self.cache.announce(shard, self.layers, name)

    def starts(self, slots: Int[Tensor, " rows"], inside: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
        """First value of each row, from its shard's place in the room and its place in the shard."""
        return slots * self.values[0].numel() + inside * self.cache.dim

    def rows(self, starts: Int[Tensor, " rows"]) -> Float[Tensor, "rows layers width"]:
        """Rows by what `starts` says of them: what the store reads as float32, in memory of their own."""
        _, poolings, layers, chunk = self.values.shape
        places = torch.arange(0, poolings * layers * chunk, chunk).view(poolings, layers).T.flatten()
        pieces = (starts[:, None] + places).flatten()
        # A window at every value, since the bytes behind a layer's rows are no multiple of a row's. `index_select`
        # copies a window at a time; indexing goes element by element.
        windows = self.values.as_strided((self.values.numel() - self.cache.dim + 1, self.cache.dim), (1, 1))
        values = windows.index_select(0, pieces).float().view(-1, layers, poolings * self.cache.dim)
        if self.scales is not None:
            values.mul_(self.scales.index_select(0, starts // self.values[0].numel()))
        return values


def shard_room(cache: Cache, layers: int, poolings: Poolings) -> int:
    """Bytes of a shard in a `Room`."""
    scales = 4 * cache.dim if cache.header.capture.storage_type == "int8" else 0
    return len(pooling_names(poolings)) * layers * (chunk_bytes(cache.header) + scales)


def gather(
    cache: Cache,
    places: NDArray[np.int64],
    layers: Sequence[int] | None = None,
    poolings: Poolings = "mean",
    out: Float[Tensor, "rows layers width"] | None = None,
) -> Float[Tensor, "rows layers width"]:
    """`Cache.gather` as a float32 tensor: chosen rows in the order asked for, each shard read at most once.

    Of several poolings the rows of each are joined along the width. They are put into `out` where it is given.
    """
    room = Room.of(cache, tuple(range(len(cache.layers))) if layers is None else layers, poolings, 1)
    out = torch.empty(len(places), len(room.layers), row_width(cache, poolings)) if out is None else out
    shard_of = places // cache.header.shard_rows
    for shard in np.unique(shard_of).tolist():
        room.read(0, shard)
        wanted = np.flatnonzero(shard_of == shard)
        inside = torch.from_numpy(places[wanted] % cache.header.shard_rows)
        out[torch.from_numpy(wanted)] = room.rows(room.starts(torch.zeros_like(inside), inside))
    return out
