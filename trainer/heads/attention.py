"""Fusions whose weights depend on the input: attention over layers (heads `attention`, `dwatt`)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from trainer.heads.base import Encoder, EncoderHead, HeadSpec
from trainer.heads.dense import Dropout, LayerLinear
from trainer.heads.readout import ReadoutOptions, SupervisionOptions, read_out


class AttentionOptions(ReadoutOptions):
    """Options of the head `attention`."""

    width: int = Field(64, ge=1, description="width of the space in which a layer is scored, in values")


class DWAttOptions(SupervisionOptions):
    """Options of the head `dwatt`."""

    hidden: int | None = Field(
        None, ge=2, description="width that all layers are projected to first; unset: the model's own width"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="share of attention weights zeroed in training")


class Attention(Encoder):
    """Σ_ℓ a_ℓ(x) z_ℓ, a(x) = softmax_ℓ(u · tanh(W LN(z_ℓ) + e_ℓ)).

    Additive attention pooling (Yang et al., NAACL 2016) over layers in place of words, with an embedding e_ℓ of each
    layer. LN has no learned scale, which W would absorb. u starts at 0: the mean over layers.
    """

    def __init__(self, layers: int, dim: int, width: int) -> None:
        super().__init__()
        self.width = dim
        self.key = nn.Linear(dim, width, bias=False)
        self.place = nn.Parameter(torch.randn(layers, width) * 0.02)
        self.query = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch dim"]:
        """The weighted sum."""
        mixed: Tensor = torch.einsum("bl,bld->bd", self.input_weights(x), x)
        return mixed

    def input_weights(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch layers"]:
        """a(x)."""
        keys = self.key(functional.layer_norm(x, x.shape[-1:])) + self.place
        weights: Tensor = (keys.tanh() @ self.query).softmax(1)
        return weights


class DWAtt(Encoder):
    """Depth-wise attention: z_L + Σ_ℓ a_ℓ(x) v_ℓ, a(x) = softmax_ℓ(q · k_ℓ), unscaled.

        k_ℓ = W_K p_ℓ,  p_ℓ ∈ R²⁴ learned from U[0, 1]
        v_ℓ = LN_ℓ(W_ℓ LN(gelu(U_ℓ z_ℓ))),  U_ℓ to half the width
        q = 1 + elu(z_L + W LN(gelu(U z_L)))

    Source: ElNokrashy et al., arXiv 2209.15168, as ILSE's published baseline has it. With `hidden` all layers go
    through one linear projection first. The layers' maps are stacked, so that each is one product.
    """

    PLACE = 24

    def __init__(self, layers: int, dim: int, options: DWAttOptions) -> None:
        super().__init__()
        self.width = width = options.hidden or dim
        half = width // 2
        self.project = nn.Linear(dim, width) if options.hidden else nn.Identity()
        self.place = nn.Parameter(torch.rand(layers, self.PLACE))
        self.key = nn.Linear(self.PLACE, width, bias=False)
        self.value_in = LayerLinear(layers, width, half)
        self.value_norm = LayerNorms(layers, half)
        self.value_out = LayerLinear(layers, half, width)
        self.norm = LayerNorms(layers, width)
        self.query = nn.Sequential(nn.Linear(width, half), nn.GELU(), nn.LayerNorm(half), nn.Linear(half, width))
        self.dropout = Dropout(options.dropout)

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch width"]:
        """The last layer and what it asks of all."""
        z = self.project(x)
        values = self.norm(self.value_out(self.value_norm(functional.gelu(self.value_in(z)))))
        asked = torch.einsum("bl,bld->bd", self.dropout(self._attention(z)), values)
        encoded: Tensor = z[:, -1] + asked
        return encoded

    def input_weights(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch layers"]:
        """a(x)."""
        return self._attention(self.project(x))

    def _attention(self, z: Float[Tensor, "batch layers width"]) -> Float[Tensor, "batch layers"]:
        last = z[:, -1]
        query = 1 + functional.elu(last + self.query(last))
        weights: Tensor = (query @ self.key(self.place).T).softmax(1)
        return weights


class LayerNorms(nn.Module):
    """LayerNorm with scale and shift of its own for every layer."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(layers, width))
        self.bias = nn.Parameter(torch.zeros(layers, width))

    def forward(self, x: Float[Tensor, "batch layers width"]) -> Float[Tensor, "batch layers width"]:
        """Normalises each vector, then scales and shifts it by its layer's parameters."""
        return torch.addcmul(self.bias, functional.layer_norm(x, x.shape[-1:]), self.weight)


def build_attention(spec: HeadSpec[AttentionOptions]) -> EncoderHead:
    """Attention pooling over layers, and a readout."""
    return read_out(spec, Attention(spec.layers, spec.dim, spec.options.width))


def build_dwatt(spec: HeadSpec[DWAttOptions]) -> EncoderHead:
    """Depth-wise attention, and a linear readout."""
    return EncoderHead(spec, DWAtt(spec.layers, spec.dim, spec.options))
