"""A classifier after every layer, and the rule by which an input leaves early (head `exits`).

    p_ℓ = softmax(V_ℓ f(z_ℓ) + c_ℓ),   f = identity, or one ReLU layer that all exits share

Trained jointly on Σ_ℓ w_ℓ CE(p_ℓ), w uniform (BranchyNet, arXiv 1709.01686; DeeBERT's ramps, arXiv 2004.12993) or
growing with depth, w_ℓ = ℓ / Σℓ (PABEE, arXiv 2006.04152); or separately, each exit with its own best epoch.

An input leaves at the first layer that is sure of it (`leaving`). On a cache of all layers the savings are simulated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ilse.core.errors import UserError
from ilse.core.params import Section
from trainer.heads.base import Head, HeadSpec, Outputs
from trainer.heads.dense import Dropout, LayerLinear
from trainer.heads.exit_thresholds import Sureness, choose_threshold, leaves_at, sureness
from trainer.heads.fixed import layer_index


class ExitsOptions(Section):
    """Options of the head `exits`."""

    layers: list[int] | None = Field(
        None, description="layers with an exit, from 0 (embeddings); negative from the end; unset: every layer"
    )
    training: Literal["joint", "separate"] = Field(
        "joint", description="one loss and one best epoch for all exits, or one for each"
    )
    weights: Literal["uniform", "depth"] = Field("uniform", description="weight of an exit's loss in joint training")
    shared: int = Field(0, ge=0, description="width of a ReLU layer that all exits share, in values; 0: none")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of that layer's values zeroed in training")
    sureness: Sureness = Field("entropy", description="what makes an input leave")
    tolerance: float = Field(
        0.0, ge=0, lt=1, description="share of validation accuracy that may be lost for leaving earlier"
    )

    @model_validator(mode="after")
    def _apart_means_apart(self) -> ExitsOptions:
        if self.training == "separate" and self.shared:
            raise ValueError("shared 0 with training 'separate': exits that share a layer are not separate")
        return self


class Exits(Head):
    """The exits of chosen layers. `threshold` is how sure an input must be to leave; evaluation may set another.

    It starts above 1, so that every input goes to the last exit; `calibrate` chooses one on validation.
    """

    spec: HeadSpec[ExitsOptions]
    threshold: Tensor
    loss_weights: Tensor
    calibrated = True

    def __init__(self, spec: HeadSpec[ExitsOptions]) -> None:
        options = spec.options
        chosen = _exit_layers(options.layers, spec.layers)
        super().__init__(spec, chosen)
        self.candidates = len(chosen) if options.training == "separate" else 1
        width = options.shared or spec.dim
        self.shared = (
            nn.Sequential(nn.Linear(spec.dim, width), nn.ReLU(), Dropout(options.dropout)) if options.shared else None
        )
        self.exits = LayerLinear(len(chosen), width, spec.out)
        depths = torch.arange(1.0, len(chosen) + 1) if options.weights == "depth" else torch.ones(len(chosen))
        self.register_buffer("loss_weights", depths / depths.sum(), persistent=False)
        self.register_buffer("threshold", torch.tensor(2.0))

    def every(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch exits out"]:
        """Logits of every exit."""
        self.check(x)
        rows = x if x.shape[1] == len(self.layers_read) else x[:, list(self.layers_read)]
        logits: Tensor = self.exits(rows if self.shared is None else self.shared(rows))
        return logits

    def at(self, place: int, rows: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch out"]:
        """Logits of one exit, by its place among `layers_read`, from its own layer's rows."""
        shared = rows if self.shared is None else self.shared(rows)
        return functional.linear(shared, self.exits.weight[place], self.exits.bias[place])

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch out"]:
        """Logits of the exit at which each input leaves."""
        logits = self.every(x)
        return logits[torch.arange(x.shape[0]), leaves_at(sureness(logits, self.spec.options.sureness), self.threshold)]

    def supervised(self, x: Float[Tensor, "batch layers dim"]) -> Outputs:
        """Outputs of all exits for the loss. Joint exits are judged by the last one, separate exits each by itself."""
        logits = self.every(x)
        if self.candidates > 1:
            return Outputs(logits)
        return Outputs(logits[:, -1], logits, self.loss_weights)

    def settle(self, ranked: Sequence[int]) -> Head:
        """Keeps all exits, each in its own best state."""
        return self

    def calibrate(self, chunks: Iterable[tuple[Tensor, Tensor]], weights: Tensor | None = None) -> bool:
        """Chooses the threshold on these validation rows."""
        options = self.spec.options
        logits, y = (torch.cat(parts) for parts in zip(*((self.every(x), y) for x, y in chunks), strict=True))
        self.threshold.fill_(choose_threshold(logits, y, options.sureness, options.tolerance, weights))
        return True

    def input_weights(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch layers"]:
        """1 for the layer at which each input leaves, else 0."""
        left = leaves_at(sureness(self.every(x), self.spec.options.sureness), self.threshold)
        decided = torch.zeros(len(x), self.spec.layers, device=x.device)
        decided[torch.arange(x.shape[0]), torch.tensor(self.layers_read, device=x.device)[left]] = 1
        return decided


def _exit_layers(given: list[int] | None, layers: int) -> tuple[int, ...]:
    if given is None:
        return tuple(range(layers))
    chosen = tuple(sorted({layer_index("exits", layer, layers) for layer in given}))
    if len(chosen) < len(given) or not chosen:
        raise UserError(
            "head 'exits', layers",
            expected="layers of the cache, each once, at least one",
            found=str(given),
            next_step="name other layers, or leave it unset for an exit after every layer",
        )
    return chosen


def build_exits(spec: HeadSpec[ExitsOptions]) -> Exits:
    """A classifier after each chosen layer."""
    return Exits(spec)
