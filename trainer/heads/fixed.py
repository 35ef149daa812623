"""Fusions without weights: one row, the mean, the maximum, rows side by side (heads `mean`, `max`, `concat`)."""

from __future__ import annotations

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ilse.core.errors import UserError
from trainer.heads.base import Encoder, EncoderHead, HeadSpec
from trainer.heads.fronts.joined_head import encoder_of, encoder_of_layers
from trainer.heads.fronts.joined_options import ModelRows
from trainer.heads.readout import ReadoutOptions, read_out


class ConcatOptions(ReadoutOptions):
    """Options of the head `concat`."""

    rows: int | list[int] = Field(
        4,
        description="how many of the last layers (of each model), or a list of layers from 0; negative from the end",
    )


class Row(Encoder):
    """One layer's vector. Takes all `layers`, or that row alone."""

    def __init__(self, layer: int, layers: int, dim: int) -> None:
        super().__init__()
        self.layer, self.layers, self.width = layer, layers, dim
        self.layers_read = (layer,)

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch dim"]:
        """The row."""
        return x[:, self.layer] if x.shape[1] == self.layers else x[:, 0]


class Mean(Encoder):
    """The mean over layers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.width = dim

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch dim"]:
        """Σ_ℓ z_ℓ / L."""
        return x.mean(1)


class Max(Encoder):
    """The largest value over layers, by coordinate."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.width = dim

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch dim"]:
        """max_ℓ z_ℓ."""
        return x.amax(1)


class Concat(Encoder):
    """The vectors of chosen layers, one after the other (BERT's feature-based use, arXiv 1810.04805: the last four).

    Takes all `layers`, or the chosen rows alone.
    """

    def __init__(self, chosen: tuple[int, ...], layers: int, dim: int) -> None:
        super().__init__()
        self.layers = layers
        self.layers_read = chosen
        self.width = len(chosen) * dim

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch width"]:
        """[z_a, z_b, …]."""
        assert self.layers_read is not None
        rows = x[:, list(self.layers_read)] if x.shape[1] == self.layers else x
        return rows.flatten(1)


def layer_index(head: str, layer: int, layers: int) -> int:
    """A layer counted from 0, also where it is given from the end; `UserError` where there is no such layer."""
    if -layers <= layer < layers:
        return layer % layers
    raise UserError(
        f"head '{head}'",
        expected=f"a layer from 0 to {layers - 1}, or from -{layers} to -1",
        found=str(layer),
        next_step="name a layer that the cache holds ('ilse inspect' lists them)",
    )


def concat_rows(given: int | list[int], layers: int) -> tuple[int, ...]:
    """The layers that `concat` reads, in ascending order; `UserError` for none, one twice, or one that is not there."""
    if isinstance(given, int):
        chosen = list(range(layers - given, layers)) if 1 <= given <= layers else []
    else:
        chosen = sorted(layer_index("concat", layer, layers) for layer in given)
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError(
            "head 'concat', rows",
            expected=f"a number from 1 to {layers}, or a list of layers, each once",
            found=str(given),
            next_step="name layers that the cache holds",
        )
    return tuple(chosen)


def build_mean(spec: HeadSpec[ReadoutOptions]) -> EncoderHead:
    """The mean over layers, and a readout; of several models the mean of each."""
    return read_out(spec, encoder_of(spec, lambda rows: Mean(rows.dim)))


def build_max(spec: HeadSpec[ReadoutOptions]) -> EncoderHead:
    """The maximum over layers, and a readout; of several models the maximum of each."""
    return read_out(spec, encoder_of(spec, lambda rows: Max(rows.dim)))


def build_concat(spec: HeadSpec[ConcatOptions]) -> EncoderHead:
    """Chosen layers side by side, and a readout; a number is that of each model's last layers."""
    given = spec.options.rows
    if isinstance(given, int):
        return read_out(spec, encoder_of(spec, lambda rows: _concat(rows, concat_rows(given, rows.layers))))
    return read_out(spec, encoder_of_layers(spec, concat_rows(given, spec.layers), _concat))


def _concat(rows: ModelRows, chosen: tuple[int, ...]) -> Concat:
    return Concat(chosen, rows.layers, rows.dim)
