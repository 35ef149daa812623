"""The pooled arrays of a cache that make a row: one, or several joined along the width in the order named.

`TOKENS` is none of them: the head reads the states of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

Poolings = str | Sequence[str]
"""A name, as `mean`, or several."""
TOKENS = "tokens"
"""Stands in place of a pooling's name for a head that reads tokens."""


@runtime_checkable
class Wide(Protocol):
    """A cache, or several as one."""

    @property
    def dim(self) -> int:
        """Width of a row of one pooling."""

    @property
    def token_width(self) -> int:
        """Width of the state of a token."""


def pooling_names(poolings: Poolings) -> tuple[str, ...]:
    """Them, one by one."""
    return (poolings,) if isinstance(poolings, str) else tuple(poolings)


def row_width(cache: Wide, poolings: Poolings) -> int:
    """Values that a layer has in a row of these poolings, or in the state of a token."""
    if poolings == TOKENS:
        return cache.token_width
    return len(pooling_names(poolings)) * cache.dim
