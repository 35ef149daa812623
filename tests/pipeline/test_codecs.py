"""Reading by zarrs is reading by zarr: the same values, and the same refusal of damage."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import zarr

import pipeline.store.codecs
from ilse.errors import UserError
from pipeline.store import STORAGE_TYPES, Cache, open_cache
from tests.trainer.conftest import write_task

pytest.importorskip("zarrs", reason="needs the extra 'fast'")


def opened(path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool) -> Cache:
    monkeypatch.setattr(pipeline.store.codecs, "find_spec", importlib.util.find_spec if fast else lambda _name: None)
    cache = open_cache(path)
    pipelines = [
        type(cache._array("pooled/mean", whole).async_array.codec_pipeline).__name__ for whole in (True, False)
    ]
    assert [name == "ZarrsCodecPipeline" for name in pipelines] == [fast, False]
    return cache


@pytest.mark.parametrize("kind", STORAGE_TYPES)
def test_the_same_values(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_task(tmp_path, storage_type=kind)
    for layers in (None, (2, 0)):
        fast, slow = (opened(made.cache, monkeypatch, way) for way in (True, False))
        for shard, rows in enumerate(slow.shards()):
            np.testing.assert_array_equal(fast.read_shard(shard, layers).decoded(), slow.read(rows, layers))
    assert zarr.config.get("codec_pipeline.path") != "zarrs.ZarrsCodecPipeline", "others' arrays are left alone"


@pytest.mark.parametrize("layers", [None, (2,)])
@pytest.mark.parametrize("fast", [True, False])
def test_damage_is_refused(
    tmp_path: Path, fast: bool, layers: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every bit of a shard flipped once, and files that are cut, empty or gone: the recorded values or an error."""
    cache = opened(write_task(tmp_path, storage_type="float16").cache, monkeypatch, fast)
    file = next(path for path in (tmp_path / "cache.zarr/pooled/mean/c/1").rglob("*") if path.is_file())
    whole, expected = file.read_bytes(), cache.read_shard(1, layers).values
    refused = 0
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        try:
            np.testing.assert_array_equal(cache.read_shard(1, layers).values, expected)
        except UserError:
            refused += 1
    # All of it is read, or one layer of four and the index.
    assert refused == len(whole) if layers is None else refused > len(whole) / 4
    for damage in (whole[:-5], b""):
        file.write_bytes(damage)
        with pytest.raises(UserError, match=r"rows 16 to 32(.|\n)*ilse verify"):
            cache.read_shard(1, layers)
    file.unlink()
    with pytest.raises(UserError, match="a chunk that is missing"):
        cache.read_shard(1, layers)
    file.write_bytes(whole)
    np.testing.assert_array_equal(cache.read_shard(1, layers).values, expected)
