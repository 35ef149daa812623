"""A head's figures of its layers as rows of a table: the mean over seeds and their range."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl
from jaxtyping import Float
from torch import Tensor

from trainer.artifacts.artifact import TrainedHead
from trainer.rows.in_memory import Examples

Columns = dict[str, Any]
"""A table's columns and their polars types, which beartype does not read."""
Row = dict[str, Any]
Split = Callable[[str], Examples]
"""The rows of `train` or `validation` that a head reads, as the cache holds them."""


@dataclass(frozen=True)
class Seeds:
    """One head of the comparison, trained several times; all read the same layers, but those of `best` one each."""

    name: str
    trained: list[TrainedHead]

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that the head reads."""
        return self.trained[0].head.layers_read

    def profile(self, column: str, found: Float[Tensor, "seeds layers"]) -> Iterator[Row]:
        """One row per layer: `column` is the mean over seeds, `low` and `high` are their range."""
        spread = zip(found.mean(0).tolist(), found.amin(0).tolist(), found.amax(0).tolist(), strict=True)
        return self.named(column, spread)

    def named(self, column: str, spread: Iterable[tuple[float, ...]]) -> Iterator[Row]:
        """One row per layer, of a value, a low and a high one each."""
        names = self.trained[0].facts.layer_names
        for layer, values in zip(self.layers, spread, strict=True):
            figures = dict(zip((column, "low", "high"), values, strict=True))
            yield {"head": self.name, "layer": layer, "name": names[layer], **figures}


def profile_columns(column: str) -> Columns:
    """Columns of a table with one row per head and layer."""
    return {"head": pl.String, "layer": pl.Int64, "name": pl.String} | dict.fromkeys(
        (column, "low", "high"), pl.Float64
    )
