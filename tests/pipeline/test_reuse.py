"""What an earlier cache already holds is not computed again, and what is damaged in it is."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pipeline.stages.extract as stage
from ilse.core.errors import UserError
from pipeline import store
from pipeline.stages.extract import extract
from tests.pipeline.conftest import sentence
from tests.pipeline.extractions import TEXTS, files_of, params_for, read_all, run


@pytest.mark.parametrize("storage_type", ["float32", "bfloat16", "float16"])
def test_added_texts_are_the_only_ones_computed(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], storage_type: str
) -> None:
    params = params_for(llama, storage_type=storage_type)
    run(params, texts_table(TEXTS), tmp_path)
    old = read_all(tmp_path / "cache.zarr")
    figures = run(params, texts_table(TEXTS + 20), tmp_path)
    assert (figures["texts_computed"], figures["texts_reused"]) == (20, TEXTS)
    said = capsys.readouterr().err
    assert "20 texts computed, 50 reused" in said
    assert "; 20 texts to compute, an earlier cache holds the others" in said
    np.testing.assert_array_equal(read_all(tmp_path / "cache.zarr")[:TEXTS], old)
    run(params, texts_table(TEXTS + 20), tmp_path / "afresh")
    tolerance = 1e-5 if storage_type == "float32" else 0.02
    afresh = read_all(tmp_path / "afresh" / "cache.zarr")
    np.testing.assert_allclose(read_all(tmp_path / "cache.zarr"), afresh, rtol=tolerance, atol=tolerance)


def test_an_output_that_dvc_has_deleted_still_gives_its_rows(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path
) -> None:
    run(params_for(llama), texts_table(TEXTS), tmp_path)
    # The cache of a control, made meanwhile with the same scratch folder, does not push it out.
    extract(params_for(llama, template="news {text}"), texts_table(9), tmp_path / "other.zarr", tmp_path / "scratch")
    shutil.rmtree(tmp_path / "cache.zarr")
    assert run(params_for(llama), texts_table(TEXTS + 3), tmp_path)["texts_computed"] == 3


def test_rows_stay_where_the_tables_order_changes(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path
) -> None:
    texts = [f"{sentence(i)} {' '.join(str(i))}" for i in range(TEXTS)]
    run(params_for(llama), texts_table(TEXTS), tmp_path)
    old = read_all(tmp_path / "cache.zarr")
    figures = run(params_for(llama), texts_table(0, [*texts[::-1], "a new film"]), tmp_path)
    assert figures["texts_computed"] == 1
    np.testing.assert_array_equal(read_all(tmp_path / "cache.zarr")[:TEXTS], old)


def test_where_nothing_is_new_nothing_is_measured(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(params_for(llama), texts_table(TEXTS), tmp_path)
    capsys.readouterr()
    assert run(params_for(llama), texts_table(TEXTS - 5), tmp_path)["texts_computed"] == 0
    said = capsys.readouterr().err
    assert "an earlier cache holds all 45 texts: nothing runs through the model" in said
    assert "calibration" not in said


def test_a_named_donor_gives_rows_and_another_capture_does_not(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path
) -> None:
    run(params_for(llama), texts_table(TEXTS), tmp_path / "donor")
    donors = [str(tmp_path / "donor" / "cache.zarr")]
    assert run(params_for(llama, donors=donors), texts_table(TEXTS + 5), tmp_path / "a")["texts_computed"] == 5
    other = params_for(llama, donors=donors, template="news {text}")
    assert run(other, texts_table(TEXTS), tmp_path / "b")["texts_computed"] == TEXTS
    with pytest.raises(UserError, match="nothing there"):
        run(params_for(llama, donors=[str(tmp_path / "none")]), texts_table(TEXTS), tmp_path / "c")


def test_an_int8_donor_gives_whole_shards_alone(llama: Path, texts_table: Callable[..., Path], tmp_path: Path) -> None:
    params = params_for(llama, storage_type="int8")
    run(params, texts_table(TEXTS), tmp_path)
    before = files_of(tmp_path / "cache.zarr")
    figures = run(params, texts_table(TEXTS + 8), tmp_path)
    assert figures["texts_computed"] == TEXTS + 8 - TEXTS // 8 * 8
    after = files_of(tmp_path / "cache.zarr")
    shards = [name for name in before if "/c/" in name and name.startswith(("pooled", "scale"))]
    assert len([name for name in shards if before[name] == after[name]]) == 2 * (TEXTS // 8)


def test_a_finished_cache_is_left_alone(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = texts_table(TEXTS)
    run(params_for(llama), texts, tmp_path)
    inode = (tmp_path / "cache.zarr").stat().st_ino
    figures = run(params_for(llama), texts, tmp_path)
    assert (figures["texts_computed"], figures["texts_reused"]) == (0, TEXTS)
    assert "nothing to compute" in capsys.readouterr().err
    assert (tmp_path / "cache.zarr").stat().st_ino == inode


@pytest.fixture(params=["a folder", "an object store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> store.Location:
    """Where a cache is made."""
    if request.param == "a folder":
        return store.Location(tmp_path / "cache.zarr")
    bucket: store.Location = request.getfixturevalue("bucket")
    return bucket.child("cache.zarr")


@pytest.mark.parametrize("damaged", [None, "pooled/mean/c/1/0/0", "pooled/mean/zarr.json", "SHA256SUMS"])
def test_a_finished_cache_is_the_same_after_an_upgrade(
    llama: Path,
    texts_table: Callable[..., Path],
    tmp_path: Path,
    place: store.Location,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damaged: str | None,
) -> None:
    """Its capture and texts decide; who made it is a note, and stays one where it is mended."""
    texts, scratch = texts_table(TEXTS), tmp_path / "scratch"
    extract(params_for(llama), texts, str(place), scratch)
    shutil.rmtree(scratch, ignore_errors=True)
    whole = {name: place.get(name) for name, _ in place.list()}
    prepare = stage.prepare_worker
    notes = {"versions": {"torch": "9.0", "new": "1"}, "name": "another folder's name"}
    monkeypatch.setattr(stage, "prepare_worker", lambda *given: replace(prepare(*given), **notes))
    if damaged:
        place.put(damaged, b"~" + whole[damaged][1:])
    capsys.readouterr()
    figures = extract(params_for(llama), texts, str(place), scratch)
    assert figures["texts_computed"] == (8 if damaged == "pooled/mean/c/1/0/0" else 0)
    assert {name: place.get(name) for name, _ in place.list()} == whole
    if not damaged:
        said = capsys.readouterr().err
        assert "nothing to compute" in said
        assert "(now 9.0)" in said


def test_another_cache_in_an_object_store_is_not_overwritten(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path, bucket: store.Location
) -> None:
    texts, url, scratch = texts_table(TEXTS), str(bucket.child("cache.zarr")), tmp_path / "scratch"
    extract(params_for(llama), texts, url, scratch)
    for changes, count, found in (
        ({}, TEXTS + 1, "51 texts in shards of 8(.|\n)*50 texts in shards of 8"),
        ({"template": "news {text}"}, TEXTS, "capture"),
        ({"shard_rows": 16}, TEXTS, "50 texts in shards of 16(.|\n)*50 texts in shards of 8"),
    ):
        with pytest.raises(UserError, match=r"another one, finished(.|\n)*name another URL with --out") as caught:
            extract(params_for(llama, **changes), texts_table(count), url, scratch)
        assert re.search(found, str(caught.value))


@pytest.mark.parametrize("storage_type", ["float16", "int8"])
@pytest.mark.parametrize(
    "victim",
    [
        "pooled/mean/c/1/0/0",
        "pooled/mean/zarr.json",
        "zarr.json",
        "text_id/c/0/0",
        "token_count/c/0",
        "statistics/mean/c/0/0",
        "SHA256SUMS",
    ],
)
def test_damage_in_a_finished_cache_is_mended_by_computing_the_damaged_shards_alone(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path, victim: str, storage_type: str
) -> None:
    texts, params = texts_table(TEXTS), params_for(llama, storage_type=storage_type)
    run(params, texts, tmp_path)
    shutil.rmtree(tmp_path / "scratch")  # or the second copy of the cache would give the rows
    whole = files_of(tmp_path / "cache.zarr")
    file = tmp_path / "cache.zarr" / victim
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
    assert files_of(tmp_path / "cache.zarr") != whole
    figures = run(params, texts, tmp_path)
    assert figures["texts_computed"] == (8 if victim == "pooled/mean/c/1/0/0" else 0)
    assert files_of(tmp_path / "cache.zarr") == whole
