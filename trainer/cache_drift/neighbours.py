"""Whether a text's nearest neighbours in one cache are those in the other.

Of `k` neighbours among all texts but itself (Euclidean, coordinates standardised), the share that both caches name. By
chance it is k / (n − 1) of n texts. Some texts are asked about, and neighbours are always sought among all: those among
a sample would be others, further away.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Nearest:
    """The nearest rows to some queries, of rows that come in pieces.

    Parameters
    ----------
    queries
        Rows to find neighbours of, float64.
    places
        Which of all texts these are, [queries]: none is its own neighbour.
    k
        How many neighbours.
    """

    def __init__(self, queries: Float[Tensor, "queries width"], places: Int[Tensor, " queries"], k: int) -> None:
        self._queries, self._places, self._k = queries, places, k
        self._distances = torch.empty(len(queries), 0, dtype=torch.float64)
        self.found = torch.empty(len(queries), 0, dtype=torch.int64)
        """Texts, the nearest `k` of those that were added, [queries, k]."""

    def add(self, x: Float[Tensor, "rows width"], first: int) -> None:
        """Some more rows, float64, the texts from `first` on."""
        # But for the query's own square, which changes no order.
        distances = x.square().sum(1) - 2 * self._queries @ x.T
        own = self._places - first
        inside = (own >= 0) & (own < len(x))
        distances[inside.nonzero()[:, 0], own[inside]] = torch.inf
        texts = torch.arange(first, first + len(x)).expand_as(distances)
        every = torch.cat([self._distances, distances], dim=1)
        nearest = every.topk(min(self._k, every.shape[1]), dim=1, largest=False)
        self._distances = nearest.values
        self.found = torch.cat([self.found, texts], dim=1).gather(1, nearest.indices)


def overlap(one: Int[Tensor, "queries k"], other: Int[Tensor, "queries k"]) -> Float[Tensor, " queries"]:
    """The share of neighbours that both have, float64."""
    return (one[:, :, None] == other[:, None, :]).any(2).double().mean(1)
