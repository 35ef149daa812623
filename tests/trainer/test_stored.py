"""Stored values as tensors: what the store itself decodes with NumPy, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.store import STORAGE_TYPES, open_cache
from tests.trainer.conftest import LAYERS, write_task
from trainer.stored import compact, compact_type, gather, widened


@pytest.mark.parametrize("layers", [None, (2, 0), (1,)])
@pytest.mark.parametrize("kind", STORAGE_TYPES)
def test_they_are_what_the_store_decodes(tmp_path: Path, kind: str, layers: tuple[int, ...] | None) -> None:
    cache = open_cache(write_task(tmp_path, storage_type=kind).cache)
    for shard, rows in enumerate(cache.shards()):
        values = compact(cache.read_shard(shard, layers))
        assert values.dtype == compact_type(cache)
        assert values.shape[1] == len(layers or LAYERS)
        np.testing.assert_array_equal(widened(values).numpy(), cache.read(rows, layers))


@pytest.mark.parametrize("kind", STORAGE_TYPES)
def test_gathered_rows_are_the_stores(tmp_path: Path, kind: str) -> None:
    cache = open_cache(write_task(tmp_path, storage_type=kind).cache)
    places = np.random.default_rng(0).permutation(cache.header.texts)[:50]
    found = gather(cache, places, (3, 1))
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), cache.gather(places, (3, 1)))
