"""A split's examples in memory: batches are indices into one tensor, without per-example work or worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainer.rows.weights import Weights, drawn_by_weight, joined_weights, weights_at, weights_of
from trainer.treatment import Treat

Batch = tuple[Any, Tensor]
"""x [batch, layers, dim], or `Tokens` of this many texts, and y [batch, ...]; of pairs x has 2·batch texts."""


@runtime_checkable
class Batches(Protocol):
    """Shuffled batches; every pass is another epoch, whose order `generator` draws."""

    generator: torch.Generator

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...

    def close(self) -> None:
        """Frees what is kept from one pass to the next."""


@runtime_checkable
class Examples(Protocol):
    """A split's examples, wherever their rows are."""

    @property
    def y(self) -> Tensor:
        """Targets, [rows] or [rows, labels]."""

    @property
    def text_ids(self) -> list[str]:
        """Texts, [rows]; of pairs the first ones."""

    def chunks(self, size: int) -> Iterator[Batch]:
        """All examples in one order, at most `size` at a time."""

    def order(self) -> Int[Tensor, " rows"]:
        """Positions of the examples in the order of `chunks`."""

    def shuffled(self, batch_size: int, seed: int, balanced: bool = False) -> Batches:
        """Batches for training; `balanced` draws every label as often as the others, with replacement."""


@dataclass(frozen=True)
class Rows:
    """The examples of one split in memory; `weights` says what each counts, None that all count 1."""

    x: Float[Tensor, "rows layers dim"]
    y: Tensor
    text_ids: list[str]
    weights: Weights = None

    def batch(self, chosen: Int[Tensor, " chosen"]) -> Batch:
        """The examples at these positions."""
        # Whole rows are copied at a time; indexing goes element by element and takes twice as long.
        return self.x.index_select(0, chosen), self.y[chosen]

    def take(self, chosen: Int[Tensor, " chosen"]) -> Rows:
        """A copy of the examples at these positions."""
        ids = [self.text_ids[place] for place in chosen.tolist()]
        return Rows(self.x[chosen], self.y[chosen], ids, weights_at(self, chosen))

    def joined(self, other: Rows) -> Rows:
        """These examples, and then those of another split."""
        weights = joined_weights(self, len(self.y), other, len(other.y))
        ids = [*self.text_ids, *other.text_ids]
        return Rows(torch.cat([self.x, other.x]), torch.cat([self.y, other.y]), ids, weights)

    def chunks(self, size: int) -> Iterator[Batch]:
        """All examples in order."""
        yield from zip(self.x.split(size), self.y.split(size), strict=True)

    def order(self) -> Int[Tensor, " rows"]:
        """The identity: rows are in the order of the examples."""
        return torch.arange(len(self.y))

    def shuffled(self, batch_size: int, seed: int, balanced: bool = False) -> IndexBatches:
        """Batches for training."""
        return IndexBatches(self, batch_size, seed, balanced)


@dataclass(frozen=True)
class PairRows:
    """The examples of one split in memory, two texts each: their rows follow each other in a batch.

    Parameters
    ----------
    x
        A row for every distinct text.
    places
        Rows of each example's two texts.
    y, text_ids
        Targets, and the first texts.
    treat
        What is done to the rows of a batch, which are its own to change; None for nothing.
    """

    x: Float[Tensor, "texts layers dim"]
    places: Int[Tensor, "rows 2"]
    y: Tensor
    text_ids: list[str]
    treat: Treat | None = None

    def batch(self, chosen: Int[Tensor, " chosen"]) -> Batch:
        """The examples at these positions: x [2·chosen, layers, dim]."""
        x = self.x.index_select(0, self.places[chosen].flatten())
        return (x if self.treat is None else self.treat(x)), self.y[chosen]

    def take(self, chosen: Int[Tensor, " chosen"]) -> PairRows:
        """A copy of the examples at these positions, with the texts that they need."""
        texts, places = self.places[chosen].unique(return_inverse=True)
        ids = [self.text_ids[place] for place in chosen.tolist()]
        return PairRows(self.x[texts], places, self.y[chosen], ids, self.treat)

    def joined(self, other: PairRows) -> PairRows:
        """These examples, and then those of another split, treated alike."""
        places = torch.cat([self.places, len(self.x) + other.places])
        ids = [*self.text_ids, *other.text_ids]
        return PairRows(torch.cat([self.x, other.x]), places, torch.cat([self.y, other.y]), ids, self.treat)

    def chunks(self, size: int) -> Iterator[Batch]:
        """All examples in order."""
        return (self.batch(chosen) for chosen in self.order().split(size))

    def order(self) -> Int[Tensor, " rows"]:
        """The identity: rows are in the order of the examples."""
        return torch.arange(len(self.y))

    def shuffled(self, batch_size: int, seed: int, balanced: bool = False) -> IndexBatches:
        """Batches for training."""
        return IndexBatches(self, batch_size, seed, balanced)


@runtime_checkable
class Indexed(Protocol):
    """Examples in memory: those at any positions may be had at once."""

    @property
    def y(self) -> Tensor:
        """Targets."""

    @property
    def text_ids(self) -> list[str]:
        """Texts; none where nobody asks."""

    def batch(self, chosen: Int[Tensor, " chosen"]) -> Batch:
        """The examples at these positions."""


@dataclass(frozen=True)
class Part:
    """Some of the examples of others, by their positions there; no row is copied before it is asked for."""

    whole: Indexed
    chosen: Int[Tensor, " rows"]

    @property
    def y(self) -> Tensor:
        """Targets."""
        return self.whole.y[self.chosen]

    @property
    def text_ids(self) -> list[str]:
        """Texts; none where the whole has none."""
        ids = self.whole.text_ids
        return [ids[place] for place in self.chosen.tolist()] if ids else []

    @property
    def weights(self) -> Tensor | None:
        """What each counts; None where all count 1."""
        return weights_at(self.whole, self.chosen)

    def batch(self, chosen: Int[Tensor, " chosen"]) -> Batch:
        """The examples at these positions."""
        return self.whole.batch(self.chosen[chosen])

    def chunks(self, size: int) -> Iterator[Batch]:
        """All examples in order."""
        return (self.batch(chosen) for chosen in self.order().split(size))

    def order(self) -> Int[Tensor, " rows"]:
        """The identity: rows are in the order of the examples."""
        return torch.arange(len(self.chosen))

    def shuffled(self, batch_size: int, seed: int, balanced: bool = False) -> IndexBatches:
        """Batches for training."""
        return IndexBatches(self, batch_size, seed, balanced)


class IndexBatches:
    """Shuffled batches of rows that are in memory: a batch is an index.

    An epoch draws as many rows as there are: each once, or as often as its weight says where rows have weights.
    `balanced` draws with replacement, each label as often as the others, and of a label its rows by their weights.
    """

    def __init__(self, rows: Indexed, batch_size: int, seed: int, balanced: bool = False) -> None:
        self._rows = rows
        self._batch_size = batch_size
        self._balanced = balanced
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self._rows.y) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for chosen in self._order().split(self._batch_size):
            yield self._rows.batch(chosen)

    def close(self) -> None:
        """Does nothing, as nothing is kept."""

    def _order(self) -> Tensor:
        y, weights = self._rows.y, weights_of(self._rows)
        if self._balanced:
            shares = label_weights(y, weights)[y]
            shares = shares if weights is None else shares * weights
            return torch.multinomial(shares, len(y), replacement=True, generator=self.generator)
        if weights is not None:
            return drawn_by_weight(weights, self.generator)
        return torch.randperm(len(y), generator=self.generator)


@torch.inference_mode()
def told_of_all(rows: Examples, tell: Callable[[Any], Tensor], size: int = 256) -> Float[Tensor, "rows ..."]:
    """Applies `tell` to every example, `size` of them at a time, in the examples' order."""
    found = torch.cat([tell(x) for x, _ in rows.chunks(size)])
    ordered = torch.empty_like(found)
    ordered[rows.order()] = found
    return ordered


def label_weights(y: Int[Tensor, " rows"], weights: Weights = None) -> Float[Tensor, " labels"]:
    """For each label rows / (labels present × its rows): their mean over `y` is 1. 0 for a label without rows.

    With `weights` of the rows, sums of them take the place of numbers of rows.
    """
    counts = y.bincount().double() if weights is None else y.bincount(weights.double())
    rows = len(y) if weights is None else counts.sum()
    return (rows / (counts > 0).sum() / counts).masked_fill(counts == 0, 0.0)
