"""A cache that `ilse subset` made holds what a direct extraction would, and trains the same heads."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from ilse.cli import main
from ilse.core.errors import UserError
from pipeline import store
from pipeline.stages.inspect import describe
from pipeline.stages.subset import Selection, examples_of, subset
from tests.trainer.conftest import LAYERS, Made, write_cache, write_task
from trainer.config import TrainParams
from trainer.stages.train import train

Params = Callable[..., TrainParams]


def made_of(made: Made, name: str = "small.zarr", **selection: Any) -> store.Cache:
    out = made.cache.parent / name
    subset(str(made.cache), out, Selection(**selection))
    return store.open_cache(out)


def weights(params: TrainParams, head: str, cache: Path, examples: Path, out: Path) -> bytes:
    train(params, head, cache, examples, out / "models", out / "results")
    return (out / "models" / head / "seed-0" / "head.safetensors").read_bytes()


@pytest.mark.parametrize("storage_type", ["float32", "float16", "bfloat16", "int8"])
def test_it_holds_what_an_extraction_with_these_layers_would(made: Made, tmp_path: Path, storage_type: str) -> None:
    full = store.open_cache(made.cache)
    small = made_of(made, layers=("1..2",), storage_type=storage_type)
    capture = {"layers": LAYERS[1:3], "storage_type": storage_type}
    write_cache(tmp_path / "direct.zarr", full.text_ids(), full.read(slice(0, None), [1, 2]), **capture)
    direct = store.open_cache(tmp_path / "direct.zarr")
    assert small.fingerprint == direct.fingerprint
    assert small.text_ids() == direct.text_ids()
    np.testing.assert_array_equal(small.read(slice(0, None)), direct.read(slice(0, None)))
    np.testing.assert_array_equal(small.statistics()["std"], direct.statistics()["std"])
    assert list(store.verify(small.location)) == []


def test_it_says_where_it_comes_from(made: Made) -> None:
    small = made_of(made, layers=(0, -1), share=0.5)
    full = store.open_cache(made.cache)
    assert small.header.origin == {
        "subset_of": full.fingerprint,
        "storage_type": "float32",
        "texts": f"{small.header.texts} of {full.header.texts}",
        "layers": "2 of 4",
    }
    assert f"origin        subset_of {full.fingerprint}" in describe(small.path)
    assert "origin" not in describe(made.cache)
    assert "origin" not in full.header.attributes(complete=True)


def test_a_larger_share_holds_the_smaller_one(made: Made) -> None:
    some, more = (made_of(made, f"{share}.zarr", share=share) for share in (0.3, 0.6))
    full = store.open_cache(made.cache)
    assert set(some.text_ids()) < set(more.text_ids()) < set(full.text_ids())
    assert 0.15 < some.header.texts / full.header.texts < 0.45
    rows = [full.text_ids().index(text) for text in some.text_ids()]
    assert rows == sorted(rows)
    np.testing.assert_array_equal(some.read(slice(0, None)), full.gather(np.array(rows)))


@pytest.mark.parametrize("head", ["last", "weighted"])
def test_training_on_chosen_texts_equals_training_on_the_full_cache(
    made: Made, quick: Params, tmp_path: Path, head: str
) -> None:
    small = made_of(made, texts=made.examples)
    assert small.header.texts == len(made.table) < store.open_cache(made.cache).header.texts
    found = weights(quick(seeds=1), head, Path(small.path), made.examples, tmp_path / "small")
    assert found == weights(quick(seeds=1), head, made.cache, made.examples, tmp_path / "full")


def test_training_on_chosen_layers_equals_training_on_a_cache_of_these(
    made: Made, quick: Params, tmp_path: Path
) -> None:
    full = store.open_cache(made.cache)
    write_cache(
        tmp_path / "direct.zarr", full.text_ids(), full.read(slice(0, None), [0, 2]), layers=(LAYERS[0], LAYERS[2])
    )
    small = Path(made_of(made, layers=(0, 2)).path)
    found = weights(quick(seeds=1), "weighted", small, made.examples, tmp_path / "small")
    assert found == weights(quick(seeds=1), "weighted", tmp_path / "direct.zarr", made.examples, tmp_path / "full")


def test_a_shared_laptop_cache_by_the_command(made: Made, quick: Params, tmp_path: Path) -> None:
    small, fewer = tmp_path / "small.zarr", tmp_path / "fewer.parquet"
    words = ["subset", str(made.cache), str(small), "--layers", "0,2..3", "--share", "0.5", "--storage-type", "float16"]
    done = CliRunner().invoke(main, [*words, "--examples", str(made.examples), str(fewer)], catch_exceptions=False)
    assert done.exit_code == 0
    assert "texts, 3 of 4 layers, float16, 0.0 MB" in done.output
    held = set(store.open_cache(small).text_ids())
    kept = pl.read_parquet(fewer)
    assert kept.equals(made.table.filter(pl.col("text_id").is_in(list(held))))
    assert f"{len(kept)} of {len(made.table)} examples" in done.output
    weights(quick(seeds=1), "last", small, fewer, tmp_path)
    assert CliRunner().invoke(main, words).exit_code == 0, "an earlier subset is replaced"


@pytest.mark.parametrize(
    ("had", "selection", "message"),
    [
        ("float16", {"storage_type": "float32"}, "no finer than float16: float16, bfloat16, int8"),
        ("bfloat16", {"storage_type": "float16"}, "what bfloat16 rounded away does not come back"),
        ("int8", {"share": 0.5}, "all texts of a cache of int8"),
        ("float32", {"storage_type": "float8"}, "storage_type"),
        ("float32", {"layers": (4,)}, "--layers, 4"),
        ("float32", {"poolings": ("last",)}, "the pooling 'last'"),
        ("float32", {"share": 1.5}, "a number above 0 and up to 1"),
        ("float32", {"share": 1e-9}, "at least one text to keep"),
        ("float32", {"texts": Path("none.parquet")}, "a Parquet table with a column text_id"),
    ],
)
def test_what_is_refused(tmp_path: Path, had: str, selection: dict[str, Any], message: str) -> None:
    made = write_task(tmp_path, storage_type=had)
    with pytest.raises(UserError, match=message):
        made_of(made, **selection)
    assert not (tmp_path / "small.zarr").exists()


def test_no_other_folder_is_replaced(made: Made, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_cache(other / "cache.zarr", ["00" * 16], np.zeros((1, 4, 8), np.float32))
    for place in (made.cache, made.cache / "inside", other, other / "cache.zarr"):
        with pytest.raises(UserError, match="a new folder, or an earlier subset"):
            subset(str(made.cache), place, Selection())
    assert (other / "cache.zarr" / "zarr.json").is_file()


def test_examples_of_other_texts_are_refused(made: Made, tmp_path: Path) -> None:
    write_cache(tmp_path / "other.zarr", ["00" * 16], np.zeros((1, 4, 8), np.float32))
    with pytest.raises(UserError, match="at least one whose texts are in the smaller cache"):
        examples_of(tmp_path / "other.zarr", made.examples, tmp_path / "fewer.parquet")


def peak(folder: Path, texts: int) -> int:
    """Bytes that making a subset of so many texts takes at most."""
    dim = 1024  # beside which the ids, of which there is a list, count little
    values = np.zeros((texts, len(LAYERS), dim), np.float32)
    write_cache(folder / "c.zarr", [f"{i:032x}" for i in range(texts)], values, dim=dim)
    del values
    tracemalloc.start()
    subset(str(folder / "c.zarr"), folder / "small.zarr", Selection(layers=("0..2",), storage_type="float16"))
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_memory_does_not_grow_with_the_cache(tmp_path: Path) -> None:
    few, many = peak(tmp_path / "few", 64), peak(tmp_path / "many", 320)
    assert many < 1.3 * few < 320 * len(LAYERS) * 1024 * 4
