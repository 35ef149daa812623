"""The format against NumPy as the model, and what a reader refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from ilse.errors import UserError
from pipeline import store


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


def write(path: Path, head: store.CacheHeader, values: store.FloatRows, order: list[int] | None = None) -> store.Cache:
    store.create(path, head, ids_of(head.texts))
    records = []
    for shard in order if order is not None else range(head.shards):
        place = head.rows_of(shard)
        count = place.stop - place.start
        records.append(store.write_shard(path, shard, {"mean": values[place]}, [3] * count, [False] * count))
    store.finish(path, records)
    return store.open_cache(path)


def random_rows(head: store.CacheHeader, seed: int = 0) -> store.FloatRows:
    shape = (head.texts, len(head.capture.layers), head.capture.dim)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(
    texts=st.integers(1, 30),
    shard_rows=st.integers(1, 12),
    layers=st.integers(2, 5),
    dim=st.integers(1, 9),
    storage_type=st.sampled_from(list(store.STORAGE_TYPES)),
    data=st.data(),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    texts: int,
    shard_rows: int,
    layers: int,
    dim: int,
    storage_type: str,
    data: st.DataObject,
) -> None:
    head = header(texts, shard_rows, layers, dim, storage_type=storage_type)
    rows = random_rows(head)
    order = data.draw(st.permutations(range(head.shards)))
    cache = write(tmp_path_factory.mktemp("cache") / "c.zarr", head, rows, order)
    stored = rows.astype(store.STORAGE_TYPES[storage_type]).astype(np.float32)

    assert cache.text_ids() == ids_of(texts)
    np.testing.assert_array_equal(np.concatenate([cache.read(place) for place in cache.shards()]), stored)
    chosen = np.array(data.draw(st.lists(st.integers(0, texts - 1), max_size=20)), np.int64)
    some = data.draw(st.lists(st.integers(0, layers - 1), min_size=1, max_size=layers))
    np.testing.assert_array_equal(cache.gather(chosen), stored[chosen])
    np.testing.assert_array_equal(cache.gather(chosen, some), stored[chosen][:, some])

    statistics = cache.statistics()
    wide = stored.astype(np.float64)
    np.testing.assert_allclose(statistics["norm"], np.linalg.norm(wide, axis=2).mean(0))
    np.testing.assert_allclose(statistics["mean"], wide.mean((0, 2)), atol=1e-12)
    np.testing.assert_allclose(statistics["std"], wide.std((0, 2)), atol=1e-9)
    np.testing.assert_allclose(statistics["max_abs"], np.abs(wide).max((0, 2)))


def files_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_the_order_of_writing_does_not_show_in_the_bytes(tmp_path: Path) -> None:
    head = header()
    rows = random_rows(head)
    write(tmp_path / "a", head, rows, [0, 1, 2])
    write(tmp_path / "b", head, rows, [2, 0, 1])
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_appending_texts_leaves_full_shards_as_they_were(tmp_path: Path) -> None:
    longer = header(texts=15)
    rows = random_rows(longer)
    write(tmp_path / "a", header(texts=10), rows[:10])
    write(tmp_path / "b", longer, rows)
    before, after = files_of(tmp_path / "a"), files_of(tmp_path / "b")
    shards = [name for name in before if name.startswith("pooled/mean/c/")]
    same = [name for name in shards if before[name] == after[name]]
    assert len(shards) == 3
    assert len(same) == 2


def test_a_single_layer_reads_a_fraction_of_the_bytes(tmp_path: Path) -> None:
    head = header(texts=8, shard_rows=8, layers=4, dim=64)
    write(tmp_path / "c", head, random_rows(head))
    array = zarr.open_array(tmp_path / "c" / "pooled" / "mean", mode="r")
    assert array.shards == (8, 4, 64)
    assert array.chunks == (8, 1, 64)


def test_shards_are_few_and_large(tmp_path: Path) -> None:
    head = header(texts=100, shard_rows=40)
    write(tmp_path / "c", head, random_rows(head))
    assert len([name for name in files_of(tmp_path / "c") if "/c/" in name]) == 3 + 5


@pytest.mark.parametrize("value", [70_000.0, -70_000.0])
def test_a_value_that_float16_cannot_hold_is_named(tmp_path: Path, value: float) -> None:
    head = header(storage_type="float16")
    rows = random_rows(head)
    rows[6, 1, 4] = value
    with pytest.raises(UserError) as caught:
        write(tmp_path / "c", head, rows)
    text = str(caught.value)
    assert f"layer 'block 1', text {ids_of(10)[6]}, dimension 4" in text
    assert "65504" in text
    assert f"{value:g}" in text
    assert "extract.storage_type to float32" in text


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    head = header()
    rows = random_rows(head)
    rows[0, 2, 0] = value
    with pytest.raises(UserError, match=rf"layer 'block 2'(.|\n)*found: +{value:g}(.|\n)*compute_type to float32"):
        write(tmp_path / "c", head, rows)


def test_an_unfinished_cache_is_refused(tmp_path: Path) -> None:
    head = header()
    store.create(tmp_path / "c", head, ids_of(10))
    with pytest.raises(UserError, match=r"expected: a finished cache(.|\n)*unfinished(.|\n)*goes on where it stopped"):
        store.open_cache(tmp_path / "c")
    place = head.rows_of(0)
    record = store.write_shard(tmp_path / "c", 0, {"mean": random_rows(head)[place]}, [1] * 4, [False] * 4)
    with pytest.raises(UserError, match=r"a record of each of its 3 shards(.|\n)*1 records"):
        store.finish(tmp_path / "c", [record])


def test_files_alone_do_not_make_a_cache_complete(tmp_path: Path) -> None:
    write(tmp_path / "c", header(), random_rows(header()))
    edit_attributes(tmp_path / "c", complete=False)
    with pytest.raises(UserError, match="record says that it is unfinished"):
        store.open_cache(tmp_path / "c")


def edit_attributes(path: Path, **changes: Any) -> None:
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"][store.ATTRIBUTE].update(changes)
    (path / "zarr.json").write_text(json.dumps(document))


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "c", header(), random_rows(header()))
    edit_attributes(tmp_path / "c", format_version=2)
    with pytest.raises(UserError, match=r"cache format version 1(.|\n)*version 2(.|\n)*extract again"):
        store.open_cache(tmp_path / "c")


def test_another_capture_than_expected_is_refused(tmp_path: Path) -> None:
    cache = write(tmp_path / "c", header(), random_rows(header()))
    other = header(template="news: {text}").capture.fingerprint
    with pytest.raises(UserError, match=rf"capture {other[:16]}(.|\n)*capture {cache.fingerprint[:16]} \(tiny\)"):
        store.open_cache(tmp_path / "c", other)


def test_an_edited_spec_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "c", header(), random_rows(header()))
    document = json.loads((tmp_path / "c" / "zarr.json").read_text())
    document["attributes"][store.ATTRIBUTE]["capture"]["max_tokens"] = 99
    (tmp_path / "c" / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="does not have the fingerprint beside it"):
        store.open_cache(tmp_path / "c")


def test_no_cache_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found: +nothing there(.|\n)*ilse extract"):
        store.open_cache(tmp_path / "none")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="no Zarr group"):
        store.open_cache(tmp_path / "folder")
    zarr.create_group(tmp_path / "other")
    with pytest.raises(UserError, match="attribute 'ilse_cache'"):
        store.open_cache(tmp_path / "other")


def test_a_missing_shard_never_reads_as_numbers(tmp_path: Path) -> None:
    cache = write(tmp_path / "c", header(), random_rows(header()))
    (tmp_path / "c/pooled/mean/c/1/0/0").unlink()
    with pytest.raises(UserError, match=r"rows 4 to 8(.|\n)*missing"):
        cache.read(slice(4, 8))
    with pytest.raises(UserError, match="missing"):
        cache.gather(np.array([0, 5]), [1])


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_shard_is_noticed_when_read_and_when_verified(tmp_path: Path, damage: str) -> None:
    head = header()
    path = tmp_path / "c"
    store.create(path, head, ids_of(10))
    rows = random_rows(head)
    records = [
        store.write_shard(path, s, {"mean": rows[head.rows_of(s)]}, [1] * n, [False] * n)
        for s, n in enumerate((4, 4, 2))
    ]
    store.finish(path, records)
    shard = path / "pooled/mean/c/1/0/0"
    content = bytearray(shard.read_bytes())
    if damage == "flip":
        content[7] ^= 1
    shard.write_bytes(content if damage == "flip" else content[:-20])
    assert [store.verify_shard(path, record) for record in records] == [True, False, True]
    with pytest.raises(UserError, match="rows 4 to 8"):
        store.open_cache(path).read(slice(4, 8))


def test_every_part_of_the_capture_is_in_the_fingerprint() -> None:
    base = header().capture
    changed: dict[str, Any] = {
        "model": {"sha256": "22"},
        "tokenizer": "33",
        "layers": ("a", "b"),
        "dim": 6,
        "max_tokens": 17,
        "template": "x {text}",
        "compute_type": "bfloat16",
        "storage_type": "float16",
    }
    prints = {dataclasses.replace(base, **{name: value}).fingerprint for name, value in changed.items()}
    assert len(prints | {base.fingerprint}) == len(changed) + 1
    assert {field.name for field in dataclasses.fields(base)} == {*changed, "poolings"}


def test_versions_and_names_are_outside_the_fingerprint() -> None:
    other = dataclasses.replace(header(), versions={"torch": "3"}, model_name="renamed")
    assert other.capture.fingerprint == header().capture.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"storage_type": "int3"}, "storage_type"),
        ({"layers": ("one",)}, "layers"),
        ({"dim": 0}, "dim"),
        ({"template": "no place"}, "template"),
        ({"poolings": ("median",)}, "poolings"),
    ],
)
def test_a_spec_cannot_exist_invalid(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"cache specification, {message}"):
        dataclasses.replace(header().capture, **change)
