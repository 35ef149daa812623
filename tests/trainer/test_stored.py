"""Stored values as tensors: what the store itself decodes with NumPy, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.store import STORAGE_TYPES, open_cache, value_bytes
from tests.trainer.conftest import DIM, LAYERS, write_task
from trainer.data.poolings import pooling_names
from trainer.rows.stored import Room, gather, shard_room


@pytest.mark.parametrize("layers", [tuple(range(len(LAYERS))), (2, 0), (1,)])
@pytest.mark.parametrize("kind", STORAGE_TYPES)
def test_rows_of_several_shards_are_what_the_store_decodes(tmp_path: Path, kind: str, layers: tuple[int, ...]) -> None:
    cache = open_cache(write_task(tmp_path, storage_type=kind).cache)
    room, last = Room.of(cache, layers, "mean", 3), cache.header.shards - 1
    for slot, shard in enumerate((5, last, 0)):
        room.read(slot, shard)
    slots, inside = torch.tensor([2, 0, 1, 0, 2]), torch.tensor([15, 3, 1, 3, 0])
    found = room.rows(room.starts(slots, inside))
    assert found.dtype == torch.float32
    rows = np.array([15, 5 * 16 + 3, last * 16 + 1, 5 * 16 + 3, 0])
    np.testing.assert_array_equal(found.numpy(), cache.gather(rows, layers))
    found.zero_()  # they are a copy
    np.testing.assert_array_equal(room.rows(room.starts(slots, inside)).numpy(), cache.gather(rows, layers))


@pytest.mark.parametrize("poolings", ["mean", ("last", "mean")])
@pytest.mark.parametrize("kind", STORAGE_TYPES)
def test_the_room_of_a_shard_is_that_of_its_stored_values(
    tmp_path: Path, kind: str, poolings: str | tuple[str, ...]
) -> None:
    cache = open_cache(write_task(tmp_path, storage_type=kind, poolings=("mean", "max", "last")).cache)
    room, several = Room.of(cache, (0, 2), poolings, 3), len(pooling_names(poolings))
    scales = 0 if room.scales is None else room.scales.nbytes
    assert room.values.nbytes + scales == 3 * shard_room(cache, 2, poolings)
    assert room.values.nbytes == several * 3 * 2 * (16 * DIM * value_bytes(kind) + 4)


@pytest.mark.parametrize("poolings", ["mean", "last", ("last", "mean"), ("mean", "max", "last")])
@pytest.mark.parametrize("kind", STORAGE_TYPES)
def test_gathered_rows_are_the_stores(tmp_path: Path, kind: str, poolings: str | tuple[str, ...]) -> None:
    cache = open_cache(write_task(tmp_path, storage_type=kind, poolings=("mean", "max", "last")).cache)
    places = np.random.default_rng(0).permutation(cache.header.texts)[:50]
    found = gather(cache, places, (3, 1), poolings)
    assert found.dtype == torch.float32
    each = [cache.gather(places, (3, 1), name) for name in pooling_names(poolings)]
    np.testing.assert_array_equal(found.numpy(), np.concatenate(each, axis=-1))
