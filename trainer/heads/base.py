"""The base of all heads: an encoder of all layers' vectors, a readout, and the facts that rebuild both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ilse.core.errors import UserError
from ilse.core.params import Section
from trainer.heads.fronts.joined_options import JoinedOptions
from trainer.heads.fronts.token_options import TokenOptions

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
        Outputs: classes, 1 for a score, or the width of a vector; 0 for the encoder's own vector.
    pair_width
        For answers about two texts: the width of the vectors that are compared, 0 for the encoder's own. None for one
        text.
    tokens
        How it reads tokens (`TokenOptions`); None for pooled rows.
    joined
        Whose rows they are where they are those of several models (`JoinedOptions`); None for one model's.
    """

    name: str
    options: O_co
    layers: int
    dim: int
    out: int
    pair_width: int | None = None
    tokens: TokenOptions | None = None
    joined: JoinedOptions | None = None


class Outputs(NamedTuple):
    """What a head gives the training loop.

    Parameters
    ----------
    logits
        `[batch, out]`, what the head predicts with; `[batch, candidates, out]` for independent candidates.
    terms
        `[batch, terms, out]`, what the loss looks at where that is more than `logits`, weighted by `weights`.
    weights
        `[terms]`.
    penalty
        A number that is added to the loss.
    """

    logits: Tensor
    terms: Tensor | None = None
    weights: Tensor | None = None
    penalty: Tensor | None = None


class Encoder(nn.Module):
    """Maps the vectors of all layers to one vector: `[batch, layers, dim] -> [batch, width]`.

    `width` is the length of that vector; `layers_read` names the only rows it looks at, or is None for all.
    `state_widths` are the lengths of its intermediate states.
    """

    width: int
    layers_read: tuple[int, ...] | None = None
    state_widths: tuple[int, ...] = ()

    def with_states(self, x: Float[Tensor, "batch layers dim"]) -> tuple[Tensor, list[Tensor]]:
        """The vector, and the intermediate states `[batch, state_widths[i]]` on the way to it."""
        return self(x), []

    def layer_weights(self) -> Float[Tensor, " layers"] | None:
        """The weight of every layer, where the encoder learns one for all inputs; they sum to 1."""
        return None

    def input_weights(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch layers"] | None:
        """The weight of every layer for each input, where the encoder has one; they sum to 1."""
        weights = self.layer_weights()
        return None if weights is None else weights.expand(len(x), -1)


class Head(nn.Module):
    """A trainable map from one example's layers to its outputs; built by `trainer.heads.build_head`.

    `layers_read` are the rows it looks at, in order: a loader may give `x` with those rows only. `candidates` are
    independent heads trained side by side, each with its own best epoch; their parameters stand along the first axis.
    """

    candidates: int = 1
    calibrated: bool = False
    """Whether `calibrate` chooses anything."""

    def __init__(self, spec: HeadSpec[Section], layers_read: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.layers_read = tuple(range(spec.layers)) if layers_read is None else layers_read

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch ..."]:
        """Outputs of every example; logits for classes."""
        raise NotImplementedError

    def supervised(self, x: Float[Tensor, "batch layers dim"]) -> Outputs:
        """Outputs with all that the loss wants."""
        return Outputs(self(x))

    def at_epoch(self, share: float) -> None:
        """Told before every epoch: the share of the training that is done, from 0 to 1."""

    def settle(self, ranked: Sequence[int]) -> Head:
        """The head that is kept after training, given the candidates from best to worst on validation."""
        return self

    def calibrate(self, chunks: Iterable[tuple[Tensor, Tensor]], weights: Tensor | None = None) -> bool:
        """Sets what is chosen after training on validation rows x and labels y, which come in pieces.

        `weights` say what each row counts, None that all count 1. Returns whether that changed what the head predicts.
        """
        return False

    def layer_weights(self) -> Float[Tensor, " layers"] | None:
        """The learned weight of every layer (softmax, detached), or None where the head learns none for all inputs."""
        return None

    def input_weights(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch layers"] | None:
        """What each input owes to every layer (attention, gate or exit; detached), or None where there is no such."""
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
    """An encoder, then one linear readout; none for `out` 0, which is the encoder's own vector.

    Parameters
    ----------
    supervision
        α: with more than 0, every intermediate state of the encoder gets a linear readout of its own in training,
        whose loss counts α·(its place)/(their number) (deep supervision, methods: α_ℓ = α₀ℓ/L).
    fades
        α falls to 0 over the epochs.
    """

    def __init__(
        self, spec: HeadSpec[Section], encoder: Encoder, supervision: float = 0.0, fades: bool = False
    ) -> None:
        super().__init__(spec, encoder.layers_read)
        self.encoder = encoder
        self.readout = nn.Linear(encoder.width, spec.out) if spec.out else nn.Identity()
        self.supervision, self.fades, self._share = supervision, fades, 0.0
        widths = encoder.state_widths if supervision else ()
        self.auxiliary = nn.ModuleList(nn.Linear(width, spec.out or encoder.width) for width in widths)

    def encode(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch width"]:
        """The vector before the readout: the embedding that similarity tasks compare."""
        self.check(x)
        encoded: Tensor = self.encoder(x)
        return encoded

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch out"]:
        """Logits, or the predicted score."""
        outputs: Tensor = self.readout(self.encode(x))
        return outputs

    def supervised(self, x: Float[Tensor, "batch layers dim"]) -> Outputs:
        """Logits; in training with those of the intermediate states too, where they are supervised."""
        if not len(self.auxiliary) or not self.training:
            return Outputs(self(x))
        self.check(x)
        encoded, states = self.encoder.with_states(x)
        logits: Tensor = self.readout(encoded)
        others = [readout(state) for readout, state in zip(self.auxiliary, states, strict=True)]
        places = torch.arange(1, len(others) + 1, dtype=logits.dtype, device=logits.device) / len(others)
        alpha = self.supervision * (1 - self._share if self.fades else 1)
        weights = torch.cat([places.new_ones(1), alpha * places])
        return Outputs(logits, torch.stack([logits, *others], dim=1), weights)

    def at_epoch(self, share: float) -> None:
        """Remembers where α stands."""
        self._share = share

    def layer_weights(self) -> Float[Tensor, " layers"] | None:
        """The encoder's layer weights."""
        weights = self.encoder.layer_weights()
        return None if weights is None else weights.detach()

    def input_weights(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch layers"] | None:
        """The encoder's, for each input."""
        self.check(x)
        weights = self.encoder.input_weights(x)
        return None if weights is None else weights.detach()
