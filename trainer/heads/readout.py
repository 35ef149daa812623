"""Between a fusion of layers and the linear readout: nothing, or an MLP."""

from __future__ import annotations

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ilse.core.params import Section
from trainer.heads.base import Encoder, EncoderHead, HeadSpec
from trainer.heads.dense import dense_stack


class SupervisionOptions(Section):
    """Options of every head with intermediate states: deep supervision."""

    supervision: float = Field(
        0.0, ge=0, description="weight of the auxiliary losses of intermediate states in training; 0 turns them off"
    )
    supervision_fades: bool = Field(True, description="that weight falls to 0 over the epochs")


class ReadoutOptions(SupervisionOptions):
    """Options of every fusion: what reads the fused vector."""

    mlp_layers: int = Field(0, ge=0, le=3, description="hidden layers, each Linear, ReLU, Dropout; 0: a linear head")
    hidden: int = Field(256, ge=1, description="width of a hidden layer, in values")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of values zeroed in training, from 0 to below 1")


class MLPEncoder(Encoder):
    """A fusion, then hidden layers. The fused vector and all hidden layers but the last are its states."""

    def __init__(self, fusion: Encoder, hidden: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.fusion = fusion
        self.layers_read = fusion.layers_read
        self.width = hidden
        self.state_widths = (fusion.width, *[hidden] * (depth - 1))
        self.stack = dense_stack(fusion.width, hidden, depth, dropout)

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch hidden"]:
        """The last hidden layer."""
        encoded: Tensor = self.stack(self.fusion(x))
        return encoded

    def with_states(self, x: Float[Tensor, "batch layers dim"]) -> tuple[Tensor, list[Tensor]]:
        """The last hidden layer, and what came before it."""
        h, states = self.fusion(x), []
        modules = list(self.stack)
        for start in range(0, len(modules), 3):  # Linear, ReLU, Dropout
            states.append(h)
            for module in modules[start : start + 3]:
                h = module(h)
        return h, states

    def layer_weights(self) -> Float[Tensor, " layers"] | None:
        """The fusion's layer weights."""
        return self.fusion.layer_weights()

    def input_weights(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch layers"] | None:
        """The fusion's, for each input."""
        return self.fusion.input_weights(x)


def read_out(spec: HeadSpec[ReadoutOptions], fusion: Encoder) -> EncoderHead:
    """The head that reads a fusion as its options say."""
    options = spec.options
    encoder = fusion
    if options.mlp_layers:
        encoder = MLPEncoder(fusion, options.hidden, options.mlp_layers, options.dropout)
    return EncoderHead(spec, encoder, options.supervision, options.supervision_fades)
