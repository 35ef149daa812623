"""Figures and how they vary with the examples: exact for means, resampled for all others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from ilse.core.errors import UserError
from trainer.statistics import Estimate, difference, of_figure, of_rows

Array = np.ndarray[Any, np.dtype[Any]]


def accuracy(predicted: Array, y: Array) -> float:
    return float((predicted == y).mean())


def covariance(one: Estimate, other: Estimate) -> Array:
    return one.deviations @ other.deviations.T


def spearman(predicted: Array, y: Array) -> float:
    """NaN for values that are all the same."""
    ranks = stats.rankdata(np.stack([predicted, y]), axis=1) - (len(y) + 1) / 2
    with np.errstate(invalid="ignore"):
        return float(ranks[0] @ ranks[1] / np.sqrt(np.prod((ranks**2).sum(1))))


@pytest.fixture
def labels() -> tuple[Array, dict[str, Array]]:
    """Targets of 300 examples, and predictions of two heads with three seeds that share most of their mistakes."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, 4, 300)
    hard = generator.random(300) < 0.3
    heads = {}
    for name in ("last", "mlp"):
        wrong = hard ^ (generator.random((3, 300)) < 0.05)
        heads[name] = np.where(wrong, (y + 1) % 4, y)
    return y, heads


def test_resampling_comes_to_what_the_rows_say(labels: tuple[Array, dict[str, Array]]) -> None:
    """The fast way of accuracy against the slow one of any figure, within and between heads."""
    y, heads = labels
    exact = {name: of_rows(of_head == y) for name, of_head in heads.items()}
    resampled = {name: of_figure(of_head, y, accuracy, resamples=3000) for name, of_head in heads.items()}
    for name in heads:
        assert resampled[name].values == pytest.approx(exact[name].values)
        for other in heads:
            known = covariance(exact[name], exact[other])
            assert covariance(resampled[name], resampled[other]) == pytest.approx(known, rel=0.12)
    one, two = (difference(of["mlp"], of["last"]) for of in (exact, resampled))
    assert two.difference == pytest.approx(one.difference)
    assert two.error == pytest.approx(one.error, rel=0.05)


def test_matrix_products_of_counts_are_the_same_resampling(labels: tuple[Array, dict[str, Array]]) -> None:
    y, heads = labels
    generator = np.random.default_rng(5)
    drawn = [generator.integers(300, size=300) for _ in range(200)]
    counts = np.stack([np.bincount(indices, minlength=300) for indices in drawn]) / 300
    figures = counts @ (heads["mlp"] == y).T.astype(float)
    found = of_figure(heads["mlp"], y, accuracy, resamples=200, seed=5)
    assert covariance(found, found) == pytest.approx(np.cov(figures.T))


def test_equal_inputs_give_equal_results(labels: tuple[Array, dict[str, Array]]) -> None:
    y, heads = labels
    one, two, other = (of_figure(heads["mlp"], y, accuracy, resamples=20, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(one.deviations, two.deviations)
    assert not np.array_equal(one.deviations, other.deviations)


def test_a_correlation_varies_as_is_known_of_it() -> None:
    """Bonett and Wright's variance of Spearman's correlation, on the scale of Fisher's z."""
    generator = np.random.default_rng(1)
    y = generator.standard_normal(400)
    found = of_figure((y + generator.standard_normal(400))[None], y, spearman)
    rho = found.value
    known = (1 + rho**2 / 2) / (400 - 3) * (1 - rho**2) ** 2
    assert covariance(found, found)[0, 0] == pytest.approx(known, rel=0.25)


def test_predictions_may_have_more_axes() -> None:
    generator = np.random.default_rng(2)
    y = generator.random((50, 3)) < 0.5
    probabilities = generator.random((2, 50, 3))
    found = of_figure(probabilities, y, lambda p, t: float(((p > 0.5) == t).all(1).mean()), resamples=50)
    assert found.values == pytest.approx([((p > 0.5) == y).all(1).mean() for p in probabilities])
    assert found.deviations.shape == (2, 50)


def test_a_mean_may_be_of_any_scores() -> None:
    scores = np.random.default_rng(3).random((2, 60))
    found = of_rows(scores)
    assert found.values == pytest.approx(scores.mean(1))
    assert covariance(found, found) == pytest.approx(np.cov(scores) / 60)
    assert (found.seeds, found.rows, found.degrees, found.value) == (2, 60, 59, pytest.approx(scores.mean()))


def test_resamples_that_define_no_figure_tell_nothing() -> None:
    y = np.arange(8.0)
    rare = np.array([[0.0, 0, 0, 0, 1, 1, 1, 1]])  # all of one kind in 1 of 128 draws
    found = of_figure(rare, y, spearman, resamples=2000)
    assert np.isfinite(found.deviations).all()
    assert (found.deviations == 0).sum() > 0


def refused(**changed: Any) -> str:
    given: dict[str, Any] = {"predicted": np.arange(12.0).reshape(2, 6), "y": np.arange(6.0), "figure": spearman}
    with pytest.raises(UserError) as caught:
        of_figure(**given | changed, where="head 'mlp'")
    return str(caught.value)


def test_predictions_that_are_all_the_same() -> None:
    predicted = np.stack([np.arange(6.0), np.ones(6)])
    assert refused(predicted=predicted) == (
        "head 'mlp'\n  expected: a figure that these predictions define\n"
        "  found:    it is undefined for seed 1, counted from 0: too few examples, or predictions that are all the "
        "same\n"
        "  next:     give a larger test split, or leave the head out of the comparison"
    )


def test_predictions_that_are_nearly_all_the_same() -> None:
    nearly = np.zeros((1, 6))
    nearly[0, 2] = 1
    assert "it is undefined in 3" in refused(predicted=nearly)  # (5/6)^6 = 33 %


def test_predictions_that_are_not_finite() -> None:
    predicted = np.arange(12.0).reshape(2, 6)
    predicted[0, 3] = np.nan
    assert "found:    1 of 12 are NaN or infinite" in refused(predicted=predicted)
    with pytest.raises(UserError, match="predictions\n  expected: finite numbers"):
        of_rows(predicted)


def test_other_numbers_of_targets() -> None:
    assert "expected: targets of 6 examples\n  found:    5" in refused(y=np.arange(5.0))


def test_one_example() -> None:
    assert "expected: at least 2 examples\n  found:    1" in refused(predicted=np.ones((2, 1)), y=np.ones(1))
    with pytest.raises(UserError, match="at least 2 examples"):
        of_rows(np.ones((2, 1), dtype=bool))
