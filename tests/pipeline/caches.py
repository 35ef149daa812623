"""Small caches with made-up rows, written straight through the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import store
from pipeline.store.chunks import chunk_bytes, rows_in


def header(texts: int = 10, shard_rows: int = 4, layers: int = 3, dim: int = 5, **capture: Any) -> store.CacheHeader:
    values: dict[str, Any] = {
        "model": {"sha256": "00"},
        "tokenizer": "11",
        "layers": tuple(f"block {i}" for i in range(layers)),
        "dim": dim,
        "max_tokens": 16,
        "template": "{text}",
        "compute_type": "float32",
        "storage_type": "float32",
        **capture,
    }
    return store.CacheHeader(store.CaptureSpec(**values), texts, shard_rows, "tiny", 100, {"torch": "2"})


def ids_of(count: int) -> list[str]:
    return [f"{i + 1:032x}" for i in range(count)]


def random_rows(head: store.CacheHeader, seed: int = 0) -> store.FloatRows:
    shape = (head.texts, len(head.capture.layers), head.capture.dim)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def poolings_of(head: store.CacheHeader, rows: store.FloatRows) -> dict[str, store.FloatRows]:
    """Other rows for every pooling, the given ones for the first."""
    return {pooling: rows * np.float32(1 + i) for i, pooling in enumerate(head.capture.poolings)}


def token_counts(texts: int) -> list[int]:
    return [1 + 7 * i % 5 for i in range(texts)]


def token_states(head: store.CacheHeader) -> list[store.FloatRows]:
    """[tokens, layers, dim] of each text."""
    random = np.random.default_rng(1)
    row = (len(head.capture.layers), head.capture.dim)
    return [random.normal(size=(count, *row)).astype(np.float32) for count in token_counts(head.texts)]


def shard_rows(
    head: store.CacheHeader, shard: int, rows: store.FloatRows, ids: Sequence[str] | None = None
) -> store.ShardRows:
    place = head.rows_of(shard)
    states = np.concatenate(token_states(head)[place]) if head.capture.token_states else None
    pooled = {pooling: values[place] for pooling, values in poolings_of(head, rows).items()}
    counts = token_counts(head.texts)[place]
    return store.ShardRows((ids or ids_of(head.texts))[place], counts, [n > 4 for n in counts], pooled, states)


def write(
    place: Path | str,
    head: store.CacheHeader,
    rows: store.FloatRows,
    order: Sequence[int] | None = None,
    ids: Sequence[str] | None = None,
) -> store.Cache:
    location, ids = store.Location(place), ids or ids_of(head.texts)
    store.create(location, head, ids)
    written = {
        shard: store.write_shard(location, head, shard, shard_rows(head, shard, rows, ids))
        for shard in (order if order is not None else range(head.shards))
    }
    store.finish(location, head, ids, (written[shard] for shard in sorted(written)))
    return store.open_cache(location)


def chunks_of(
    cache: store.Cache, shard: int, layers: Sequence[int] | None = None, pooling: str = "mean"
) -> store.FloatRows:
    """A shard by its chunks, decoded; `Cache.read` has zarr do the same."""
    out = np.empty((len(layers or cache.layers), chunk_bytes(cache.header)), np.uint8)
    scales = cache.read_chunks(shard, out, layers, pooling)
    place = cache.header.rows_of(shard)
    values = rows_in(out, cache.header)[:, : place.stop - place.start].swapaxes(0, 1)
    return store.StoredRows(values, cache.header.capture.storage_type, scales).decoded()


def files_of(place: Path | str) -> dict[str, bytes]:
    location = store.Location(place)
    return {name: location.get(name) for name, _ in sorted(location.list())}
