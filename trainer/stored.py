"""Rows of a cache as tensors: stored values widened by torch, which takes a fifth of NumPy's time for float16."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from pipeline.store import Cache, StoredRows


def compact(stored: StoredRows) -> Tensor:
    """The values in the smallest type that needs no scales, [rows, layers, dim]; `widened` makes them float32.

    That is the type they are stored in, without a copy, but float32 for int8.
    """
    values = torch.from_numpy(stored.values.view("<i2") if stored.kind == "bfloat16" else stored.values)
    if stored.kind == "bfloat16":
        return values.view(torch.bfloat16)
    return values if stored.scales is None else values * torch.from_numpy(stored.scales)


def read_into(place: Tensor, cache: Cache, shard: int, layers: Sequence[int], pooling: str) -> None:
    """Reads a shard to `place`, [rows, layers, dim] of `compact_type`."""
    if cache.header.capture.storage_type == "int8":
        place.copy_(compact(cache.read_shard(shard, layers, pooling)))
        return
    # NumPy has no bfloat16; the cache holds its bits.
    values = place.view(torch.int16).numpy().view("<u2") if place.dtype == torch.bfloat16 else place.numpy()
    cache.read_shard(shard, layers, pooling, out=values)


def widened(values: Float[Tensor, "rows layers dim"]) -> Float[Tensor, "rows layers dim"]:
    """What `pipeline.store` reads as float32; the same tensor where it is that already."""
    return values.float()


def compact_type(cache: Cache) -> torch.dtype:
    """The type of `compact`."""
    types = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    return types.get(cache.header.capture.storage_type, torch.float32)


def gather(
    cache: Cache, places: NDArray[np.int64], layers: Sequence[int] | None = None, pooling: str = "mean"
) -> Float[Tensor, "rows layers dim"]:
    """`Cache.gather` as a float32 tensor: chosen rows in the order asked for, each shard read at most once."""
    out = torch.empty(len(places), len(cache.layers) if layers is None else len(layers), cache.dim)
    shard_of = places // cache.header.shard_rows
    for shard in np.unique(shard_of).tolist():
        wanted = np.flatnonzero(shard_of == shard)
        inside = torch.from_numpy(places[wanted] - cache.header.rows_of(shard).start)
        out[torch.from_numpy(wanted)] = widened(compact(cache.read_shard(shard, layers, pooling))[inside])
    return out
