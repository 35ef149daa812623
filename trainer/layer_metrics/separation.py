"""Separation of labels in a layer: Fisher's ratio over all texts, silhouettes over a sample.

    Fisher = Σ_d B_d / T_d  ÷  Σ_d W_d / T_d

B, W and T = B + W are sums of squares between labels, within them and in all, coordinate by coordinate: each counts
alike, whatever its spread, so that no massive one is the whole figure. By chance alone it is near (C − 1) / (n − C).
A silhouette is (b − a) / max(a, b): a is a text's mean distance to others of its label, b that to the nearest other
label (Rousseeuw 1987); coordinates are standardised here too.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from trainer.treatment import Standardise

ROUNDING = 1e-12
"""A part of a sum of squares that is nothing."""


class Fisher:
    """Fisher's ratio of a layer's labelled rows, in one pass."""

    def __init__(self, labels: int, dim: int) -> None:
        self._counts = torch.zeros(labels, dtype=torch.float64)
        self._sums = torch.zeros(labels, dim, dtype=torch.float64)
        self._squares = torch.zeros(dim, dtype=torch.float64)
        self._shift: Tensor | None = None

    def add(self, x: Float[Tensor, "rows dim"], y: Int[Tensor, " rows"]) -> None:
        """Some more rows, float64, and their labels."""
        if not len(x):
            return
        if self._shift is None:
            self._shift = x.mean(0)
        moved = x - self._shift
        self._counts += torch.bincount(y, minlength=len(self._counts))
        self._sums.index_add_(0, y, moved)
        self._squares += moved.square().sum(0)

    def value(self) -> tuple[float | None, str]:
        """The ratio, or None and why there is none."""
        present = self._counts > 0
        counts, rows = self._counts[present], self._counts.sum()
        if len(counts) < 2 or rows <= len(counts):
            return None, f"{int(rows)} texts of {len(counts)} labels: no two labels, or none with two texts"
        means, mean = self._sums[present] / counts[:, None], self._sums.sum(0) / rows
        between = (counts[:, None] * (means - mean).square()).sum(0)
        total = self._squares - rows * mean.square()
        varies = total > ROUNDING * self._squares
        if not varies.any():
            return None, "no text differs from another"
        explained = (between[varies] / total[varies]).clamp(max=1).sum()
        within = int(varies.sum()) - explained
        if within <= ROUNDING * explained:
            return None, "no text differs from another of its label"
        return float(explained / within), ""


def silhouettes(x: Float[Tensor, "rows dim"], y: Int[Tensor, " rows"]) -> NDArray | None:  # type: ignore[type-arg]
    """Silhouette of every row whose label another row has; None if fewer than two labels qualify, or all rows are
    equal.
    """
    from sklearn.metrics import silhouette_samples

    several = torch.bincount(y)[y] > 1
    x, y = x[several], y[several]
    if len(y.unique()) < 2 or len(y.unique()) >= len(y) or not (x != x[0]).any():
        return None
    treated = Standardise(1, x.shape[1]).fit(x[:, None].float())(x[:, None].float())[:, 0].double()
    found: NDArray = silhouette_samples(treated.numpy(), y.numpy())  # type: ignore[type-arg]
    return found
