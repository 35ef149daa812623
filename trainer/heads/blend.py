"""A linear head on all layers whose penalty favours what they share (head `linear`).

    y = W_s z̄ + Σ_j W_j z_j / √k + λ W_l z_L,      z̄ = Σ_ℓ z_ℓ / L

One weight vector that all layers share, one of their own for k layers, and one for the last: under an L2 penalty, what
layers agree on costs less than what a layer says alone (shared and own parts as in regularized multi-task learning,
Evgeniou and Pontil 2004), and λ says how much less the last layer costs. With λ = 0 no layer is favoured; as it grows
the head becomes `last`. Of few rows this is more accurate than the layer that they choose, which is often the wrong
one, and than all layers side by side, which have too many weights (`benchmarks.few_rows`).
"""

from __future__ import annotations

from math import sqrt

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ilse.core.params import Section
from trainer.heads.base import Encoder, EncoderHead, HeadSpec
from trainer.heads.fronts.joined_head import encoder_of


class LinearOptions(Section):
    """Options of the head `linear`."""

    rows: int = Field(
        4, ge=1, description="how many layers have weights of their own (of each model), spread evenly to the last"
    )
    last: float = Field(1.5, ge=0, description="how much the last layer is favoured; 0: no more than the others")


class Blend(Encoder):
    """The last layer times λ, the mean of all layers, and k layers over √k, one after the other."""

    def __init__(self, last: float, rows: int, layers: int, dim: int) -> None:
        super().__init__()
        self.last = last
        self.own = spread(rows, layers)
        self.width = (len(self.own) + 2) * dim

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch width"]:
        """[λ z_L, z̄, z_a / √k, z_b / √k, …]."""
        own = x[:, self.own].flatten(1) / sqrt(len(self.own))
        return torch.cat([self.last * x[:, -1], x.mean(1), own], dim=1)


def build_linear(spec: HeadSpec[LinearOptions]) -> EncoderHead:
    """A linear map of the blend; of several models, of the blend of each."""
    options = spec.options
    return EncoderHead(spec, encoder_of(spec, lambda own: Blend(options.last, options.rows, own.layers, own.dim)))


def spread(count: int, layers: int) -> list[int]:
    """Picks `count` layers spread evenly from early ones to the last; all if there are no more."""
    return [round((place + 1) * (layers - 1) / count) for place in range(count)] if layers > count else [*range(layers)]
