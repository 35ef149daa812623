"""Rows of a cache as tensors: shards are held as they are stored, and rows that are asked for become float32.

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

_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}


@dataclass(frozen=True)
class Room:
    """Memory for some shards as they are stored: layer after layer, each with the rows of the shard side by side.

    Parameters
    ----------
    cache, layers, pooling
        Where the shards are read from, and which of their layers.
    values
        The chunks as the store reads them, of the stored type: a layer's rows, and four bytes behind them.
    scales
        Of int8.
    """

    cache: Cache
    layers: Sequence[int]
    pooling: str
    values: Tensor  # [shards, layers, chunk]; jaxtyping has no name for the storage types together
    scales: Float[Tensor, "shards layers dim"] | None

    @classmethod
    def of(cls, cache: Cache, layers: Sequence[int], pooling: str, shards: int) -> Room:
        """Room for so many shards, with nothing in it."""
        kind, values = cache.header.capture.storage_type, chunk_bytes(cache.header)
        return cls(
            cache,
            layers,
            pooling,
            torch.empty(shards, len(layers), values // value_bytes(kind), dtype=_TYPES[kind]),
            torch.empty(shards, len(layers), cache.dim) if kind == "int8" else None,
        )

    def read(self, slot: int, shard: int) -> None:
        """Reads a shard to a place of the room. Raises `UserError` as `Cache.read` does."""
        scales = self.cache.read_chunks(shard, self.values[slot].view(torch.uint8).numpy(), self.layers, self.pooling)
        if self.scales is not None:
            self.scales[slot] = torch.from_numpy(scales)

    def starts(self, slots: Int[Tensor, " rows"], inside: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
        """Which of all values a row begins at, by the place of its shard in the room and its own in the shard."""
        return slots * self.values[0].numel() + inside * self.cache.dim

    def rows(self, starts: Int[Tensor, " rows"]) -> Float[Tensor, "rows layers dim"]:
        """Rows by what `starts` says of them: what the store reads as float32, in memory of their own."""
        shards, layers, chunk = self.values.shape
        pieces = (starts[:, None] + torch.arange(0, layers * chunk, chunk)).flatten()
        # A window at every value, since the bytes behind a layer's rows are no multiple of a row's. `index_select`
        # copies a window at a time; indexing goes element by element.
        windows = self.values.as_strided((shards * layers * chunk - self.cache.dim + 1, self.cache.dim), (1, 1))
        values = windows.index_select(0, pieces).float().view(-1, layers, self.cache.dim)
        if self.scales is not None:
            values.mul_(self.scales.index_select(0, starts // self.values[0].numel()))
        return values


def shard_room(cache: Cache, layers: int) -> int:
    """Bytes of a shard in a `Room`."""
    scales = 4 * cache.dim if cache.header.capture.storage_type == "int8" else 0
    return layers * (chunk_bytes(cache.header) + scales)


def gather(
    cache: Cache, places: NDArray[np.int64], layers: Sequence[int] | None = None, pooling: str = "mean"
) -> Float[Tensor, "rows layers dim"]:
    """`Cache.gather` as a float32 tensor: chosen rows in the order asked for, each shard read at most once."""
    room = Room.of(cache, tuple(range(len(cache.layers))) if layers is None else layers, pooling, 1)
    out = torch.empty(len(places), len(room.layers), cache.dim)
    shard_of = places // cache.header.shard_rows
    for shard in np.unique(shard_of).tolist():
        room.read(0, shard)
        wanted = np.flatnonzero(shard_of == shard)
        inside = torch.from_numpy(places[wanted] % cache.header.shard_rows)
        out[torch.from_numpy(wanted)] = room.rows(room.starts(torch.zeros_like(inside), inside))
    return out
