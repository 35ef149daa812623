"""Layout of joint rows of several models: which layers belong to which model, and how wide each model's rows are."""

from __future__ import annotations

from itertools import accumulate

from pydantic import Field

from ilse.core.params import Section


class ModelRows(Section):
    """The rows of one model."""

    layers: int = Field(ge=1, description="number of layers")
    dim: int = Field(ge=1, description="width of its rows; a joint row is filled up with zeros")


class JoinedOptions(Section):
    """Joint rows: those of each model, one model's layers behind the other's, all as wide as the widest model's."""

    models: list[ModelRows] = Field(min_length=2, description="the models, in the order of their rows")
    width: int = Field(ge=1, description="width that each model's rows are mapped to, for heads that learn fusion")

    @property
    def layers(self) -> int:
        """Number of layers of all models."""
        return sum(model.layers for model in self.models)

    @property
    def dim(self) -> int:
        """Width of a joint row."""
        return max(model.dim for model in self.models)

    @property
    def starts(self) -> list[int]:
        """The first layer of each model."""
        return [0, *accumulate(model.layers for model in self.models)][:-1]

    def model_of(self, layer: int) -> int:
        """Whose layer it is, as a place in `models`."""
        return sum(start <= layer for start in self.starts) - 1
