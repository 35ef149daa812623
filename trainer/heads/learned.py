"""Fusions with weights that are the same for all inputs (heads `weighted`, `bottleneck`)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from trainer.heads.base import Encoder, EncoderHead, HeadSpec
from trainer.heads.dense import Dropout, LayerLinear
from trainer.heads.readout import ReadoutOptions, read_out


class WeightedOptions(ReadoutOptions):
    """Options of the head `weighted`."""

    weight_of: Literal["layer", "coordinate"] = Field(
        "layer", description="one weight per layer, or per coordinate of each layer"
    )
    gamma: bool = Field(False, description="learn ELMo's scale γ of the sum")
    layer_norm: bool = Field(False, description="normalise each layer's vector first, without learned scales")


class BottleneckOptions(ReadoutOptions):
    """Options of the head `bottleneck`."""

    rank: int = Field(16, ge=1, description="width that every layer's vector is projected to, in values")
    combine: Literal["concat", "sum"] = Field("concat", description="how the projected layers become one vector")


class Weighted(Encoder):
    """γ Σ_ℓ softmax(w)_ℓ z_ℓ with w from 1: ELMo's mixture (arXiv 1802.05365, eq. 1).

    Without options it is ILSE's published baseline: γ = 1, no LayerNorm. With `weight_of: coordinate` w is [layers,
    dim] and the softmax goes over layers for each coordinate.
    """

    def __init__(self, layers: int, dim: int, options: WeightedOptions) -> None:
        super().__init__()
        self.width = dim
        by_coordinate = options.weight_of == "coordinate"
        self.scores = nn.Parameter(torch.ones(layers, dim) if by_coordinate else torch.ones(layers))
        self.gamma = nn.Parameter(torch.ones(())) if options.gamma else None
        self.normalise = options.layer_norm

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch dim"]:
        """The weighted sum."""
        if self.normalise:
            x = functional.layer_norm(x, x.shape[-1:])
        weights = self.scores.softmax(0)
        if weights.ndim == 1:  # as a product of matrices: einsum would copy x to turn it round
            with _as_it_is(x):
                mixed = torch.bmm(weights.expand(x.shape[0], 1, -1), x).squeeze(1)
        else:
            mixed = torch.einsum("ld,bld->bd", weights, x)
        return mixed if self.gamma is None else self.gamma * mixed

    def layer_weights(self) -> Float[Tensor, " layers"]:
        """softmax(w); the mean over coordinates where each has its own."""
        weights = self.scores.softmax(0)
        return weights if weights.ndim == 1 else weights.mean(1)


def _as_it_is(x: Tensor) -> AbstractContextManager[None]:
    """For a single pass over x: autocast would copy it to bfloat16 first, which takes longer than the pass."""
    kind = x.device.type
    # Asked, because a head that is exported may hold no such context.
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


class Bottleneck(Encoder):
    """Dropout(ReLU(W_ℓ z_ℓ + b_ℓ)) side by side, or Dropout(ReLU(Σ_ℓ W_ℓ z_ℓ + b)): a low-rank map of all layers.

    The sum is one hidden layer over the concatenation of all layers; side by side, each layer keeps `rank` numbers of
    its own for the readout.
    """

    def __init__(self, layers: int, dim: int, options: BottleneckOptions, dropout: float) -> None:
        super().__init__()
        self.summed = options.combine == "sum"
        self.width = options.rank * (1 if self.summed else layers)
        self.project: nn.Module = (
            nn.Linear(layers * dim, options.rank) if self.summed else LayerLinear(layers, dim, options.rank)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch width"]:
        """The projections after ReLU and dropout."""
        projected = self.project(x.flatten(1)) if self.summed else self.project(x).flatten(1)
        dropped: Tensor = self.dropout(projected.relu())
        return dropped


def build_weighted(spec: HeadSpec[WeightedOptions]) -> EncoderHead:
    """The learned weighted sum, and a readout."""
    return read_out(spec, Weighted(spec.layers, spec.dim, spec.options))


def build_bottleneck(spec: HeadSpec[BottleneckOptions]) -> EncoderHead:
    """A low-rank projection of every layer, and a readout."""
    return read_out(spec, Bottleneck(spec.layers, spec.dim, spec.options, spec.options.dropout))
