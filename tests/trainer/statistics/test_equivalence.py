"""The equivalence test: its probability by counting every outcome, its error rate, its interval."""

from __future__ import annotations

from itertools import product
from math import comb, sqrt

import numpy as np
import pytest
from scipy import stats

from ilse.core.errors import UserError
from trainer.statistics import Change
from trainer.statistics.equivalence import p_of_less


def score(lost: int, won: int, rows: int, loss: float) -> float:
    """Tango's, with the likeliest share of gains by a search of the likelihood."""
    shares = np.linspace(0, (1 - loss) / 2, 20_001)[1:-1]
    same = rows - lost - won
    likelihood = won * np.log(shares) + lost * np.log(shares + loss) + same * np.log(1 - 2 * shares - loss)
    share = 0.0 if won == 0 and likelihood[0] >= likelihood.max() else shares[likelihood.argmax()]
    return float((lost - won - rows * loss) / sqrt(rows * (2 * share + loss * (1 - loss))))


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (0, 2), (2, 3)])
def test_the_p_value_counts_every_outcome(lost: int, won: int) -> None:
    """Of 14 examples: the outcomes with as low a score, each by the multinomial distribution, at the worst share."""
    rows, margin = 14, 0.2
    seen = score(lost, won, rows, margin)
    outcomes = [(b, c) for b, c in product(range(rows + 1), repeat=2) if b + c <= rows]
    as_low = [(b, c) for b, c in outcomes if score(b, c, rows, margin) <= seen + 1e-3]
    ways = [comb(rows, b) * comb(rows - b, c) for b, c in as_low]
    expected = max(
        sum(
            way * (share + margin) ** b * share**c * (1 - 2 * share - margin) ** (rows - b - c)
            for way, (b, c) in zip(ways, as_low, strict=True)
        )
        for share in np.linspace(0, (1 - margin) / 2, 400)
    )
    assert p_of_less(lost, won, rows, margin) == pytest.approx(expected, abs=2e-3)


def test_no_change_in_few_examples_shows_little() -> None:
    """A loss of 1 point leaves 298 examples without a change in 0.99²⁹⁸ = 5.003 % of samples."""
    assert Change(0, 0, 298).p_within(0.01) == pytest.approx(0.99**298, rel=1e-3)
    assert Change(0, 0, 298).p_within(0.01) > 0.05 > Change(0, 0, 299).p_within(0.01)


@pytest.mark.parametrize("gains", [0.0, 0.01])
def test_a_loss_of_the_margin_passes_in_at_most_five_per_cent_of_samples(gains: float) -> None:
    """By 2,000 simulations; a rate of 5 % has a standard error of 0.5 points there."""
    rows, margin = 300, 0.03
    drawn = np.random.default_rng(0).multinomial(rows, [gains + margin, gains, 1 - 2 * gains - margin], 2_000)
    outcomes, times = np.unique(drawn[:, :2], axis=0, return_counts=True)
    near = {(b, c) for b, c in outcomes.tolist() if b - c < rows * margin}  # others lost more than they may
    passed = [(b, c) in near and Change(b, c, rows).p_within(margin) <= 0.05 for b, c in outcomes.tolist()]
    assert times[passed].sum() / 2_000 <= 0.05 + 2 * 0.005
    assert times[passed].sum() / 2_000 >= 0.02  # and it is no test that always says no


def test_gains_and_losses_change_places() -> None:
    assert Change(3, 9, 400).p_within(0.04) == Change(9, 3, 400).p_within(0.04)
    low, high = Change(3, 9, 400).interval()
    assert Change(9, 3, 400).interval() == pytest.approx((-high, -low))
    assert Change(3, 9, 400).value == pytest.approx(0.015)


def test_the_interval_is_the_changes_that_the_score_does_not_reject() -> None:
    """Of 9 and 1 of 50, and where nothing changed, which is no interval of width 0."""
    low, high = Change(9, 1, 50).interval()
    quantile = stats.norm.isf(0.025)
    assert score(9, 1, 50, -low) == pytest.approx(-quantile, abs=1e-3)
    assert score(9, 1, 50, -high) == pytest.approx(quantile, abs=1e-3)
    assert Change(0, 0, 100).interval()[1] == pytest.approx(quantile**2 / (100 + quantile**2), rel=1e-6)


def test_from_answers() -> None:
    before, after = np.array([True, True, False, False]), np.array([True, False, True, True])
    assert Change.of(before, after) == Change(lost=1, won=2, rows=4)
    with pytest.raises(UserError, match="of 4 examples"):
        Change.of(before, after[:3])
    with pytest.raises(UserError, match="at least 1"):
        Change.of(before[:0], after[:0])
