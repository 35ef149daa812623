"""Texts keep the rows that they had in an earlier cache, so that its shards stay as they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import store
from pipeline.work import order as module
from pipeline.work.order import in_order, keeping_rows, row_order
from pipeline.work.scratch import keep_reachable
from tests.pipeline.caches import header, ids_of, random_rows, write
from tests.pipeline.conftest import sentence
from tests.pipeline.extractions import files_of, params_for, run

texts_of = st.lists(st.integers(0, 30), min_size=1, max_size=20, unique=True)


def ids(numbers: list[int]) -> store.TextIds:
    return store.text_id_rows([f"{number + 1:032x}" for number in numbers])


def one_by_one(now: list[int], before: list[int]) -> list[int]:
    """The slow twin, over the texts themselves."""
    rows = [text if text in now else None for text in before][: len(now)]
    rows += [None] * (len(now) - len(rows))
    others = iter([text for text in now if text not in rows])
    return [next(others) if text is None else text for text in rows]


@given(now=texts_of, before=texts_of)
def test_texts_keep_their_rows_and_the_others_take_what_is_free(now: list[int], before: list[int]) -> None:
    order = keeping_rows(ids(now), ids(before))
    assert [now[i] for i in order] == one_by_one(now, before)


@pytest.mark.parametrize(
    ("now", "before", "rows"),
    [
        ([0, 9, 1, 2, 8], [0, 1, 2], [0, 1, 2, 9, 8]),  # two that come in the middle
        ([0, 1, 3, 4], [0, 1, 2, 3, 4], [0, 1, 4, 3]),  # one that goes
        ([0, 7, 2], [0, 1, 2], [0, 7, 2]),  # one that is corrected
        ([2, 1, 0], [0, 1, 2], [0, 1, 2]),  # another order
    ],
)
def test_what_a_change_moves(now: list[int], before: list[int], rows: list[int]) -> None:
    assert [now[i] for i in keeping_rows(ids(now), ids(before))] == rows


def test_the_first_cache_that_can_be_read_gives_the_order(tmp_path: Path) -> None:
    head = header(texts=4)
    write(tmp_path / "c", head, random_rows(head), ids=ids_of(4)[::-1])
    shutil.copytree(tmp_path / "c", tmp_path / "damaged")
    (tmp_path / "damaged" / "text_id" / "c" / "0" / "0").write_bytes(b"")
    earlier = [str(tmp_path / name) for name in ("none", "damaged", "c")]
    assert row_order(ids([0, 1, 2, 3]), earlier).tolist() == [3, 2, 1, 0]
    assert row_order(ids([0, 1, 2, 3]), earlier[:2]).tolist() == [0, 1, 2, 3]


def test_the_table_in_order_is_written_piece_by_piece(
    texts_table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", 7)
    monkeypatch.setattr(module, "ROW_GROUP", 4)
    texts, copy = texts_table(30), tmp_path / "work" / "copy.parquet"
    order, whole = np.random.default_rng(0).permutation(30), pl.read_parquet(texts)
    text_ids = store.text_id_rows(whole["text_id"].to_list())
    assert in_order(texts, np.arange(30), copy, text_ids) == texts
    assert not copy.exists()
    assert in_order(texts, order, copy, text_ids[order]) == copy
    assert pl.read_parquet(copy).equals(whole[order])
    for other in (whole[order][:20], whole, pl.DataFrame({"text_id": ["?"] * 30})):
        other.write_parquet(copy)  # such as the copy of other work in the same folder
        assert in_order(texts, order, copy, text_ids[order]) == copy
        assert pl.read_parquet(copy).equals(whole[order])
    (tmp_path / "texts.parquet").unlink()
    assert in_order(texts, order, copy, text_ids[order]) == copy, "a run that goes on takes the copy that is there"


def shards_of(cache: Path) -> dict[str, bytes]:
    return {
        name: data for name, data in files_of(cache).items() if name.startswith(("pooled/mean/c/", "scale/mean/c/"))
    }


@pytest.mark.parametrize("storage_type", ["float16", "int8"])
def test_texts_that_come_in_the_middle_leave_full_shards_as_they_were(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path, storage_type: str
) -> None:
    old = [f"{sentence(i)} {' '.join(str(i))}" for i in range(28)]
    new = [f"a new film {' '.join(str(i))}" for i in range(9)]
    params, cache = params_for(llama, storage_type=storage_type), tmp_path / "cache.zarr"
    run(params, texts_table(0, old), tmp_path)
    before = shards_of(cache)
    shutil.rmtree(cache)  # as DVC does
    mixed = [*old[:5], *new[:4], *old[5:20], *new[4:], *old[20:]]
    figures = run(params, texts_table(0, mixed), tmp_path)
    lent = 28 if storage_type == "float16" else 24  # int8 lends whole shards
    assert figures["texts_reused"] == lent
    after = shards_of(cache)
    assert [name for name in before if after[name] != before[name]] == [name for name in before if "/c/3/" in name], (
        "the last shard was not full"
    )
    assert not [file for file in (tmp_path / "scratch").iterdir() if file.name not in ("previous", "lock")]

    whole = files_of(cache)
    assert run(params, texts_table(0, mixed[::-1]), tmp_path)["texts_computed"] == 0
    assert files_of(cache) == whole, "the same texts in another order are the same cache"
    for damaged in ("text_id/c/0/0", "zarr.json"):
        (cache / damaged).write_bytes(b"{")
        assert run(params, texts_table(0, mixed), tmp_path)["texts_computed"] == 0
        assert files_of(cache) == whole, "the copy of its list of texts tells the order"


def test_a_cache_that_was_pulled_gives_rows_and_order_after_dvc_has_deleted_it(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path
) -> None:
    old = [f"{sentence(i)} {' '.join(str(i))}" for i in range(9)]
    run(params_for(llama), texts_table(0, old), tmp_path)
    before = shards_of(tmp_path / "cache.zarr")
    shutil.rmtree(tmp_path / "scratch")
    for again in range(2):
        keep_reachable(tmp_path / "scratch", tmp_path)
        kept = list((tmp_path / "scratch" / "previous").iterdir())
        assert len(kept) == 1, f"call {again}"
    assert files_of(kept[0]) == files_of(tmp_path / "cache.zarr")
    shutil.rmtree(tmp_path / "cache.zarr")
    assert run(params_for(llama), texts_table(0, ["a new film", *old]), tmp_path)["texts_computed"] == 1
    after = shards_of(tmp_path / "cache.zarr")
    assert after["pooled/mean/c/0/0/0"] == before["pooled/mean/c/0/0/0"]


def test_rows_are_those_of_their_texts_where_the_order_is_not_the_tables(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path
) -> None:
    old = [f"{sentence(i)} {' '.join(str(i))}" for i in range(20)]
    changed = [*old[:3], "a new film", *old[3:9], *old[12:], "another film"]
    exact = {"storage_type": "float32"}  # float16 can round a difference in the last digit to one of a thousandth
    params = params_for(llama, donors=[str(tmp_path / "v1" / "cache.zarr")], **exact)
    run(params_for(llama, **exact), texts_table(0, old), tmp_path / "v1")
    assert run(params, texts_table(0, changed), tmp_path / "v2")["texts_computed"] == 2
    run(params_for(llama, **exact), texts_table(0, changed), tmp_path / "afresh")
    kept, afresh = (store.open_cache(tmp_path / name / "cache.zarr") for name in ("v2", "afresh"))
    assert kept.text_ids() != afresh.text_ids(), "a named donor gives its order too"
    rows = [kept.text_ids().index(text) for text in afresh.text_ids()]
    np.testing.assert_allclose(kept.gather(np.array(rows)), afresh.read(slice(0, 19)), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(kept.token_counts()[rows], afresh.token_counts())
