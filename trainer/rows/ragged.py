"""Texts of different lengths without padding: their tokens follow one another, with the length of each text.

No place is filled up, so there is no mask that could be wrong: a text's sums and maxima run over its own tokens alone,
in their order, and give the same bits in any company. On two cores this takes as long as padding batches of much the
same length, for which batches would have to be drawn by length (`benchmarks.token_heads.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """The tokens of some texts.

    Parameters
    ----------
    values
        A vector for each token and layer; those of the first text come first.
    lengths
        Tokens of each text, at least 1.
    """

    values: Float[Tensor, "tokens layers width"]
    lengths: Int[Tensor, " texts"]

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Tokens:
        """The token states on a device."""
        return Tokens(self.values.to(device, non_blocking=non_blocking), self.lengths.to(device))

    def map(self, treat: Callable[[Tensor], Tensor]) -> Tokens:
        """The vectors of all tokens after `treat`, which gets [tokens, layers, width]."""
        return Tokens(treat(self.values), self.lengths)

    def of_layers(self, places: list[int]) -> Tokens:
        """Some of the layers."""
        return Tokens(self.values[:, places], self.lengths)

    def summed(self, values: Float[Tensor, "tokens *shape"]) -> Float[Tensor, "texts *shape"]:
        """The sum over each text's tokens of what each token has."""
        return each_sum(values, self.lengths)

    def largest(self, values: Float[Tensor, "tokens *shape"]) -> Float[Tensor, "texts *shape"]:
        """The largest over each text's tokens; equal ones share the gradient."""
        return each_max(values, self.lengths)

    def spread(self, values: Float[Tensor, "texts *shape"]) -> Float[Tensor, "tokens *shape"]:
        """Repeats a value per text for each of its tokens."""
        return for_each_token(values, self.lengths)


def joined(parts: list[Tokens]) -> Tokens:
    """The texts of several, one after the other."""
    return Tokens(torch.cat([part.values for part in parts]), torch.cat([part.lengths for part in parts]))


def each_sum(values: Float[Tensor, "tokens *shape"], lengths: Int[Tensor, " texts"]) -> Float[Tensor, "texts *shape"]:
    """The sum over each text's tokens."""
    return torch.segment_reduce(values, "sum", lengths=lengths, axis=0, unsafe=True)


def each_max(values: Float[Tensor, "tokens *shape"], lengths: Int[Tensor, " texts"]) -> Float[Tensor, "texts *shape"]:
    """The largest over each text's tokens; equal ones share the gradient."""
    return torch.segment_reduce(values, "max", lengths=lengths, axis=0, unsafe=True)


def for_each_token(
    values: Float[Tensor, "texts *shape"], lengths: Int[Tensor, " texts"]
) -> Float[Tensor, "tokens *shape"]:
    """Repeats a value per text for each of its tokens."""
    return values.repeat_interleave(lengths, dim=0)


def token_places(starts: Int[Tensor, " texts"], lengths: Int[Tensor, " texts"]) -> Int[Tensor, " tokens"]:
    """Positions of the tokens of texts that begin at `starts`."""
    ends = lengths.cumsum(0)
    shift = starts - (ends - lengths)
    return torch.arange(int(ends[-1]) if len(ends) else 0) + shift.repeat_interleave(lengths)
