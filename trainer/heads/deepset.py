"""Set encoder: ρ(pool over layers of φ(z_ℓ)), blind to the layers' order (head `set`).

φ and ρ are stacks of Linear, ReLU, Dropout; no LayerNorm. Source: the Set-Encoder of ILSE, arXiv 2603.22665, after
Deep Sets, arXiv 1703.06114.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from trainer.heads.base import Encoder, EncoderHead, HeadSpec
from trainer.heads.dense import dense_stack
from trainer.heads.readout import SupervisionOptions


class SetOptions(SupervisionOptions):
    """Options of the head `set`."""

    hidden: int = Field(256, ge=1, description="width of a hidden layer, in values")
    pre_layers: int = Field(1, ge=0, le=1, description="hidden layers applied to every layer's vector before pooling")
    post_layers: int = Field(1, ge=0, le=2, description="hidden layers applied to the pooled vector")
    pool: Literal["mean", "sum"] = Field("mean", description="how the layers become one vector")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of values zeroed in training, from 0 to below 1")


class SetEncoder(Encoder):
    """φ on every layer, pool, ρ; the width is that of the input where both are empty."""

    def __init__(self, dim: int, options: SetOptions) -> None:
        super().__init__()
        pooled = options.hidden if options.pre_layers else dim
        self.width = options.hidden if options.post_layers else pooled
        self.state_widths = (pooled,) if options.post_layers else ()
        self.pool = options.pool
        self.pre = dense_stack(dim, options.hidden, options.pre_layers, options.dropout)
        self.post = dense_stack(pooled, options.hidden, options.post_layers, options.dropout)

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch width"]:
        """One vector for the set of layers."""
        encoded: Tensor = self.post(self._pooled(x))
        return encoded

    def with_states(self, x: Float[Tensor, "batch layers dim"]) -> tuple[Tensor, list[Tensor]]:
        """One vector for the set of layers, and the pooled one where ρ follows it."""
        pooled = self._pooled(x)
        return self.post(pooled), [pooled][: len(self.state_widths)]

    def _pooled(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch pooled"]:
        h: Tensor = self.pre(x)
        return h.mean(1) if self.pool == "mean" else h.sum(1)


def build_set(spec: HeadSpec[SetOptions]) -> EncoderHead:
    """A Set-Encoder and a linear readout."""
    options = spec.options
    return EncoderHead(spec, SetEncoder(spec.dim, options), options.supervision, options.supervision_fades)
