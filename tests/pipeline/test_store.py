"""The format against NumPy as the model, and what a reader refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from ilse.core.errors import UserError
from pipeline import store
from tests.pipeline.caches import (
    files_of,
    header,
    ids_of,
    random_rows,
    shard_rows,
    token_counts,
    token_states,
    write,
)

ALL = {"poolings": ("mean", "last"), "token_states": True}


def rounded(values: store.FloatRows, kind: str, shard_rows: int) -> store.FloatRows:
    """What a cache of this type holds of `values`, by NumPy and torch alone."""
    if kind == "bfloat16":
        return torch.from_numpy(values).bfloat16().float().numpy()
    if kind == "int8":
        shards = [values[start : start + shard_rows] for start in range(0, len(values), shard_rows)]
        return np.concatenate([by_steps(shard) for shard in shards])
    return values.astype(kind).astype(np.float32)


def by_steps(values: store.FloatRows) -> store.FloatRows:
    """127 steps to the largest magnitude; a step is rounded up to 16 bits."""
    bits = (np.abs(values).max(0) / np.float32(127)).view(np.uint32)
    steps = ((bits.astype(np.uint64) + 255) // 256 * 256).astype(np.uint32).view(np.float32)
    return np.rint(values / steps).astype(np.float32) * steps


@settings(max_examples=25, deadline=None)
@given(
    texts=st.integers(1, 30),
    shard_rows=st.integers(1, 12),
    layers=st.integers(1, 5),
    dim=st.integers(1, 9),
    storage_type=st.sampled_from(list(store.STORAGE_TYPES)),
    poolings=st.lists(st.sampled_from(store.POOLINGS), min_size=1, max_size=3, unique=True),
    data=st.data(),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    texts: int,
    shard_rows: int,
    layers: int,
    dim: int,
    storage_type: str,
    poolings: list[str],
    data: st.DataObject,
) -> None:
    head = header(texts, shard_rows, layers, dim, storage_type=storage_type, poolings=tuple(poolings))
    rows = random_rows(head)
    order = data.draw(st.permutations(range(head.shards)))
    cache = write(tmp_path_factory.mktemp("cache") / "c.zarr", head, rows, order)
    assert cache.header == head
    assert cache.text_ids() == ids_of(texts)
    assert cache.token_counts().tolist() == token_counts(texts)
    assert cache.truncated().tolist() == [n > 4 for n in token_counts(texts)]
    for factor, pooling in enumerate(poolings, 1):
        stored = rounded(rows * np.float32(factor), storage_type, shard_rows)
        check_reads(cache, pooling, stored, data)
        check_statistics(cache.statistics(pooling), stored)


def check_reads(cache: store.Cache, pooling: str, stored: store.FloatRows, data: st.DataObject) -> None:
    texts, layers, _ = stored.shape
    whole = np.concatenate([cache.read(place, pooling=pooling) for place in cache.shards()])
    np.testing.assert_array_equal(whole, stored)
    start, stop = sorted(data.draw(st.lists(st.integers(0, texts), min_size=2, max_size=2)))
    some = data.draw(st.lists(st.integers(-layers, layers - 1), min_size=1, max_size=layers))
    np.testing.assert_array_equal(cache.read(slice(start, stop), pooling=pooling), stored[start:stop])
    np.testing.assert_array_equal(cache.read(slice(start, stop), some, pooling), stored[start:stop][:, some])
    chosen = np.array(data.draw(st.lists(st.integers(0, texts - 1), max_size=20)), np.int64)
    np.testing.assert_array_equal(cache.gather(chosen, pooling=pooling), stored[chosen])
    np.testing.assert_array_equal(cache.gather(chosen, some, pooling), stored[chosen][:, some])


def check_statistics(statistics: dict[str, Any], stored: store.FloatRows) -> None:
    wide = stored.astype(np.float64)
    np.testing.assert_allclose(statistics["norm"], np.linalg.norm(wide, axis=2).mean(0))
    np.testing.assert_allclose(statistics["mean"], wide.mean((0, 2)), atol=1e-12)
    np.testing.assert_allclose(statistics["std"], wide.std((0, 2)), atol=1e-7)
    np.testing.assert_allclose(statistics["max_abs"], np.abs(wide).max((0, 2)))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32"])
def test_token_states_are_each_texts_own(tmp_path: Path, kind: str) -> None:
    head = header(texts=10, storage_type=kind, token_states=True)
    cache = write(tmp_path / "c", head, random_rows(head), [2, 0, 1])
    for text in [3, 4, 9, 0, 8, 1, 2, 5, 6, 7]:
        expected = rounded(token_states(head)[text], kind, 4)
        np.testing.assert_array_equal(cache.token_states(text), expected)
        np.testing.assert_array_equal(cache.token_states(text, [2, 0]), expected[:, [2, 0]])


def test_a_text_is_read_without_the_tokens_of_its_whole_shard(tmp_path: Path) -> None:
    head = header(texts=200, shard_rows=200, dim=2, token_states=True)
    write(tmp_path / "c", head, random_rows(head))
    array = zarr.open_array(tmp_path / "c/tokens/0", mode="r")
    assert array.shape == (sum(token_counts(200)), 3, 2)
    assert array.chunks == (256, 1, 2)
    assert len([name for name in files_of(tmp_path / "c") if name.startswith("tokens/")]) == 2


def test_token_states_are_refused_where_there_are_none(tmp_path: Path) -> None:
    cache = write(tmp_path / "c", header(), random_rows(header()))
    with pytest.raises(UserError, match=r"expected: token states(.|\n)*extract.token_states to true"):
        cache.token_states(0)


def test_a_pooling_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    cache = write(tmp_path / "c", header(poolings=("mean", "max")), random_rows(header()))
    with pytest.raises(UserError, match=r"pooling 'last'(.|\n)*mean, max(.|\n)*train.pooling"):
        cache.read(slice(0, 1), pooling="last")
    with pytest.raises(UserError, match="pooling 'last'"):
        cache.statistics("last")


@pytest.mark.parametrize("kind", list(store.STORAGE_TYPES))
def test_plain_zarr_opens_a_cache(tmp_path: Path, kind: str) -> None:
    head = header(storage_type=kind, poolings=("mean", "last"))
    cache = write(tmp_path / "c", head, random_rows(head))
    group = zarr.open_group(tmp_path / "c", mode="r")
    array = group["pooled/last"]
    assert isinstance(array, zarr.Array)
    assert array.attrs.get("encoding", kind) == kind
    assert ("encoding" in array.attrs) == (kind in ("bfloat16", "int8"))
    values = np.asarray(array[4:8])
    if kind == "bfloat16":
        values = torch.from_numpy(values.astype(np.int16)).view(torch.bfloat16).float().numpy()
    if kind == "int8":
        values = values * np.asarray(group["scale/last"][1])  # type: ignore[index]
    np.testing.assert_array_equal(values.astype(np.float32), cache.read(slice(4, 8), pooling="last"))


def test_the_order_of_writing_does_not_show_in_the_bytes(tmp_path: Path) -> None:
    head = header(**ALL)
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


def test_what_an_unfinished_cache_left_in_the_same_place_is_gone_when_another_is_finished(tmp_path: Path) -> None:
    larger = header(texts=40, **ALL)
    store.create(store.Location(tmp_path / "c"), larger, ids_of(40))
    store.write_shard(store.Location(tmp_path / "c"), larger, 9, shard_rows(larger, 9, random_rows(larger)))
    (tmp_path / "c" / "notes.txt").write_text("somebody else's")
    write(tmp_path / "c", header(), random_rows(header()))
    write(tmp_path / "fresh", header(), random_rows(header()))
    left = files_of(tmp_path / "c")
    assert left.pop("notes.txt") == b"somebody else's"
    assert left == files_of(tmp_path / "fresh")


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


@pytest.mark.parametrize("kind", list(store.STORAGE_TYPES))
def test_the_size_is_known_before(tmp_path: Path, kind: str) -> None:
    head = header(texts=100, shard_rows=40, dim=64, storage_type=kind, poolings=("mean", "max"))
    write(tmp_path / "c", head, random_rows(head))
    big = [data for name, data in files_of(tmp_path / "c").items() if name.startswith(("pooled/", "scale/"))]
    stored = sum(len(data) for data in big if not data.startswith(b"{"))
    assert head.bytes <= stored <= head.bytes * 1.05


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
    assert "extract.storage_type to bfloat16 or float32" in text


@pytest.mark.parametrize("kind", list(store.STORAGE_TYPES))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named(tmp_path: Path, kind: str, value: float) -> None:
    head = header(storage_type=kind)
    rows = random_rows(head)
    rows[0, 2, 0] = value
    with pytest.raises(UserError, match=rf"layer 'block 2'(.|\n)*found: +{value:g}(.|\n)*compute_type to float32"):
        write(tmp_path / "c", head, rows)


def test_a_token_state_that_cannot_be_held_names_its_text(tmp_path: Path) -> None:
    head = header(storage_type="float16", token_states=True)
    content = shard_rows(head, 1, random_rows(head))
    assert content.token_states is not None
    content.token_states[content.token_count[0]] = 1e5  # the first token of the shard's second text
    with pytest.raises(UserError, match=rf"layer 'block 0', text {ids_of(10)[5]}, dimension 0"):
        store.write_shard(store.Location(tmp_path), head, 1, content)


@pytest.mark.parametrize(
    "change",
    [
        {"pooled": {"mean": np.zeros((1, 3, 5), np.float32)}},
        {"pooled": {}},
        {"pooled": {"mean": np.zeros((4, 3, 5), np.float32), "last": np.zeros((4, 3, 5), np.float32)}},
        {"token_count": [3]},
        {"text_ids": []},
        {"truncated": [True]},
        {"token_states": np.zeros((3, 3, 5), np.float32)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_rows_that_do_not_fill_their_shard_are_not_written(tmp_path: Path, change: dict[str, Any]) -> None:
    content = dataclasses.replace(shard_rows(header(), 0, random_rows(header())), **change)
    with pytest.raises(ValueError, match="shard 0 takes"):
        store.write_shard(store.Location(tmp_path), header(), 0, content)
    assert files_of(tmp_path) == {}


def test_an_unfinished_cache_is_refused(tmp_path: Path) -> None:
    head, place = header(), store.Location(tmp_path / "c")
    store.create(place, head, ids_of(10))
    with pytest.raises(UserError, match=r"expected: a finished cache(.|\n)*unfinished(.|\n)*resumes where it stopped"):
        store.open_cache(place)
    records = [store.write_shard(place, head, shard, shard_rows(head, shard, random_rows(head))) for shard in (0, 2)]
    with pytest.raises(UserError, match=r"a record of each of its 3 shards(.|\n)*none of shard 1"):
        store.finish(place, head, ids_of(10), records)
    assert store.peek(place) == (head, False)


def test_files_alone_do_not_make_a_cache_complete(tmp_path: Path) -> None:
    head = header()
    write(tmp_path / "c", head, random_rows(head))
    store.create(store.Location(tmp_path / "c"), head, ids_of(10))
    with pytest.raises(UserError, match="record says that it is unfinished"):
        store.open_cache(tmp_path / "c")


def edit_attributes(path: Path, **changes: Any) -> None:
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["ilse_cache"].update(changes)
    (path / "zarr.json").write_text(json.dumps(document))


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "c", header(), random_rows(header()))
    edit_attributes(tmp_path / "c", format_version=1)
    with pytest.raises(UserError, match=r"cache format version 2(.|\n)*version 1(.|\n)*extract again"):
        store.open_cache(tmp_path / "c")


def test_another_capture_than_expected_is_refused(tmp_path: Path) -> None:
    cache = write(tmp_path / "c", header(), random_rows(header()))
    other = header(template="news: {text}").capture.fingerprint
    with pytest.raises(UserError, match=rf"capture {other[:16]}(.|\n)*capture {cache.fingerprint[:16]} \(tiny\)"):
        store.open_cache(tmp_path / "c", other)


@pytest.mark.parametrize(
    "change",
    [{"texts": 9}, {"shard_rows": 5}, {"model_name": "other"}, {"complete": 1}, {"versions": {}}, {"fingerprint": "0"}],
    ids=lambda change: next(iter(change)),
)
def test_an_edited_header_is_noticed(tmp_path: Path, change: dict[str, Any]) -> None:
    write(tmp_path / "c", header(), random_rows(header()))
    edit_attributes(tmp_path / "c", **change)
    with pytest.raises(UserError, match="whose checksum is another one"):
        store.open_cache(tmp_path / "c")


def test_a_header_that_does_not_parse_is_damage(tmp_path: Path) -> None:
    write(tmp_path / "c", header(), random_rows(header()))
    edit_attributes(tmp_path / "c", capture={"layers": ["a"]})
    with pytest.raises(UserError, match=r"cannot be parsed \(KeyError\)(.|\n)*ilse verify"):
        store.open_cache(tmp_path / "c")


def test_no_cache_at_all(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for place in ("none", "folder", "file"):
        with pytest.raises(UserError, match=r"found: +nothing there(.|\n)*ilse extract"):
            store.open_cache(tmp_path / place)
    zarr.create_group(tmp_path / "other")
    with pytest.raises(UserError, match="attribute 'ilse_cache'"):
        store.open_cache(tmp_path / "other")


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
        "poolings": ("last",),
        "token_states": True,
        "windows": store.WindowSpec(8, 4),
        "noise": store.NoiseSpec(0.1, 0.0, 0.0, 1),
    }
    prints = {dataclasses.replace(base, **{name: value}).fingerprint for name, value in changed.items()}
    assert len(prints | {base.fingerprint}) == len(changed) + 1
    assert {field.name for field in dataclasses.fields(base)} == set(changed)


def test_versions_and_names_are_outside_the_fingerprint() -> None:
    other = dataclasses.replace(header(), versions={"torch": "3"}, model_name="renamed")
    assert other.capture.fingerprint == header().capture.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"storage_type": "int3"}, "storage_type"),
        ({"layers": ()}, "layers"),
        ({"layers": ("a", "a")}, "layers"),
        ({"dim": 0}, "dim"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"template": "no place"}, "template"),
        ({"poolings": ("median",)}, "poolings"),
        ({"poolings": ()}, "poolings"),
        ({"storage_type": "int8", "token_states": True}, "storage_type"),
    ],
)
def test_a_spec_cannot_exist_invalid(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"cache specification, {message}"):
        dataclasses.replace(header().capture, **change)
