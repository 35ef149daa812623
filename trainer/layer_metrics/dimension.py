"""Intrinsic dimension by the two nearest neighbours of each text, TwoNN (Facco et al., Scientific Reports 7, 2017).

In d dimensions of locally even density μ = r₂ / r₁ has P(μ > t) = t^−d, so log μ is exponential with rate d. Its
largest tenth, where near-copies of texts and outliers are, is known only to be large, which the likelihood takes as it
is (m of n observed, the others censored at the m-th):

    d = (m − 1) / (Σ_{i≤m} log μ₍ᵢ₎ + (n − m) log μ₍ₘ₎),   standard error d / √(m − 2)

The paper leaves that tenth out of a fit by eye of the same line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

OBSERVED = 0.9
LEAST = 10
"""Distinct rows: with fewer the standard error is more than 40 % of the figure."""
CANDIDATES = 8
"""Neighbours by a product of rows, of which the two nearest are found by their differences, without its rounding."""
BLOCK = 512


@dataclass(frozen=True)
class Dimension:
    """An estimate and its standard error, of this many distinct rows; None where there is none, and then `why`."""

    value: float | None
    error: float | None
    rows: int
    why: str = ""


def two_nn(x: Float[Tensor, "rows dim"]) -> Dimension:
    """Intrinsic dimension of rows, float64. Equal rows, whose distance 0 has no logarithm, count once."""
    rows = torch.unique(x, dim=0)
    if len(rows) < LEAST:
        return Dimension(None, None, len(rows), f"{len(rows)} different rows, {LEAST} are needed")
    ratios = _log_ratios(rows - rows.mean(0)).sort().values
    observed = math.ceil(OBSERVED * len(ratios))
    total = float(ratios[:observed].sum() + (len(ratios) - observed) * ratios[observed - 1])
    if total <= 0:
        return Dimension(None, None, len(rows), "all texts have their two nearest ones at one distance")
    value = (observed - 1) / total
    return Dimension(value, value / math.sqrt(observed - 2), len(rows))


def _log_ratios(x: Float[Tensor, "rows dim"]) -> Float[Tensor, " rows"]:
    """log(r₂ / r₁) of every row."""
    squares, found = x.square().sum(1), []
    for start in range(0, len(x), BLOCK):
        part = x[start : start + BLOCK]
        distances = squares - 2 * part @ x.T  # but for the part's own squares, which change no order
        distances[torch.arange(len(part)), torch.arange(start, start + len(part))] = torch.inf
        near = distances.topk(min(CANDIDATES, len(x) - 1), largest=False).indices
        exact = torch.stack([(x[chosen] - row).norm(dim=1) for row, chosen in zip(part, near, strict=True)])
        nearest = exact.topk(2, largest=False, sorted=True).values
        found.append((nearest[:, 1] / nearest[:, 0]).log())
    return torch.cat(found)
