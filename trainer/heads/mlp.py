"""An MLP on a fusion that is named in its options (head `mlp`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer.heads.base import Encoder, EncoderHead, HeadSpec
from trainer.heads.fixed import Mean, Row
from trainer.heads.learned import Weighted, WeightedOptions
from trainer.heads.readout import ReadoutOptions, read_out


class MLPOptions(ReadoutOptions):
    """Options of the head `mlp`."""

    fusion: Literal["last", "mean", "weighted"] = Field("weighted", description="how the layers become its input")
    mlp_layers: int = Field(1, ge=1, le=3, description="hidden layers, each Linear, ReLU, Dropout")


def build_mlp(spec: HeadSpec[MLPOptions]) -> EncoderHead:
    """The fusion in the options, hidden layers, and a linear readout."""
    return read_out(spec, _fusion(spec))


def _fusion(spec: HeadSpec[MLPOptions]) -> Encoder:
    if spec.options.fusion == "last":
        return Row(spec.layers - 1, spec.layers, spec.dim)
    return Mean(spec.dim) if spec.options.fusion == "mean" else Weighted(spec.layers, spec.dim, WeightedOptions())
