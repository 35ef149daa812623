"""Splits: a text's split follows from itself and the seed, and a text stands in one split only."""

from __future__ import annotations

import hashlib
import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilse.core.errors import UserError
from ilse.core.params import validate
from ilse.core.tables import SPLIT, SPLITS, TEST, TEXT_ID, TRAIN, VALIDATION
from pipeline.dataset.columns import TARGET
from pipeline.dataset.splits import KEEPING, SplitFractions, assign, draw, sampled, split_name
from pipeline.dataset.strata import stratum_of

FRACTIONS = SplitFractions(train=0.7, validation=0.1, test=0.2)
IDS = pl.Series([hashlib.sha256(str(i).encode()).hexdigest()[:32] for i in range(20_000)])

rows_of = st.lists(st.tuples(st.sampled_from(IDS[:8].to_list()), st.sampled_from(SPLITS)), min_size=1, max_size=40)


def one_by_one(text_id: str, fractions: SplitFractions, seed: int) -> str:
    """The obvious twin of `draw`."""
    number = int(hashlib.sha256(f"{seed}:{text_id}".encode()).hexdigest()[:16], 16) / 2**64
    if number < fractions.test:
        return TEST
    return VALIDATION if number < fractions.test + fractions.validation else TRAIN


def table(rows: list[tuple[str, str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={TEXT_ID: pl.String, SPLIT: pl.String}, orient="row")


@given(st.integers(0, 2**40), st.sampled_from([FRACTIONS, SplitFractions(train=0.2, validation=0.5, test=0.3)]))
def test_draw_equals_its_twin(seed: int, fractions: SplitFractions) -> None:
    ids = IDS[:200]
    assert draw(ids, fractions, seed).to_list() == [one_by_one(text_id, fractions, seed) for text_id in ids]


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_shares_are_near_their_targets(seed: int) -> None:
    found = draw(IDS, FRACTIONS, seed)
    for split, share in FRACTIONS.model_dump().items():
        spread = math.sqrt(len(IDS) * share * (1 - share))
        assert abs((found == split).sum() - len(IDS) * share) < 5 * spread


def test_another_seed_draws_other_splits() -> None:
    same = (draw(IDS, FRACTIONS, 0) == draw(IDS, FRACTIONS, 1)).mean()
    assert same == pytest.approx(0.7**2 + 0.1**2 + 0.2**2, abs=0.02)


def test_the_share_of_validation_leaves_the_test_set_alone() -> None:
    other = SplitFractions(train=0.6, validation=0.2, test=0.2)
    assert ((draw(IDS, FRACTIONS, 0) == TEST) == (draw(IDS, other, 0) == TEST)).all()


@given(rows_of)
def test_given_splits_keep_a_text_in_the_strongest(rows: list[tuple[str, str]]) -> None:
    strongest: dict[str, str] = {}
    for text_id, split in rows:
        strongest[text_id] = min(strongest.get(text_id, split), split, key=KEEPING.index)
    expected = [row for row in rows if strongest[row[0]] == row[1]]
    if not any(split == VALIDATION for _, split in rows):
        return  # then validation is drawn: the next test
    done = assign(table(rows), TEXT_ID, FRACTIONS, 0)
    assert done.rows.rows() == expected
    assert (done.leaks, done.drawn) == (len(rows) - len(expected), ())


def test_missing_validation_is_drawn_from_train_alone() -> None:
    rows = table([(text_id, TEST if i % 4 == 0 else TRAIN) for i, text_id in enumerate(IDS)])
    done = assign(rows, TEXT_ID, FRACTIONS, 0)
    assert done.drawn == (VALIDATION,)
    moved = done.rows.filter(pl.col(SPLIT) != rows[SPLIT])
    assert set(moved[SPLIT]) == {VALIDATION}
    assert (rows[SPLIT] == TEST).sum() == (done.rows[SPLIT] == TEST).sum()
    assert moved.height == pytest.approx(0.1 * 15_000, rel=0.1)


@given(rows_of, st.booleans(), st.integers(0, 5))
def test_a_text_stands_in_one_split(rows: list[tuple[str, str]], drawn: bool, seed: int) -> None:
    frame = table(rows)
    if drawn:
        frame = frame.with_columns(pl.lit(None, pl.String).alias(SPLIT))
    found = assign(frame, TEXT_ID, FRACTIONS, seed).rows
    assert found.unique().height == found[TEXT_ID].n_unique() == frame[TEXT_ID].n_unique()


def test_names_of_splits() -> None:
    assert [split_name(name, "x") for name in ("Train", "dev", "val", "valid", "test ")] == [
        TRAIN,
        VALIDATION,
        VALIDATION,
        VALIDATION,
        TEST,
    ]
    with pytest.raises(UserError, match="did you mean 'train'"):
        split_name("trian", "x")


def test_shares_must_sum_to_one() -> None:
    with pytest.raises(UserError, match=r"they sum to 1\.1"):
        validate("prepare.splits", SplitFractions, {"train": 0.8, "validation": 0.1, "test": 0.2})
    with pytest.raises(UserError, match="greater than 0"):
        validate("prepare.splits", SplitFractions, {"train": 0.8, "validation": 0, "test": 0.2})


def labelled(sizes: dict[str, int]) -> pl.DataFrame:
    labels = [name for name, size in sizes.items() for _ in range(size)]
    ids = [hashlib.sha256(f"{label} {place}".encode()).hexdigest()[:32] for place, label in enumerate(labels)]
    return pl.DataFrame({TEXT_ID: ids, TARGET: labels, SPLIT: pl.Series([None] * len(ids), dtype=pl.String)})


@given(st.dictionaries(st.text("abc", min_size=1), st.integers(1, 60), min_size=1, max_size=8), st.integers(0, 9))
def test_splits_drawn_by_label_give_each_label_its_share(sizes: dict[str, int], seed: int) -> None:
    found = assign(labelled(sizes), TEXT_ID, FRACTIONS, seed, stratify=True).rows
    for name, size in sizes.items():
        counts = dict(found.filter(pl.col(TARGET) == name)[SPLIT].value_counts().iter_rows())
        for split, share in FRACTIONS.model_dump().items():
            assert abs(counts.get(split, 0) - size * share) <= 2  # rounded, and one where there was none
            assert size < 3 or counts.get(split)
        assert counts.get(TRAIN)


def test_rare_labels_are_rounded_up_and_down_evenly() -> None:
    sizes = {f"label {number}": 2 for number in range(5_000)}
    counts = dict(assign(labelled(sizes), TEXT_ID, FRACTIONS, 0, stratify=True).rows[SPLIT].value_counts().iter_rows())
    assert counts[TEST] == pytest.approx(2_000, rel=0.06)
    assert counts[VALIDATION] == pytest.approx(1_000, rel=0.12)


def test_a_set_of_labels_is_drawn_with_its_rarest_one() -> None:
    rows = labelled({"a": 40}).with_columns(
        pl.Series(TARGET, [["common", "rare"] if row < 4 else ["common"] if row < 36 else [] for row in range(40)])
    )
    assert stratum_of(rows, TEXT_ID)["stratum"].to_list() == ["rare"] * 4 + ["common"] * 32 + [""] * 4
    found = assign(rows, TEXT_ID, FRACTIONS, 0, stratify=True).rows
    assert set(found.filter(pl.col(TARGET).list.contains("rare"))[SPLIT]) == set(SPLITS)


def test_only_validation_is_drawn_by_label_where_the_others_are_given() -> None:
    rows = labelled({"a": 30, "b": 3}).with_columns(
        pl.Series(SPLIT, [TEST if row % 11 == 0 else TRAIN for row in range(33)])
    )
    found = assign(rows, TEXT_ID, FRACTIONS, 0, stratify=True)
    assert found.drawn == (VALIDATION,)
    assert (found.rows[SPLIT] == TEST).to_list() == (rows[SPLIT] == TEST).to_list()
    assert set(found.rows.filter(pl.col(SPLIT) == VALIDATION)[TARGET]) == {"a", "b"}


def test_a_sample_is_a_part_of_a_greater_one_and_keeps_the_order() -> None:
    rows = pl.DataFrame({TEXT_ID: pl.concat([IDS[:500], IDS[:100]])})
    small, large = (sampled(rows, TEXT_ID, limit)[TEXT_ID].to_list() for limit in (50, 200))
    assert len(set(small)) == 50
    assert len(set(large)) == 200
    assert set(small) < set(large)
    assert [one for one in rows[TEXT_ID] if one in set(small)] == small
    assert sampled(rows, TEXT_ID, 9_999).equals(rows)
