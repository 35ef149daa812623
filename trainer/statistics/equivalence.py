"""Equivalence test of two runs on the same examples: is a change of accuracy shown to be small?

Of n examples, b are right in the first run alone and c in the second alone; the change is (c − b) / n. A change is
within ±δ at an error rate α if both of its one-sided hypotheses, a loss of at least δ and a gain of at least δ, are
rejected at α (two one-sided tests; Schuirmann 1987). The statistic of each is Tango's score (1998, Statistics in
Medicine 17:891), which knows what b = c = 0 of few examples does not show:

    T(δ) = (b − c − nδ) / √(n (2q + δ (1 − δ))),   q the likeliest share of c where the loss is δ

The p-value is exact: the probability of a T as low as the one seen, where the loss is δ, at the share of c for which it
is highest (Hsueh, Liu and Chen 2001, Biometrics 57). By normal quantiles 268 examples without a change are within a
point at 5 %, though a true loss of one point leaves 6.8 % of such samples without one. The interval inverts T with
normal quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Bool
from scipy import optimize, special, stats

from trainer.statistics.unsuitable import require_rows, require_same

Array = np.ndarray[Any, np.dtype[Any]]
NUISANCE = 96
"""Shares of c that are tried; the probability is a polynomial in it."""
TAILS = 1e-9
"""Tails of the binomial distribution of c that are left out, and added to the p-value."""


@dataclass(frozen=True)
class Change:
    """Examples that the first run alone has right (`lost`), that the second alone has (`won`), of this many `rows`."""

    lost: int
    won: int
    rows: int

    @classmethod
    def of(cls, before: Bool[np.ndarray, " rows"], after: Bool[np.ndarray, " others"]) -> Change:
        """Counts the changes between two vectors of right answers. Raises `UserError` for unequal or zero lengths."""
        require_same("answers", len(before), len(after), "change of accuracy")
        require_rows(len(before), 1, "change of accuracy")
        return cls(int((before & ~after).sum()), int((~before & after).sum()), len(before))

    @property
    def value(self) -> float:
        """Accuracy of the second run less that of the first."""
        return (self.won - self.lost) / self.rows

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Tango's score interval of the change."""
        quantile = NormalDist().inv_cdf(0.5 + confidence / 2)
        low = -_loss_at(self.lost, self.won, self.rows, -quantile)
        return low, _loss_at(self.won, self.lost, self.rows, -quantile)

    def p_within(self, margin: float) -> float:
        """Larger one-sided p-value of the hypothesis that the change is not within ±`margin`; 0 < `margin` < 1."""
        return max(p_of_less(self.lost, self.won, self.rows, margin), p_of_less(self.won, self.lost, self.rows, margin))


def p_of_less(lost: int, won: int, rows: int, margin: float) -> float:
    """Exact p-value of the hypothesis that the true loss is `margin` or more."""
    seen = float(score(np.array(lost), np.array(won), rows, margin))
    shares = np.concatenate([[0.0], np.geomspace(1e-3 / rows, (1 - margin) / 2, NUISANCE - 1)])
    fewest, most = (stats.binom.ppf(tail, rows, shares).clip(0).astype(int) for tail in (TAILS / 2, 1 - TAILS / 2))
    gains = np.arange(most.max() + 1)
    losses = _most_lost(gains, rows, margin, seen)
    parts = zip(shares, fewest, most + 1, strict=True)
    return max(_probability(s, gains[a:b], losses[a:b], rows, margin) for s, a, b in parts) + TAILS


def _probability(share: float, gains: Array, losses: Array, rows: int, margin: float) -> float:
    """Probability of at most `losses` losses for each number of gains, if `share` gain and `share` + `margin` lose."""
    ways = special.gammaln(rows + 1) - special.gammaln(gains + 1) - special.gammaln(rows - gains + 1)
    here = np.exp(ways + special.xlogy(gains, share) + special.xlog1py(rows - gains, -share))
    below = special.bdtr(losses.clip(min=0), rows - gains, min(1.0, (share + margin) / (1 - share)))
    return float((here * np.where(losses >= 0, below, 0.0)).sum())


def _most_lost(gains: Array, rows: int, margin: float, seen: float) -> Array:
    """For each number of gains the most losses whose score is at most `seen`, −1 for none: it rises with the losses."""
    low, high = np.full(len(gains), -1), rows - gains
    while (low < high).any():
        middle = (low + high + 1) // 2
        fits = score(middle, gains, rows, margin) <= seen + 1e-9
        low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
    return low


def score(lost: Array, won: Array, rows: int, margin: float) -> Array:
    """Tango's T of a supposed loss of `margin`, 0 to 1, for each number of lost and won examples."""
    a = 2 * rows
    b = -lost - won + (2 * rows - lost + won) * margin
    c = -won * margin * (1 - margin)
    share = (np.sqrt(np.maximum(b * b - 4 * a * c, 0)) - b) / (2 * a)
    variance = rows * (2 * share + margin * (1 - margin))
    return np.asarray((lost - won - rows * margin) / np.sqrt(np.maximum(variance, 1e-300)))


def _loss_at(lost: int, won: int, rows: int, quantile: float) -> float:
    """The loss whose score is `quantile`; scores fall as the loss that is supposed rises."""
    ends = -1 + 1e-12, 1 - 1e-12
    scores = [_score_of(loss, lost, won, rows) - quantile for loss in ends]
    if scores[0] <= 0 or scores[1] >= 0:
        return -1.0 if scores[0] <= 0 else 1.0
    return float(optimize.brentq(lambda loss: _score_of(loss, lost, won, rows) - quantile, *ends, xtol=1e-10))


def _score_of(loss: float, lost: int, won: int, rows: int) -> float:
    """A negative loss is a gain, of which the two change places."""
    if loss >= 0:
        return float(score(np.array(lost), np.array(won), rows, loss))
    return -float(score(np.array(won), np.array(lost), rows, -loss))
