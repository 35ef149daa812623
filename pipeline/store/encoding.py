"""Storage types: float32 rows to the values that are stored, and back.

| type     | stored as               | a value is                                                       |
|----------|-------------------------|------------------------------------------------------------------|
| float32  | float32                 | itself                                                           |
| float16  | float16                 | rounded to nearest; up to 65,504                                 |
| bfloat16 | uint16, its bits        | rounded to nearest, ties to even; zarr has no bfloat16 (#711)    |
| int8     | int8 and float32 scales | round(x / scale), one scale a shard, layer and dimension         |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatRows = npt.NDArray[np.float32]
Stored = npt.NDArray[Any]
Scales = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StorageType:
    """How a type stands on disk."""

    dtype: np.dtype[Any]
    limit: float
    """Largest magnitude that it holds."""
    missing: float | int
    """The fill value, which no stored value is: a lost chunk can't pass for data."""


# The largest float32 that does not round to a bfloat16 infinity.
_BFLOAT16_MAX = float(np.array(0x7F7F7FFF, np.uint32).view(np.float32))
# 127 steps, each rounded up, stay within float32.
_INT8_MAX = 3.4e38

STORAGE_TYPES: dict[str, StorageType] = {
    "float16": StorageType(np.dtype("<f2"), float(np.finfo(np.float16).max), float("nan")),
    "bfloat16": StorageType(np.dtype("<u2"), _BFLOAT16_MAX, 0x7FC0),
    "float32": StorageType(np.dtype("<f4"), float(np.finfo(np.float32).max), float("nan")),
    "int8": StorageType(np.dtype("i1"), _INT8_MAX, -128),
}

_LEVELS = 127


@dataclass(frozen=True)
class StoredRows:
    """Rows as they stand in the cache.

    Parameters
    ----------
    values
        [rows, layers, dim] of the storage type.
    kind
        The storage type.
    scales
        [layers, dim] for int8, else None.
    """

    values: Stored
    kind: str
    scales: Scales | None = None

    def decoded(self) -> FloatRows:
        """The same as float32."""
        return decode(self.values, self.kind, self.scales)


def value_bytes(storage_type: str) -> int:
    """Bytes of one stored value."""
    return STORAGE_TYPES[storage_type].dtype.itemsize


def encode(values: FloatRows, storage_type: str) -> tuple[Stored, Scales | None]:
    """The stored values of finite `values` [rows, layers, dim] within the type's limit; for int8 with its scales.

    Encoding what `decode` gives returns the same stored values and scales.
    """
    if storage_type == "bfloat16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        # To nearest, ties to even: the bit that stays decides which way a tie goes.
        return ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype("<u2"), None
    if storage_type == "int8":
        scales = _scales(values)
        levels = np.rint(values / np.where(scales > 0, scales, 1))
        return levels.astype(np.int8), scales
    return values.astype(STORAGE_TYPES[storage_type].dtype), None


def decode(stored: Stored, storage_type: str, scales: Scales | None = None) -> FloatRows:
    """Float32 values; `scales` is [layers, dim] for int8 and None for the other types."""
    if storage_type == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    if storage_type == "int8":
        assert scales is not None
        return stored.astype(np.float32) * scales
    return np.asarray(stored, np.float32)


def missing(stored: Stored, storage_type: str) -> npt.NDArray[np.bool_]:
    """Where the fill value stands."""
    fill = STORAGE_TYPES[storage_type].missing
    return np.isnan(stored) if isinstance(fill, float) else np.asarray(stored == fill)


def _scales(values: FloatRows) -> Scales:
    """Per layer and dimension the step that takes the largest magnitude to 127, [layers, dim]."""
    steps = np.abs(values).max(0) / np.float32(_LEVELS)
    # Rounded up to 16 significant bits, so that 127 steps are exact in float32: encoding twice changes nothing.
    bits = steps.astype(np.float32).view(np.uint32)
    # Steps too small for a normal float32 are none at all: such a coordinate, below 1.5e-36 everywhere, reads as 0.
    bits = np.where(steps < np.finfo(np.float32).tiny, np.uint32(0), bits)
    return ((bits + np.uint32(0xFF)) & np.uint32(0xFFFFFF00)).view(np.float32)
