"""Lengths, angles and massive values of a layer's rows, as sums over all of them.

The mean cosine of all pairs is exact without a pair: Σ_{i≠j} uᵢ·uⱼ = ‖Σ uᵢ‖² − n, of rows u of length 1. A value is
massive where its magnitude is above 100 times the median one of its row: Sun et al. (2402.17762) take 1,000 times of a
token's state, which a mean over tokens dilutes. Counted is the part of the row's squared length that they hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

MASSIVE = 100.0


@dataclass
class Mean:
    """A mean of numbers that come in pieces, and its standard error."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    """About the mean."""

    def add(self, values: Float[Tensor, " values"]) -> None:
        """Some more of them, which are merged pairwise (Chan, Golub and LeVeque 1983)."""
        if not (added := len(values)):
            return
        total, mean = float(values.sum()), float(values.mean())
        if self.count:
            shift = mean - self.total / self.count
            self.squares += shift**2 * self.count * added / (self.count + added)
        self.squares += float((values - mean).square().sum())
        self.count, self.total = self.count + added, self.total + total

    @property
    def value(self) -> float | None:
        """Mean of the numbers; None without any."""
        return self.total / self.count if self.count else None

    @property
    def error(self) -> float | None:
        """Standard error of the mean; None for fewer than two numbers."""
        return math.sqrt(self.squares / (self.count - 1) / self.count) if self.count > 1 else None


class Geometry:
    """Geometry of a layer's rows, in one pass. Rows of zeros have no direction, and rows with median 0 no massive
    values.
    """

    def __init__(self, dim: int) -> None:
        self.seen = 0
        self.norm, self.massive = Mean(), Mean()
        self.directed = 0
        self._directions = torch.zeros(dim, dtype=torch.float64)

    def add(self, x: Float[Tensor, "rows dim"]) -> None:
        """Some more rows, float64."""
        self.seen += len(x)
        norms = x.norm(dim=1)
        self.norm.add(norms)
        known = norms > 0
        self.directed += int(known.sum())
        self._directions += (x[known] / norms[known, None]).sum(0)
        sizes = x.abs()
        median = sizes.median(1).values  # the lower one of an even number
        told = median > 0
        share = (x.square() * (sizes > MASSIVE * median[:, None])).sum(1) / norms.square()
        self.massive.add(share[told])

    @property
    def cosine(self) -> float | None:
        """Mean over all pairs of rows; None where there is no pair."""
        n = self.directed
        return (float(self._directions.square().sum()) - n) / (n * (n - 1)) if n > 1 else None
