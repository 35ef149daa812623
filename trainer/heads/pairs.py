"""Heads on pairs of texts: a vector of each text, and a linear readout of both.

    [u, v, |u - v|, u · v] W + b

(InferSent, arXiv 1705.02364; without the product in SBERT, arXiv 1908.10084.) The texts of an example follow one
another in a batch. Heads of independent candidates have a readout for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ilse.core.params import Section
from trainer.heads.base import Head, HeadSpec, Outputs
from trainer.heads.dense import LayerLinear


class PairHead(Head):
    """A head whose outputs are vectors of `width` values, and the readout of two of them."""

    def __init__(self, spec: HeadSpec[Section], vectors: Head, width: int) -> None:
        super().__init__(spec, vectors.layers_read)
        self.vectors, self.width = vectors, width
        self.candidates = vectors.candidates
        self.readout = LayerLinear(self.candidates, 4 * width, spec.out)

    def forward(self, x: Float[Tensor, "texts layers dim"]) -> Float[Tensor, "batch ..."]:
        """Outputs of every example, which is half as many as texts."""
        return self._answered(self.vectors(x))

    def supervised(self, x: Float[Tensor, "texts layers dim"]) -> Outputs:
        """The vectors' own terms go through the same readout."""
        of_texts = self.vectors.supervised(x)
        terms = None if of_texts.terms is None else self._terms(of_texts.terms)
        return of_texts._replace(logits=self._answered(of_texts.logits), terms=terms)

    def settle(self, ranked: Sequence[int]) -> Head:
        """The best candidate with its readout."""
        if self.candidates == 1:
            return self
        kept = self.vectors.settle(ranked)
        head = PairHead(replace(self.spec, options=kept.spec.options), kept, self.width).to(self.readout.weight)
        best = slice(ranked[0], ranked[0] + 1)
        head.readout.load_state_dict({"weight": self.readout.weight[best], "bias": self.readout.bias[best]})
        return head.train(self.training)

    def at_epoch(self, share: float) -> None:
        """For the vectors' head."""
        self.vectors.at_epoch(share)

    def layer_weights(self) -> Float[Tensor, " layers"] | None:
        """Layer weights of the head that makes the vectors."""
        return self.vectors.layer_weights()

    def input_weights(self, x: Float[Tensor, "texts layers dim"]) -> Float[Tensor, "texts layers"] | None:
        """Layer weights of the head that makes the vectors, for each text."""
        return self.vectors.input_weights(x)

    def _answered(self, vectors: Float[Tensor, "texts ..."]) -> Float[Tensor, "batch ..."]:
        if self.candidates > 1:
            answers: Tensor = self.readout(compared(vectors))
            return answers
        return self._terms(vectors.unsqueeze(1))[:, 0]

    def _terms(self, vectors: Float[Tensor, "texts terms width"]) -> Float[Tensor, "batch terms out"]:
        features = compared(vectors)
        answers: Tensor = self.readout(features.flatten(0, 1).unsqueeze(1))
        unfolded: Tensor = answers.unflatten(0, features.shape[:2])
        return unfolded[:, :, 0]


def compared(vectors: Float[Tensor, "texts candidates width"]) -> Float[Tensor, "batch candidates features"]:
    """u, v, |u - v| and u · v side by side."""
    u, v = vectors.unflatten(0, (-1, 2)).unbind(1)
    return torch.cat([u, v, (u - v).abs(), u * v], dim=-1)
