"""What every head is: an encoder of all layers' vectors, a readout, and the facts that rebuild both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from ilse.errors import UserError
from ilse.params import Section

O_co = TypeVar("O_co", bound=Section, covariant=True)


@dataclass(frozen=True)
class HeadSpec(Generic[O_co]):
    """Everything that rebuilds a head, save its weights.

    Parameters
    ----------
    name
        The head's name in the registry.
    options
        Its validated options.
    layers
        Rows of the cache an example has (blocks + 1).
    dim
        Width of one row.
    out
        Outputs: classes, or 1 for regression.
    """

    name: str
    options: O_co
    layers: int
    dim: int
    out: int


class Encoder(nn.Module):
    """From the layers' vectors to one vector: `[batch, layers, dim] -> [batch, width]`.

    `width` is the length of that vector; `layers_read` names the only rows it looks at, or is None for all.
    """

    width: int
    layers_read: tuple[int, ...] | None = None

    def layer_weights(self) -> Float[Tensor, " layers"] | None:
        """The weight of every layer, where the encoder learns one; they sum to 1."""
        return None


class Head(nn.Module):
    """A trainable map from one example's layers to its outputs; built by `trainer.heads.build_head`.

    `layers_read` are the rows it looks at, in order: a loader may give `x` with those rows only.
    """

    def __init__(self, spec: HeadSpec[Section], layers_read: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.layers_read = tuple(range(spec.layers)) if layers_read is None else layers_read

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch ..."]:
        """Outputs of every example; logits for classes."""
        raise NotImplementedError

    def layer_weights(self) -> Float[Tensor, " layers"] | None:
        """The learned weight of every layer (softmax, detached), or None where the head learns none."""
        return None

    def check(self, x: Float[Tensor, "batch layers dim"]) -> None:
        """Raise `UserError` unless `x` has this head's layers (or just those it reads) and width."""
        found, dim = x.shape[1:]
        if found in (self.spec.layers, len(self.layers_read)) and dim == self.spec.dim:
            return
        raise UserError(
            f"head '{self.spec.name}'",
            expected=f"{self.spec.layers} layers of {self.spec.dim} values, on which it was built",
            found=f"{found} layers of {dim} values",
            next_step="use the cache the head was trained on, or train a new head on this one",
        )


class EncoderHead(Head):
    """An encoder, then one linear readout."""

    def __init__(self, spec: HeadSpec[Section], encoder: Encoder) -> None:
        super().__init__(spec, encoder.layers_read)
        self.encoder = encoder
        self.readout = nn.Linear(encoder.width, spec.out)

    def encode(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch width"]:
        """The vector before the readout: the embedding that similarity tasks compare."""
        self.check(x)
        encoded: Tensor = self.encoder(x)
        return encoded

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch out"]:
        """Logits, or the predicted score."""
        outputs: Tensor = self.readout(self.encode(x))
        return outputs

    def layer_weights(self) -> Float[Tensor, " layers"] | None:
        """The encoder's layer weights."""
        weights = self.encoder.layer_weights()
        return None if weights is None else weights.detach()
