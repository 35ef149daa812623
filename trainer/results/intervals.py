"""Confidence interval of a test score, from the score and the number of examples alone."""

from __future__ import annotations

import math
from statistics import NormalDist

Interval = tuple[float, float]


def interval(metric: str, value: float, rows: int) -> tuple[str, Interval] | None:
    """The 95 % interval of `value` and the name of its method; None for a metric that has no simple one."""
    if metric == "accuracy":
        return "Wilson", wilson(value, rows)
    if metric == "spearman" and rows > 3:
        return "Bonett–Wright", bonett_wright(value, rows)
    return None


def wilson(share: float, rows: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion `share` of `rows` trials (Wilson 1927, JASA 22, eq. 9–10)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return max(0.0, centre - half), min(1.0, centre + half)


def bonett_wright(correlation: float, rows: int, confidence: float = 0.95) -> Interval:
    """For Spearman's correlation: Fisher's z with variance (1 + ρ²/2)/(n - 3) (Bonett and Wright 2000, eq. 4)."""
    held = min(max(correlation, -1 + 1e-12), 1 - 1e-12)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt((1 + held * held / 2) / (rows - 3))
    return math.tanh(math.atanh(held) - half), math.tanh(math.atanh(held) + half)
