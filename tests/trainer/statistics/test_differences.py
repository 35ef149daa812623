"""The difference of two heads against sums that are written out, and where it is known beforehand."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from ilse.core.errors import UserError
from trainer.statistics import Difference, difference, of_rows

Array = np.ndarray[Any, np.dtype[Any]]


def answers(seeds: int, rows: int, number: int, share: float = 0.7) -> Array:
    return np.random.default_rng(number).random((seeds, rows)) < share


def slow(head: Array, baseline: Array) -> tuple[float, float, float]:
    """Difference, standard error and degrees of freedom, from the sums of squares of two two-way tables."""
    rows = head.shape[1]
    gains = [head[:, i].mean() - baseline[:, i].mean() for i in range(rows)]
    by_rows = sum((gain - np.mean(gains)) ** 2 for gain in gains) / (rows - 1) / rows
    parts = []
    for one in (head.astype(float), baseline.astype(float)):
        seeds = len(one)
        if seeds == 1:
            continue
        residuals = [
            (one[s, i] - one[s].mean() - one[:, i].mean() + one.mean()) ** 2
            for s, i in product(range(seeds), range(rows))
        ]
        interaction = sum(residuals) / (seeds - 1) / (rows - 1)
        of_seeds = sum((one[s].mean() - one.mean()) ** 2 for s in range(seeds)) / (seeds - 1)
        parts.append((max(0.0, of_seeds - interaction / rows) / seeds, seeds - 1))
    variance = by_rows + sum(part for part, _ in parts)
    degrees = variance**2 / (by_rows**2 / (rows - 1) + sum(part**2 / free for part, free in parts))
    return float(np.mean(gains)), float(np.sqrt(variance)), float(degrees)


@given(
    seeds=st.tuples(st.integers(1, 4), st.integers(1, 4)), rows=st.integers(5, 40), number=st.integers(0, 999),
    confidence=st.sampled_from([0.5, 0.9, 0.95]),
)  # fmt: skip
@settings(deadline=None, max_examples=50)
def test_it_is_the_analysis_of_variance_of_two_tables(
    seeds: tuple[int, int], rows: int, number: int, confidence: float
) -> None:
    head, baseline = answers(seeds[0], rows, number, 0.9), answers(seeds[1], rows, number + 1000, 0.5)
    found = difference(of_rows(head), of_rows(baseline), confidence)
    # Where all examples differ alike there is no variance to analyse; that has a rule and a test of its own.
    assume(np.ptp(head.mean(0) - baseline.mean(0)) > 0)
    gap, error, degrees = slow(head, baseline)
    assert (found.difference, found.error, found.degrees) == pytest.approx((gap, error, degrees))
    low, high = stats.t.interval(confidence, degrees, gap, error)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.p < 1 - confidence) == (not found.low <= 0 <= found.high)
    assert found.seeds_vary == (min(seeds) > 1)


def test_one_seed_each_is_the_paired_t_test() -> None:
    head, baseline = answers(1, 200, 0), answers(1, 200, 1, 0.6)
    found = difference(of_rows(head), of_rows(baseline))
    known = stats.ttest_rel(head[0].astype(float), baseline[0].astype(float))
    assert found.p == pytest.approx(known.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(known.confidence_interval()))
    assert not found.seeds_vary


def test_seeds_that_differ_in_every_answer_are_welchs_t_test() -> None:
    """Where a run is right everywhere or nowhere, examples tell nothing and runs all."""
    head, baseline = (np.repeat([[v] for v in runs], 50, axis=1) for runs in ([1, 1, 1, 0], [1, 0, 0]))
    found = difference(of_rows(head), of_rows(baseline))
    welch = stats.ttest_ind([1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0], equal_var=False)
    assert found.p == pytest.approx(welch.pvalue, abs=0.01)
    assert found.degrees == pytest.approx(welch.df, rel=0.01)


def test_the_order_of_heads_examples_and_seeds_does_not_matter() -> None:
    head, baseline = answers(3, 100, 0), answers(4, 100, 1)
    found = difference(of_rows(head), of_rows(baseline))
    back = difference(of_rows(baseline), of_rows(head))
    assert (back.difference, back.low, back.high) == pytest.approx((-found.difference, -found.high, -found.low))
    assert back.p == pytest.approx(found.p)
    order = np.random.default_rng(2).permutation(100)
    moved = difference(of_rows(head[::-1][:, order]), of_rows(baseline[:, order]))
    assert vars(moved) == pytest.approx(vars(found))


def test_pairing_tells_more_than_two_heads_by_themselves() -> None:
    shared = answers(3, 500, 0)
    few = answers(3, 500, 1, 0.05)
    paired = difference(of_rows(shared ^ few), of_rows(shared))
    shuffled = difference(of_rows((shared ^ few)[:, ::-1]), of_rows(shared))
    assert paired.error < 0.6 * shuffled.error


def test_equal_predictions_differ_by_nothing() -> None:
    right = answers(3, 50, 0)
    assert difference(of_rows(right), of_rows(right.copy())) == Difference(0.0, 0.0, 0.0, 1.0, 0.0, 49.0, True)
    same = np.ones((2, 50), dtype=bool)
    assert difference(of_rows(same), of_rows(same)).p == 1


@pytest.mark.parametrize("rows", [2, 3, 10])
def test_few_examples_that_all_say_the_same_do_not_settle_it(rows: int) -> None:
    """Without scatter there is no standard error to be had from them, which is not a standard error of 0."""
    found = difference(of_rows(np.ones((3, rows), dtype=bool)), of_rows(np.zeros((3, rows), dtype=bool)))
    assert found.difference == 1
    assert found.low < 1 < found.high
    assert found.p > 0
    assert (found.p < 0.05) == (rows > 3)


def test_heads_on_other_examples() -> None:
    with pytest.raises(UserError) as caught:
        difference(of_rows(answers(2, 10, 0)), of_rows(answers(2, 11, 0)))
    assert str(caught.value) == (
        "comparison of heads\n  expected: a baseline's predictions of 10 examples\n  found:    11\n"
        "  next:     evaluate the heads again, all on the same examples"
    )


def test_paired_seeds_share_what_varies() -> None:
    """Seed by seed the heads differ by the same, however much seeds differ: against a head of the differences."""
    rows = np.arange(200)
    head, baseline = (np.stack([rows < good + more for good in (100, 140, 180)]) for more in (10, 0))
    alone = difference(of_rows(head), of_rows(baseline))
    paired = difference(of_rows(head), of_rows(baseline), paired_seeds=True)
    assert paired.difference == pytest.approx(alone.difference)
    assert alone.p > 0.5 > 0.01 > paired.p
    slowly = difference(of_rows(head.astype(float) - baseline), of_rows(np.zeros((1, 200))))
    assert (paired.difference, paired.error) == pytest.approx((slowly.difference, slowly.error))
    with pytest.raises(UserError) as caught:
        difference(of_rows(head), of_rows(baseline[:2]), paired_seeds=True)
    assert str(caught.value) == (
        "comparison of heads\n  expected: 3 seeds, as the other head has: seeds are paired\n  found:    2\n"
        "  next:     train both heads with the same seeds"
    )


def test_paired_seeds_that_settle_everything_are_the_paired_t_test() -> None:
    """Runs that are right everywhere or nowhere: examples tell nothing."""
    head, baseline = (np.repeat([[v] for v in runs], 50, axis=1) for runs in ([1, 1, 1, 0, 1], [1, 0, 0, 0, 0]))
    found = difference(of_rows(head), of_rows(baseline), paired_seeds=True)
    known = stats.ttest_rel([1.0, 1, 1, 0, 1], [1.0, 0, 0, 0, 0])
    assert found.p == pytest.approx(known.pvalue, abs=0.01)
    assert found.degrees == pytest.approx(4, rel=0.05)


def test_what_is_known_of_seeds_of_one_head_counts() -> None:
    """The other has one seed: the interval is wider than without seeds, and says that seeds are not all of it."""
    rows = np.arange(200)
    head = np.stack([rows < good for good in (100, 140, 180)])
    baseline = of_rows((rows < 120)[None])
    both = difference(of_rows(head), baseline)
    alone = difference(of_rows(head.mean(0, keepdims=True)), baseline)
    assert both.difference == pytest.approx(alone.difference)
    assert both.error > 2 * alone.error
    assert not both.seeds_vary


def test_examples_that_all_differ_alike_do_not_make_it_certain() -> None:
    """Agresti and Min: half an example more in each of the four cells of right and wrong."""
    found = difference(of_rows(np.ones((1, 5), bool)), of_rows(np.zeros((1, 5), bool)))
    gaps, weights = np.array([1, 1, -1, 0]), np.array([5, 0.5, 0.5, 1])
    mean = np.average(gaps, weights=weights)
    variance = np.average((gaps - mean) ** 2, weights=weights) / weights.sum()
    assert (found.difference, found.error) == pytest.approx((1.0, np.sqrt(variance)))
    assert 0 < found.p < 0.05
