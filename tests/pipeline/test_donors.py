"""Rows from other caches: by text, whatever their order, and never a damaged one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilse.core.errors import UserError
from pipeline import store
from pipeline.work.donors import borrow, unlent, usable
from tests.pipeline.caches import header, ids_of, random_rows, token_states, write

_runs = itertools.count()


def run() -> str:
    """A new run's name: what is known of a donor is kept for one run."""
    return f"run {next(_runs)}"


def ids(numbers: list[int]) -> store.TextIds:
    return store.text_id_rows([f"{number + 1:032x}" for number in numbers])


@pytest.fixture
def donor(tmp_path: Path) -> Callable[..., tuple[str, store.FloatRows]]:
    """Writes a cache of the texts 0, 1, … and returns its place and rows."""

    def build(name: str = "donor", seed: int = 0, order: list[int] | None = None, **kind: Any) -> Any:
        head = header(**kind)
        names = [ids_of(head.texts)[i] for i in order] if order is not None else None
        rows = random_rows(head, seed)
        write(tmp_path / name, head, rows, ids=names)
        return str(tmp_path / name), rows

    return build


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(10)), wanted=st.lists(st.integers(0, 14), min_size=1, max_size=6, unique=True))
def test_rows_come_by_text_whatever_the_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], wanted: list[int]
) -> None:
    head, place = header(poolings=("mean", "last")), str(tmp_path_factory.mktemp("d") / "c")
    rows = random_rows(head)
    write(place, head, rows, ids=[ids_of(10)[i] for i in order])
    loan = borrow([place], run(), ids(wanted))
    held = [number for number in wanted if number < 10]
    if not held:
        assert loan is None
        return
    assert loan is not None
    assert loan.found.tolist() == [number < 10 for number in wanted]
    at = [order.index(number) for number in held]
    np.testing.assert_array_equal(loan.rows["mean"], rows[at])
    np.testing.assert_array_equal(loan.rows["last"], rows[at] * 2)
    assert loan.token_states is None


def test_texts_whose_ids_end_in_zero_bytes_are_told_apart(tmp_path: Path) -> None:
    names = ["00" * 16, "01" + "00" * 15, "0100" + "01" * 14, "ff" * 16]
    rows = random_rows(header(texts=4))
    write(tmp_path / "c", header(texts=4), rows, ids=names)
    loan = borrow([str(tmp_path / "c")], run(), store.text_id_rows([names[1], "02" + "00" * 15, names[0]]))
    assert loan is not None
    assert loan.found.tolist() == [True, False, True]
    np.testing.assert_array_equal(loan.rows["mean"], rows[[1, 0]])


def test_the_first_donor_that_holds_a_text_lends(donor: Callable[..., tuple[str, store.FloatRows]]) -> None:
    (few, first), (many, second) = donor("few", texts=2), donor("many", seed=1)
    loan = borrow([few, many], run(), ids([1, 5]))
    assert loan is not None
    assert loan.found.tolist() == [True, False]
    np.testing.assert_array_equal(loan.rows["mean"], first[[1]])
    later = borrow([few, many], run(), ids([5, 6]))
    assert later is not None
    np.testing.assert_array_equal(later.rows["mean"], second[[5, 6]])
    assert borrow([few, many], run(), ids([12])) is None
    assert borrow([], run(), ids([1])) is None


def test_token_states_are_lent_with_their_texts(donor: Callable[..., tuple[str, store.FloatRows]]) -> None:
    place, _ = donor(token_states=True)
    loan = borrow([place], run(), ids([7, 30, 2]))
    assert loan is not None
    assert loan.token_states is not None
    states = token_states(header(token_states=True))
    for found, text in zip(loan.token_states, (7, 2), strict=True):
        np.testing.assert_array_equal(found, states[text])


def test_a_damaged_shard_lends_nothing_and_the_others_do(donor: Callable[..., tuple[str, store.FloatRows]]) -> None:
    place, rows = donor(order=[3, 1, 2, 0, 4, 5, 6, 7, 9, 8])
    shard = Path(place, "pooled/mean/c/0/0/0")
    content = bytearray(shard.read_bytes())
    content[10] ^= 1
    shard.write_bytes(content)
    assert borrow([place], run(), ids([4, 0])) is None
    loan = borrow([place], run(), ids([8, 4]))
    assert loan is not None
    np.testing.assert_array_equal(loan.rows["mean"], rows[[9, 4]])


def test_damaged_token_states_lend_nothing(donor: Callable[..., tuple[str, store.FloatRows]]) -> None:
    place, _ = donor(token_states=True)
    Path(place, "tokens/1/c/0/0/0").unlink()
    assert borrow([place], run(), ids([0, 5])) is None
    assert borrow([place], run(), ids([0, 9])) is not None


def test_int8_lends_whole_shards_alone(donor: Callable[..., tuple[str, store.FloatRows]]) -> None:
    place, _ = donor(storage_type="int8")
    cache = store.open_cache(place)
    for part in ([0, 1, 2], [1, 2, 3, 4], [0, 1, 2, 30], [1, 0, 2, 3], [8, 9, 0, 1]):
        assert borrow([place], run(), ids(part)) is None, part
    for whole in ([4, 5, 6, 7], [8, 9]):
        loan = borrow([place], run(), ids(whole))
        assert loan is not None
        np.testing.assert_array_equal(loan.rows["mean"], cache.read(slice(whole[0], whole[-1] + 1)))


@pytest.mark.parametrize("kind", list(store.STORAGE_TYPES))
def test_a_shard_of_lent_rows_has_the_donors_bytes(tmp_path: Path, kind: str) -> None:
    head = header(storage_type=kind)
    write(tmp_path / "a", head, random_rows(head))
    loans = [borrow([str(tmp_path / "a")], run(), ids(list(range(10))[place])) for place in map(head.rows_of, range(3))]
    assert all(loan is not None and loan.found.all() for loan in loans)
    write(tmp_path / "b", head, np.concatenate([loan.rows["mean"] for loan in loans if loan is not None]))
    for name in ("pooled/mean/c/0/0/0", "pooled/mean/c/2/0/0", "SHA256SUMS"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_only_the_same_capture_is_usable(donor: Callable[..., tuple[str, store.FloatRows]]) -> None:
    same, other = donor("same", texts=3)[0], donor("other", template="news: {text}")[0]
    assert usable([other, same], header(), named=True) == [same]


def test_what_is_no_cache_is_refused_when_it_was_named_and_passed_over_when_not(
    donor: Callable[..., tuple[str, store.FloatRows]], tmp_path: Path
) -> None:
    same = donor()[0]
    assert usable([str(tmp_path / "none"), same], header(), named=False) == [same]
    with pytest.raises(UserError, match="nothing there"):
        usable([str(tmp_path / "none"), same], header(), named=True)


@pytest.mark.parametrize("storage_type", ["float32", "int8"])
def test_what_no_donor_lends_is_known_beforehand(
    donor: Callable[..., tuple[str, store.FloatRows]], storage_type: str
) -> None:
    """What is borrowed shard by shard is the slow twin."""
    few, _ = donor("few", texts=5, storage_type=storage_type)
    many, _ = donor("many", texts=10, storage_type=storage_type)
    wanted = ids([0, 1, 2, 3, 20, 9, 8, 7, 6, 21, 22, 5, 23])
    head = header(texts=len(wanted), storage_type=storage_type)
    for donors in ([], [few], [few, many], [many, few]):
        name, twin = run(), np.ones(len(wanted), bool)
        for shard in range(head.shards):
            place = head.rows_of(shard)
            if (loan := borrow(donors, name, wanted[place])) is not None:
                twin[place] = ~loan.found
        assert unlent(donors, head, wanted).tolist() == twin.tolist()
    assert 0 < unlent([few, many], head, wanted).sum() < len(wanted)
