"""Repeats a measurement until its figures agree with one another, or says that the machine is too noisy for it.

A round measures every way once, one after the other, and gives figures: ratios of ways that stood side by side. What
counts is how far these differ from round to round. A busy machine that slows all ways alike harms little; one that
comes and goes shows in the spread, and more rounds help as far as they can.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

ENOUGH, QUICK_ENOUGH = 0.1, 0.3
"""Spreads with which a figure can be told, and with which `--quick` shows that the benchmark works."""


@dataclass(frozen=True)
class Rounds:
    """What the rounds gave: name of a figure → its value in each round."""

    values: dict[str, list[float]]
    enough: float
    unusable: dict[str, str] = field(default_factory=dict)
    """Name → why no number of rounds would have made a figure of it."""

    def medians(self, digits: int = 2) -> dict[str, float]:
        """Each figure."""
        return {name: round(median(values), digits) for name, values in self.values.items()}

    def spreads(self) -> dict[str, float]:
        """Each figure's interquartile range as a share of its median, under `…_spread`."""
        return {f"{name}_spread": round(spread(values), 3) for name, values in self.values.items()}

    def noise(self) -> dict[str, str]:
        """Name → why the figure cannot be told; empty where all can."""
        wide = {name: spread(values) for name, values in self.values.items()}
        return {
            name: f"differs by {share:.0%} of itself over {len(self.values[name])} rounds, of {self.enough:.0%} allowed"
            for name, share in wide.items()
            if not share <= self.enough
        } | self.unusable


def spread(values: list[float]) -> float:
    """The interquartile range over the median; infinite for one value, and where the median is no positive number."""
    middle = median(values)
    if len(values) < 2 or not middle > 0:
        return float("inf")
    first, _, third = quantiles(values, n=4, method="inclusive")
    return (third - first) / middle


def rounds_until_steady(
    a_round: Callable[[], Mapping[str, float]], least: int, most: int, enough: float = ENOUGH
) -> Rounds:
    """At least `least` rounds, then more until every figure's spread is at most `enough`, and `most` in all."""
    found = Rounds({}, enough)
    for number in range(1, most + 1):
        for name, value in a_round().items():
            found.values.setdefault(name, []).append(value)
        if number >= least and not found.noise():
            break
        print(f"round {number}: {found.medians()}", file=sys.stderr, flush=True)
    return found


def report(document: Mapping[str, Any], *measured: Rounds) -> None:
    """Prints the document with all spreads as the last line; exits with 1 and says why where a figure is too noisy."""
    noise = {name: why for rounds in measured for name, why in rounds.noise().items()}
    spreads = {name: value for rounds in measured for name, value in rounds.spreads().items()}
    for name, why in noise.items():
        print(f"too noisy: {name} {why}; try again on a quiet machine", file=sys.stderr, flush=True)
    print(json.dumps({**document, **spreads, "too_noisy": sorted(noise)}))
    if noise:
        sys.exit(1)
