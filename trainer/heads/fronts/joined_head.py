"""Rows of several models over the same texts, for one head.

    u_ℓ = W_m z_ℓ + b_m          every layer ℓ of model m, by the one map of that model
    answer = head(u_1, …, u_L)   all layers of all models, the first model's first

Models have widths and coordinates of their own: the learned maps bring them to one space, and what follows is any head
over all layers. Heads that learn nothing before their linear map (`last`, `mean`, `concat` …) need no such space: they
take the vector of each model side by side, and are solved as with one model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ilse.core.errors import UserError
from trainer.heads.base import Encoder, Head, HeadSpec
from trainer.heads.fronts.fronted import FrontedHead
from trainer.heads.fronts.joined_options import JoinedOptions, ModelRows

Build = Callable[[HeadSpec[Any]], Head]


class JoinedHead(FrontedHead):
    """A linear map for each model, and the head `inner` over the mapped rows of all.

    Parameters
    ----------
    spec
        With `joined`.
    build
        From a spec to the head inside.

    Raises
    ------
    UserError
        For a head that reads no layer of one of the models, and for independent candidates, which would share maps.
    """

    def __init__(self, spec: HeadSpec[Any], build: Build) -> None:
        joined = spec.joined
        assert joined is not None
        inner = build(replace(spec, dim=joined.width, joined=None))
        super().__init__(spec, inner.layers_read)
        self.inner, self.calibrated = inner, inner.calibrated
        if inner.candidates > 1:
            raise UserError(
                f"head '{spec.name}' over {len(joined.models)} caches",
                expected="one training, in which all layers share a map for each cache",
                found=f"{inner.candidates} that share nothing",
                next_step=f"set train.options.{spec.name}.training to joint, or name one cache",
            )
        owners = [joined.model_of(layer) for layer in self.layers_read]
        if len({*owners}) < len(joined.models):
            unread = next(model for model in range(len(joined.models)) if model not in owners)
            raise UserError(
                f"head '{spec.name}' over {len(joined.models)} caches",
                expected="a head that reads layers of each of them",
                found=f"one that reads no layer of cache {unread + 1}",
                next_step="change its options, take 'last', which reads the last layer of each, or name one cache",
            )
        self._runs = [(model, len([*group])) for model, group in groupby(owners)]
        self.maps = nn.ModuleList(nn.Linear(model.dim, joined.width) for model in joined.models)

    def pooled(self, x: Any) -> Float[Tensor, "texts layers width"]:
        """The mapped rows of the layers that are read."""
        self.check(x)
        assert self.spec.joined is not None
        if x.shape[1] > len(self.layers_read):
            x = x[:, list(self.layers_read)]
        mapped, start = [], 0
        for model, count in self._runs:
            own = x[:, start : start + count, : self.spec.joined.models[model].dim]
            mapped.append(self.maps[model](own).to(x.dtype))  # rows are float32 in mixed precision too
            start += count
        return torch.cat(mapped, dim=1)


class SideBySide(Encoder):
    """The vector that an encoder makes of each model's rows, one after the other.

    Parameters
    ----------
    joined
        Whose rows there are.
    encoders
        Of some of the models, by their place; each is built for the model's own layers and width.
    """

    def __init__(self, joined: JoinedOptions, encoders: dict[int, Encoder]) -> None:
        super().__init__()
        self.layers = joined.layers
        self.encoders = nn.ModuleList(encoders.values())
        own = {m: encoder.layers_read or tuple(range(joined.models[m].layers)) for m, encoder in encoders.items()}
        self.layers_read = tuple(joined.starts[model] + layer for model, layers in own.items() for layer in layers)
        self._parts = [(joined.models[model].dim, len(layers)) for model, layers in own.items()]
        self.width = sum(encoder.width for encoder in encoders.values())

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch width"]:
        """[e_1(z of model 1), e_2(z of model 2), …], from rows of all layers or of those that are read."""
        assert self.layers_read is not None
        rows = x[:, list(self.layers_read)] if x.shape[1] == self.layers != len(self.layers_read) else x
        found, start = [], 0
        for encoder, (dim, count) in zip(self.encoders, self._parts, strict=True):
            found.append(encoder(rows[:, start : start + count, :dim]))
            start += count
        return torch.cat(found, dim=-1)


def encoder_of(spec: HeadSpec[Any], build: Callable[[ModelRows], Encoder]) -> Encoder:
    """The encoder that `build` makes for the rows of one model; for joint rows, one per model, side by side."""
    if spec.joined is None:
        return build(ModelRows(layers=spec.layers, dim=spec.dim))
    return SideBySide(spec.joined, {place: build(model) for place, model in enumerate(spec.joined.models)})


def encoder_of_layers(
    spec: HeadSpec[Any], layers: Sequence[int], build: Callable[[ModelRows, tuple[int, ...]], Encoder]
) -> Encoder:
    """The encoder of chosen layers, in ascending order; `build` gets each model's layers by their place in it."""
    if spec.joined is None:
        return build(ModelRows(layers=spec.layers, dim=spec.dim), tuple(layers))
    joined, encoders = spec.joined, dict[int, Encoder]()
    for model, group in groupby(layers, joined.model_of):
        encoders[model] = build(joined.models[model], tuple(layer - joined.starts[model] for layer in group))
    return SideBySide(joined, encoders)
