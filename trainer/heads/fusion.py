"""Fusions of all layers into one vector of the same width, and the heads that read it (`mean`, `weighted`, `mlp`).

A fusion is an encoder `[batch, layers, dim] -> [batch, dim]`; the readout over it is linear, or an MLP.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ilse.params import Section
from trainer.heads.base import Encoder, EncoderHead, HeadSpec
from trainer.heads.dense import dense_stack


class FusionOptions(Section):
    """The heads `mean` and `weighted` have no options."""


class MLPOptions(Section):
    """Options of the head `mlp`."""

    fusion: Literal["last", "mean", "weighted"] = Field("weighted", description="how the layers become its input")
    hidden: int = Field(256, ge=1, description="width of a hidden layer, in values")
    mlp_layers: int = Field(1, ge=1, le=3, description="hidden layers, each Linear, ReLU, Dropout")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of values zeroed in training, from 0 to below 1")


class Row(Encoder):
    """One layer's vector. Takes all `layers`, or that row alone."""

    def __init__(self, layer: int, layers: int, dim: int) -> None:
        super().__init__()
        self.layer, self.layers, self.width = layer, layers, dim
        self.layers_read = (layer,)

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch dim"]:
        """The row."""
        return x[:, self.layer] if x.shape[1] == self.layers else x[:, 0]


class Mean(Encoder):
    """The mean over layers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.width = dim

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch dim"]:
        """Σ_ℓ z_ℓ / L."""
        return x.mean(1)


class Weighted(Encoder):
    """Σ_ℓ softmax(w)_ℓ z_ℓ with w from 1: ELMo's mixture (arXiv 1802.05365), here without γ and LayerNorm.

    This is the form of ILSE's published baseline.
    """

    def __init__(self, layers: int, dim: int) -> None:
        super().__init__()
        self.width = dim
        self.scores = nn.Parameter(torch.ones(layers))

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch dim"]:
        """The weighted sum."""
        return torch.einsum("l,bld->bd", self.layer_weights(), x)

    def layer_weights(self) -> Float[Tensor, " layers"]:
        """softmax(w)."""
        return self.scores.softmax(0)


class MLPEncoder(Encoder):
    """A fusion, then `mlp_layers` hidden layers."""

    def __init__(self, fusion: Encoder, options: MLPOptions) -> None:
        super().__init__()
        self.fusion = fusion
        self.layers_read = fusion.layers_read
        self.width = options.hidden
        self.stack = dense_stack(fusion.width, options.hidden, options.mlp_layers, options.dropout)

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch hidden"]:
        """The last hidden layer."""
        encoded: Tensor = self.stack(self.fusion(x))
        return encoded

    def layer_weights(self) -> Float[Tensor, " layers"] | None:
        """The fusion's layer weights."""
        return self.fusion.layer_weights()


def make_fusion(name: str, layers: int, dim: int) -> Encoder:
    """The fusion `name`: last, mean or weighted."""
    if name == "last":
        return Row(layers - 1, layers, dim)
    return Mean(dim) if name == "mean" else Weighted(layers, dim)


def build_fused(spec: HeadSpec[FusionOptions]) -> EncoderHead:
    """The fusion that the head is named after, and a linear readout."""
    return EncoderHead(spec, make_fusion(spec.name, spec.layers, spec.dim))


def build_mlp(spec: HeadSpec[MLPOptions]) -> EncoderHead:
    """The fusion in the options, hidden layers, and a linear readout."""
    fusion = make_fusion(spec.options.fusion, spec.layers, spec.dim)
    return EncoderHead(spec, MLPEncoder(fusion, spec.options))
