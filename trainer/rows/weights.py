"""What each example counts, where examples count differently: in sums over them, and in how often they are drawn."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Weights = Float[Tensor, " rows"] | None
"""Of each example, float64 and above 0; None where all count 1."""


@runtime_checkable
class HasWeights(Protocol):
    """Examples that may count differently."""

    @property
    def weights(self) -> Tensor | None:
        """Of each example; None where all count 1."""


def weights_of(rows: object) -> Tensor | None:
    """What each of these examples counts; None where all count 1, as streamed examples and pairs do."""
    return rows.weights if isinstance(rows, HasWeights) else None


def weights_at(rows: object, chosen: Int[Tensor, " chosen"]) -> Tensor | None:
    """The same of the examples at these positions."""
    weights = weights_of(rows)
    return None if weights is None else weights[chosen]


def joined_weights(one: object, first: int, other: object, second: int) -> Tensor | None:
    """What the examples of `one`, `first` in number, and then those of `other`, `second` in number, count."""
    weights = weights_of(one), weights_of(other)
    if weights[0] is None and weights[1] is None:
        return None
    every = zip(weights, (first, second), strict=True)
    return torch.cat([torch.ones(rows).double() if own is None else own for own, rows in every])


def drawn_by_weight(weights: Float[Tensor, " rows"], generator: torch.Generator) -> Int[Tensor, " rows"]:
    """As many positions as there are rows, shuffled, each as often as its share of the weights says.

    That number is rounded down or up at random, for all rows by one draw (systematic sampling): a row of the mean
    weight is drawn once, and one of twice the mean weight twice.
    """
    rows = len(weights)
    ends = weights.double().cumsum(0)
    marks = torch.arange(rows) + torch.rand((), generator=generator, dtype=torch.float64)
    drawn = torch.searchsorted(ends * (rows / ends[-1]), marks, right=True).clamp(max=rows - 1)
    return drawn[torch.randperm(rows, generator=generator)]
