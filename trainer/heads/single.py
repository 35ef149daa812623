"""Linear heads on one layer: the last, a given one, or a probe on each to choose among (heads `last`, `layer`, `best`).

`best` is built twice. With `layer` unset it is `LayerProbes`, trained on all layers at once; once a layer is chosen on
validation, `probe(k)` gives the `SingleLayer` head that is kept, whose options say `layer: k`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ilse.core.params import Section
from trainer.heads.base import EncoderHead, Head, HeadSpec
from trainer.heads.dense import LayerLinear
from trainer.heads.fixed import Row, layer_index
from trainer.heads.fronts.joined_head import encoder_of, encoder_of_layers


class LastOptions(Section):
    """The head `last` has no options."""


class LayerOptions(Section):
    """Options of the head `layer`."""

    layer: int = Field(-1, description="the layer to read, from 0 (embeddings); negative from the end")


class BestOptions(Section):
    """Options of the head `best`."""

    layer: int | None = Field(
        None, ge=0, description="the one layer to read, from 0 (embeddings); unset: chosen on validation"
    )


class SingleLayer(EncoderHead):
    """A linear head on the row of `layer`; the only row it reads."""

    def __init__(self, spec: HeadSpec[Section], layer: int) -> None:
        self.layer = layer_index(spec.name, layer, spec.layers)
        super().__init__(
            spec, encoder_of_layers(spec, [self.layer], lambda rows, own: Row(own[0], rows.layers, rows.dim))
        )


class LayerProbes(Head):
    """An independent linear probe on every layer, all in one product.

    The probes share nothing, so under Adam the summed losses train each as if alone (test:
    `test_probes_train_like_single_layers`).
    """

    spec: HeadSpec[BestOptions]

    def __init__(self, spec: HeadSpec[BestOptions]) -> None:
        super().__init__(spec)
        self.candidates = spec.layers
        self.probes = LayerLinear(spec.layers, spec.dim, spec.out)

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch layers out"]:
        """The candidates: every layer's own outputs."""
        self.check(x)
        outputs: Tensor = self.probes(x)
        return outputs

    def settle(self, ranked: Sequence[int]) -> SingleLayer:
        """The best layer's probe."""
        return self.probe(ranked[0])

    def probe(self, layer: int) -> SingleLayer:
        """Layer `layer`'s probe as a head of its own, with copies of its weights."""
        head = SingleLayer(replace(self.spec, options=BestOptions(layer=layer)), layer).to(self.probes.weight)
        # Of several models a row ends where its model's width does.
        weight = self.probes.weight[layer, :, : head.encoder.width]
        head.load_state_dict({"readout.weight": weight, "readout.bias": self.probes.bias[layer]})
        return head.train(self.training)


def build_last(spec: HeadSpec[LastOptions]) -> EncoderHead:
    """A linear head on the last row; of several models on the last row of each, side by side."""
    if spec.joined is None:
        return SingleLayer(spec, spec.layers - 1)
    return EncoderHead(spec, encoder_of(spec, lambda rows: Row(rows.layers - 1, rows.layers, rows.dim)))


def build_layer(spec: HeadSpec[LayerOptions]) -> SingleLayer:
    """A linear head on the row that the options name."""
    return SingleLayer(spec, spec.options.layer)


def build_best(spec: HeadSpec[BestOptions]) -> SingleLayer | LayerProbes:
    """Probes on all layers, or the head on the layer that the options name."""
    return LayerProbes(spec) if spec.options.layer is None else SingleLayer(spec, spec.options.layer)
