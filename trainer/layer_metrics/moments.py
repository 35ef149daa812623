"""The Gram matrix of a layer's rows in one pass: [dim, dim] or [texts, texts], whichever is smaller."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


class Moments:
    """Sums over a layer's rows in float64.

    With more texts than coordinates those of xxᵀ, else the rows themselves, which then take no more. Rows are measured
    from the first piece's mean: of a mean that dwarfs the spread, the centred matrix would else keep few digits.
    """

    def __init__(self, texts: int, dim: int) -> None:
        self.texts, self.dim, self._seen = texts, dim, 0
        self._is_wide = texts <= dim
        self._shift: Tensor | None = None
        self._sum = torch.zeros(dim, dtype=torch.float64)
        shape = (texts, dim) if self._is_wide else (dim, dim)
        self._held = torch.zeros(shape, dtype=torch.float64)

    def add(self, x: Float[Tensor, "rows dim"]) -> None:
        """Some more rows, float64."""
        if self._shift is None:
            self._shift = x.mean(0)
        moved = x - self._shift
        self._sum += moved.sum(0)
        if self._is_wide:
            self._held[self._seen : self._seen + len(x)] = moved
        else:
            self._held.addmm_(moved.T, moved)
        self._seen += len(x)

    def gram(self, centred: bool) -> Float[Tensor, "size size"]:
        """The matrix of all rows, or of those less their mean."""
        assert self._shift is not None
        mean = self._sum / self._seen
        if self._is_wide:
            rows = self._held - mean if centred else self._held + self._shift
            return rows @ rows.T
        around_mean = self._held - self._seen * torch.outer(mean, mean)
        if centred:
            return around_mean
        whole = mean + self._shift
        return around_mean + self._seen * torch.outer(whole, whole)
