"""Linear heads on one layer: a given one, or a probe on each to choose among (heads `last` and `best`).

`best` is built twice. With `layer` unset it is `LayerProbes`, trained on all layers at once; once a layer is chosen on
validation, `probe(k)` gives the `SingleLayer` head that is kept, whose options say `layer: k`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ilse.errors import UserError
from ilse.params import Section
from trainer.heads.base import EncoderHead, Head, HeadSpec
from trainer.heads.fusion import Row


class LastOptions(Section):
    """The head `last` has no options."""


class BestOptions(Section):
    """Options of the head `best`."""

    layer: int | None = Field(
        None, ge=0, description="the one layer to read, from 0 (embeddings); unset: chosen on validation"
    )


class SingleLayer(EncoderHead):
    """A linear head on the row of `layer`; the only row it reads."""

    def __init__(self, spec: HeadSpec[Section], layer: int) -> None:
        super().__init__(spec, Row(layer, spec.layers, spec.dim))
        self.layer = layer


class LayerProbes(Head):
    """An independent linear probe on every layer, all in one product.

    The probes share nothing, so under Adam the summed losses train each as if alone (test:
    `test_probes_train_like_single_layers`). Weights start as `nn.Linear`'s do: U(±1/√dim).
    """

    spec: HeadSpec[BestOptions]

    def __init__(self, spec: HeadSpec[BestOptions]) -> None:
        super().__init__(spec)
        bound = spec.dim**-0.5
        self.weight = nn.Parameter(torch.empty(spec.layers, spec.out, spec.dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(spec.layers, spec.out).uniform_(-bound, bound))

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch layers out"]:
        """The candidates: every layer's own outputs."""
        self.check(x)
        products = torch.baddbmm(self.bias[:, None], x.transpose(0, 1), self.weight.mT)
        return products.transpose(0, 1)

    def probe(self, layer: int) -> SingleLayer:
        """Layer `layer`'s probe as a head of its own, with copies of its weights."""
        head = _single(replace(self.spec, options=BestOptions(layer=layer)), layer).to(self.weight)
        head.load_state_dict({"readout.weight": self.weight[layer], "readout.bias": self.bias[layer]})
        return head.train(self.training)


def build_last(spec: HeadSpec[LastOptions]) -> SingleLayer:
    """A linear head on the last row."""
    return SingleLayer(spec, spec.layers - 1)


def build_best(spec: HeadSpec[BestOptions]) -> SingleLayer | LayerProbes:
    """Probes on all layers, or the head on the layer that the options name."""
    return LayerProbes(spec) if spec.options.layer is None else _single(spec, spec.options.layer)


def _single(spec: HeadSpec[BestOptions], layer: int) -> SingleLayer:
    if not 0 <= layer < spec.layers:
        raise UserError(
            "head 'best', layer",
            expected=f"a layer from 0 to {spec.layers - 1}",
            found=str(layer),
            next_step="name a layer that the cache holds, or leave it unset to choose on validation",
        )
    return SingleLayer(spec, layer)
