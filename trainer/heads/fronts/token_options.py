"""Options for reading tokens: the key `tokens` of a head's options."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ilse.core.params import Section


class TokenOptions(Section):
    """How a head reads the state of every token, of a cache that keeps them, instead of a pooled row."""

    rank: int = Field(16, ge=1, description="width that every token's state is mapped to in each layer, in values")
    pool: Literal["max+mean", "max", "mean", "attention"] = Field(
        "max+mean", description="how the mapped states of a text's tokens are pooled"
    )
    queries: int = Field(4, ge=1, description="with pool 'attention': learned queries per layer, side by side")
    activation: Literal["relu", "gelu", "none"] = Field("relu", description="activation between map and pool")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the mapped values zeroed in training")
    layers: list[int] | None = Field(
        None,
        min_length=1,
        description="layers that are read, from 0 (embeddings); negative from the end; unset: all whose token states "
        "the cache keeps",
    )

    @property
    def width(self) -> int:
        """Width of the row that a layer is pooled to."""
        return self.rank * {"max+mean": 2, "attention": self.queries}.get(self.pool, 1)
