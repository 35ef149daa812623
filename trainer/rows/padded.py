"""Texts of different lengths with padding and a mask, for runtimes without ragged tensors.

What stands in the other places, NaN included, reaches no sum and no maximum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from trainer.rows.ragged import Tokens


@dataclass(frozen=True)
class Padded(Tokens):
    """Texts of at least one token each, padded to the same number of places.

    Parameters
    ----------
    mask
        True for tokens. The vectors of the first text's places come first in `values`, [texts · places, layers, width].
    """

    mask: Bool[Tensor, "texts places"]

    @classmethod
    def of(cls, values: Float[Tensor, "texts places layers width"], mask: Bool[Tensor, "texts places"]) -> Padded:
        """Builds it from values and their mask."""
        return cls(values.flatten(0, 1), mask.sum(1), mask)

    def map(self, treat: Callable[[Tensor], Tensor]) -> Padded:
        """The vectors of all places after `treat`."""
        return Padded(treat(self.values), self.lengths, self.mask)

    def of_layers(self, places: list[int]) -> Padded:
        """Some of the layers."""
        return Padded(self.values[:, places], self.lengths, self.mask)

    def summed(self, values: Float[Tensor, "tokens *shape"]) -> Float[Tensor, "texts *shape"]:
        """The sum over each text's tokens."""
        return self._by_text(values, 0.0).sum(1)

    def largest(self, values: Float[Tensor, "tokens *shape"]) -> Float[Tensor, "texts *shape"]:
        """The largest over each text's tokens."""
        return self._by_text(values, -float("inf")).amax(1)

    def spread(self, values: Float[Tensor, "texts *shape"]) -> Float[Tensor, "tokens *shape"]:
        """Repeats a value per text for each of its places."""
        return values[:, None].expand(-1, self.mask.shape[1], *values.shape[1:]).flatten(0, 1)

    def _by_text(self, values: Tensor, padding: float) -> Tensor:
        """[texts, places, …], with `padding` in the places that are no tokens."""
        each: Tensor = values.unflatten(0, self.mask.shape)
        return each.masked_fill(~self.mask.reshape(*self.mask.shape, *[1] * (values.ndim - 1)), padding)
