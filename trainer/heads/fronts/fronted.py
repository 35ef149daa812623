"""A head with a learned front, which makes the head's rows from what is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor

from trainer.heads.base import Head, HeadSpec, Outputs


class FrontedHead(Head):
    """A head with a front: the front makes one row per layer (`pooled`), and the head `inner` answers from these.

    Attributes
    ----------
    inner
        A head of rows, built for those of `pooled`.
    """

    inner: Head

    def __init__(self, spec: HeadSpec[Any], layers_read: tuple[int, ...]) -> None:
        super().__init__(spec, layers_read)

    def pooled(self, x: Any) -> Float[Tensor, "texts layers width"]:
        """The rows that the head inside gets."""
        raise NotImplementedError

    def forward(self, x: Any) -> Float[Tensor, "batch ..."]:
        """Outputs of every example."""
        answers: Tensor = self.inner(self.pooled(x))
        return answers

    def supervised(self, x: Any) -> Outputs:
        """The inner head's."""
        return self.inner.supervised(self.pooled(x))

    def at_epoch(self, share: float) -> None:
        """For the inner head."""
        self.inner.at_epoch(share)

    def calibrate(self, chunks: Iterable[tuple[Any, Tensor]], weights: Tensor | None = None) -> bool:
        """The inner head's choice on validation."""
        rows: Iterator[tuple[Tensor, Tensor]] = ((self.pooled(x), y) for x, y in chunks)
        return self.inner.calibrate(rows, weights)

    def layer_weights(self) -> Float[Tensor, " layers"] | None:
        """Layer weights of the inner head, 0 for layers that are not read."""
        weights = self.inner.layer_weights()
        return None if weights is None else self._by_layer(weights)

    def input_weights(self, x: Any) -> Float[Tensor, "batch layers"] | None:
        """Layer weights of the inner head by input, 0 for layers that are not read."""
        weights = self.inner.input_weights(self.pooled(x))
        return None if weights is None else self._by_layer(weights)

    def _by_layer(self, weights: Float[Tensor, "*batch found"]) -> Float[Tensor, "*batch layers"]:
        if weights.shape[-1] == self.spec.layers:
            return weights
        every = weights.new_zeros(*weights.shape[:-1], self.spec.layers)
        every[..., list(self.layers_read)] = weights
        return every
