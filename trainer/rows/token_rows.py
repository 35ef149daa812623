"""A split's examples with the tokens of their texts, in memory: batches are of as many tokens as their texts have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainer.rows.in_memory import Batch, IndexBatches
from trainer.rows.ragged import Tokens
from trainer.rows.token_shelf import TokenShelf
from trainer.rows.weights import Weights, joined_weights, weights_at
from trainer.treatment import Treat

CHUNK_BYTES = 2**26
"""Bytes of float32 values per chunk outside training: a few long texts must not fill the memory."""
STATISTICS_VALUES = 2**18
"""Values whose statistics are taken at a time: float64 copies of them stay in a processor's cache."""


@dataclass(frozen=True)
class TokenRows:
    """The examples of one split, of one text each or two.

    Parameters
    ----------
    shelf
        Where the tokens are.
    places
        Text of each example on the shelf; of pairs the two, whose tokens follow each other in a batch.
    y, text_ids
        Targets, and the (first) texts.
    treat
        What is done to the tokens of a batch, [tokens, layers, width], which are its own to change; None for nothing.
    weights
        What each example counts; None where all count 1.
    """

    shelf: TokenShelf
    places: Int[Tensor, "rows *pair"]
    y: Tensor
    text_ids: list[str]
    treat: Treat | None = None
    weights: Weights = None

    def treated(self, treat: Treat) -> TokenRows:
        """The examples, treated as they are read."""
        return replace(self, treat=treat)

    def batch(self, chosen: Int[Tensor, " chosen"]) -> Batch:
        """The examples at these positions, float32 and treated."""
        tokens = self.shelf.of(self.places[chosen].flatten())
        return (tokens if self.treat is None else tokens.map(self.treat)), self.y[chosen]

    def take(self, chosen: Int[Tensor, " chosen"]) -> TokenRows:
        """The examples at these positions, on the same shelf."""
        ids = [self.text_ids[place] for place in chosen.tolist()]
        weights = weights_at(self, chosen)
        return replace(self, places=self.places[chosen], y=self.y[chosen], text_ids=ids, weights=weights)

    def joined(self, other: TokenRows) -> TokenRows:
        """These examples, and then those of another split, treated alike."""
        places = torch.cat([self.places, len(self.shelf.lengths) + other.places])
        ids = [*self.text_ids, *other.text_ids]
        weights = joined_weights(self, len(self.y), other, len(other.y))
        return TokenRows(self.shelf.joined(other.shelf), places, torch.cat([self.y, other.y]), ids, self.treat, weights)

    def chunks(self, size: int) -> Iterator[Batch]:
        """All examples in order; fewer than `size` at a time if texts are long."""
        lengths = self.shelf.lengths[self.places].view(len(self.y), -1).sum(1)
        values = self.shelf.values.shape[1] * self.shelf.values.shape[2]
        for piece in pieces(lengths, size, CHUNK_BYTES // (4 * values)):
            yield self.batch(self.order()[piece])

    def order(self) -> Int[Tensor, " rows"]:
        """The identity: rows are in the order of the examples."""
        return torch.arange(len(self.y))

    def shuffled(self, batch_size: int, seed: int, balanced: bool = False) -> IndexBatches:
        """Batches for training."""
        return IndexBatches(self, batch_size, seed, balanced)


def pieces(lengths: Int[Tensor, " rows"], rows: int, tokens: int) -> Iterator[slice]:
    """Runs of at most this many rows and tokens; at least one row each, however long."""
    ends, start = lengths.cumsum(0), 0
    while start < len(lengths):
        before = int(ends[start - 1]) if start else 0
        fitting = int(torch.searchsorted(ends, before + tokens, right=True))
        stop = max(start + 1, min(start + rows, fitting))
        yield slice(start, stop)
        start = stop


def of_statistics(chunks: Iterator[Batch]) -> Iterator[Float[Tensor, "_ layers width"]]:
    """The tokens of chunks in pieces whose statistics are quickly taken."""
    for x, _ in chunks:
        assert isinstance(x, Tokens)
        yield from x.values.split(max(1, STATISTICS_VALUES // x.values[0].numel()))
