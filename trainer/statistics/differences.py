"""Uncertainty of the difference between two heads that were each trained with several seeds.

Heads h with seeds s = 1 … S_h predict the same N examples; F_hs are the figures. Examples are paired, seeds are not:
the runs of one head have nothing to do with those of another. The difference is that of the means over seeds, and its
variance has two parts,

    V = V_rows + Σ_h C_h / S_h
    V_rows = wᵀ Σ w                              Σ: covariance of all figures over the choice of examples
    C_h = max(0, var_s(F_hs) - (mean variance - mean covariance within Σ of head h))

where w is 1/S for the head's seeds and -1/S for the baseline's. What is subtracted in C_h is the scatter of seeds that
comes from their finite test split, which V_rows has already. The interval is difference ± t √V with Satterthwaite's
degrees of freedom V² / (V_rows²/(N-1) + Σ_h (C_h/S_h)²/(S_h-1)).

These are the variance components of Obuchowski and Rockette (1995, Communications in Statistics: Simulation and
Computation 24) for readers (our seeds) nested within tests (our heads), with a variance for each head as in Welch's t
test; see Hillis (2014, Statistics in Medicine 33:330, "A marginal-mean ANOVA approach"). One thing is ours: Hillis
gives (var_s F_hs / S_h)² the degrees S_h - 1, we give them to C_h alone, because the part that comes from the examples
is as well known as N allows; without that, three seeds that truly do not vary are judged too cautiously. What other
ways come to:

- resampling examples alone, as is usual, takes seeds for given. Its false alarms at 5 % grow with the examples: with
  2,000 and 3 seeds 13 % where seeds vary by 0.5 points, 29 % where by 1 point;
- resampling seeds too has (S-1)/S of their variance, two thirds for three seeds, and normal quantiles where t with few
  degrees is right;
- adding var_s(F)/S without the subtraction counts one part twice.

False alarms of this one, by 2,000 simulations each (`python -m benchmarks.statistics` prints them): 3.2 to 5.9 % with 2
to 5 seeds, 100 to 2,000 examples and seeds that vary by 0 to 1 points; 6.6 % where those of one head vary by 1 point
and those of the other not at all. With paired seeds Hillis's degrees are kept: ours raise up to 9 % of false alarms for
three differences.

A head with one seed tells nothing of how its seeds vary: its part is left out, and `seeds_vary` says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from trainer.statistics.estimates import Estimate
from trainer.statistics.unsuitable import require_same

NOTHING = 1e-12
"""A standard error below this is rounding."""


@dataclass(frozen=True)
class Difference:
    """Difference between a head's mean figure and the baseline's, in the figure's unit (1 = 100 points)."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided, that the true difference is 0."""
    error: float
    """Standard error."""
    degrees: float
    """Degrees of freedom of the t distribution."""
    seeds_vary: bool
    """True if both have two seeds or more. If not, the interval is about these runs alone, not about heads trained
    again.
    """


def difference(head: Estimate, baseline: Estimate, confidence: float = 0.95, paired_seeds: bool = False) -> Difference:
    """The difference with its interval and p-value.

    With `paired_seeds` seed s of both heads shares what varies, such as the few training examples that it drew: then
    the scatter over seeds is that of their differences. These are few, hence Hillis's degrees there. Raises `UserError`
    for estimates of other examples, or, where seeds are paired, of other numbers of seeds.
    """
    require_same("a baseline's predictions", head.rows, baseline.rows, "comparison of heads")
    gap = head.value - baseline.value
    several = head.seeds > 1 and baseline.seeds > 1
    if _equal(head, baseline):
        return Difference(0.0, 0.0, 0.0, 1.0, 0.0, head.degrees, several)
    rows = _of_rows(head, baseline, gap)
    varying = (head.less(baseline),) if paired_seeds else (head, baseline)
    parts = [_of_seeds(one, hillis=paired_seeds) for one in varying if one.seeds > 1]
    variance = rows + sum(part for part, _ in parts)
    error = math.sqrt(variance)
    degrees = variance**2 / (rows**2 / head.degrees + sum(spread for _, spread in parts))
    half = error * float(stats.t.ppf(0.5 + confidence / 2, degrees))
    p = 2 * float(stats.t.sf(abs(gap) / error, degrees))
    return Difference(gap, gap - half, gap + half, p, error, degrees, several)


def _equal(one: Estimate, other: Estimate) -> bool:
    return np.array_equal(one.values, other.values) and np.array_equal(one.deviations, other.deviations)


def _of_rows(head: Estimate, baseline: Estimate, gap: float) -> float:
    """Variance of the difference over the choice of examples."""
    by_draw = head.deviations.mean(0) - baseline.deviations.mean(0)
    variance = float(by_draw @ by_draw)
    if variance > NOTHING**2:
        return variance
    # No example differs from the others: as if two more had, one either way (Agresti and Min 2005, Stat. Med. 24).
    more = head.rows + 2
    return (head.rows * gap**2 + 1 - (head.rows * gap) ** 2 / more) / more**2


def _of_seeds(estimate: Estimate, hillis: bool) -> tuple[float, float]:
    """C / S, and its square by its degrees of freedom, or by `hillis`'s."""
    covariance = estimate.deviations @ estimate.deviations.T
    seeds = estimate.seeds
    own = float(covariance.trace())
    shared = (float(covariance.sum()) - own) / (seeds * (seeds - 1))
    scatter = float(estimate.values.var(ddof=1))
    component = max(0.0, scatter - (own / seeds - shared))
    return component / seeds, ((scatter if hillis else component) / seeds) ** 2 / (seeds - 1)
