"""Storage types: float32 rows to the values that are stored, and back.

| type     | stored as               | a value is                                                       |
|----------|-------------------------|------------------------------------------------------------------|
| float32  | float32                 | itself                                                           |
| float16  | float16                 | rounded to nearest; up to 65,504                                 |
| bfloat16 | uint16, its bits        | rounded to nearest, ties to even; zarr has no bfloat16 (#711)    |
| int8     | int8 and float32 scales | round(x / scale), one scale a shard, layer and dimension         |
| int4     | uint8 and such scales   | the same within ±7, two values a byte; of token states alone     |
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
TOKEN_TYPES: dict[str, StorageType] = {**STORAGE_TYPES, "int4": StorageType(np.dtype("u1"), _INT8_MAX, 0)}
"""Storage types of token states. int4 is too coarse for pooled rows, as a text has just one per layer."""
SCALED = ("int8", "int4")
"""Types whose values are levels of steps that a shard has for itself."""

_LEVELS, _FEW_LEVELS = 127, 7
_ZERO = 8
"""Half a byte that stands for level 0; none stands for a level below -7, so that no byte of two values is 0."""
_CUTS = tuple(0.87**power for power in range(12))
"""Largest magnitudes that are tried for int4, as shares of the largest there is: few values beyond cost less than
coarse steps for all."""
_TRIED = 1024
"""Rows at most on which they are tried."""


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
        """The values in float32."""
        return decode(self.values, self.kind, self.scales)


def value_bytes(storage_type: str) -> int:
    """Bytes of one value in memory as it is read: those of int4 become int8."""
    return TOKEN_TYPES[storage_type].dtype.itemsize


def stored_width(storage_type: str, width: int) -> int:
    """Stored numbers of this many values."""
    return -(-width // 2) if storage_type == "int4" else width


def levels_of(stored: Stored, width: int) -> npt.NDArray[np.int8]:
    """Unpacks int4: levels [..., width] from bytes [..., width / 2], two per byte, the first in the lower half."""
    both = np.empty((*stored.shape, 2), np.int8)
    np.bitwise_and(stored, 0xF, out=both[..., 0], casting="unsafe")
    np.right_shift(stored, 4, out=both[..., 1], casting="unsafe")
    both -= _ZERO
    return both.reshape(*stored.shape[:-1], -1)[..., :width]


def encode(values: FloatRows, storage_type: str) -> tuple[Stored, Scales | None]:
    """The stored values of finite `values` [rows, layers, dim] within the type's limit; with the scales of int8, int4.

    Encoding what `decode` gives returns the same stored values and scales.
    """
    if storage_type == "bfloat16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        # To nearest, ties to even: the bit that stays decides which way a tie goes.
        return ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype("<u2"), None
    if storage_type in SCALED:
        scales = _scales(np.abs(values).max(0), _LEVELS) if storage_type == "int8" else _few_scales(values)
        levels = np.rint(values / np.where(scales > 0, scales, 1))
        return (levels.astype(np.int8) if storage_type == "int8" else _two_a_byte(levels)), scales
    return values.astype(TOKEN_TYPES[storage_type].dtype), None


def decode(stored: Stored, storage_type: str, scales: Scales | None = None) -> FloatRows:
    """Float32 values; `scales` is [layers, dim] for int8 and int4, and None for the other types."""
    if storage_type == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    if storage_type in SCALED:
        assert scales is not None
        levels = levels_of(stored, scales.shape[-1]) if storage_type == "int4" else stored
        return levels.astype(np.float32) * scales
    return np.asarray(stored, np.float32)


def missing(stored: Stored, storage_type: str) -> npt.NDArray[np.bool_]:
    """Mask of the positions that hold the fill value."""
    fill = TOKEN_TYPES[storage_type].missing
    return np.isnan(stored) if isinstance(fill, float) else np.asarray(stored == fill)


def _two_a_byte(levels: FloatRows) -> Stored:
    """Levels [..., width], cut at ±7, as bytes [..., half of it]."""
    halves = np.full((*levels.shape[:-1], 2 * stored_width("int4", levels.shape[-1])), _ZERO, np.uint8)
    halves[..., : levels.shape[-1]] = np.clip(levels, -_FEW_LEVELS, _FEW_LEVELS) + _ZERO
    packed: Stored = halves[..., ::2] | halves[..., 1::2] << 4
    return packed


def _few_scales(values: FloatRows) -> Scales:
    """Per layer and dimension the step with the least squared error of those that are tried, [layers, dim].

    The whole range is tried first and keeps what it gave: values that were stored before lose nothing again.
    """
    largest, some = np.abs(values).max(0), values[:: -(-len(values) // _TRIED)]
    best, least = _scales(largest, _FEW_LEVELS), np.full(largest.shape, np.inf, np.float32)
    for cut in _CUTS:
        steps = _scales(np.float32(cut) * largest, _FEW_LEVELS)
        levels = np.clip(np.rint(some / np.where(steps > 0, steps, 1)), -_FEW_LEVELS, _FEW_LEVELS)
        error = np.square((levels * steps - some) / np.where(largest > 0, largest, 1)).sum(0)
        best, least = np.where(error < least, steps, best), np.minimum(error, least)
    return best


def _scales(largest: Scales, levels: int) -> Scales:
    """Per layer and dimension the step that takes the largest magnitude to so many levels, [layers, dim]."""
    steps = largest / np.float32(levels)
    # Rounded up to 16 significant bits, so that 127 steps are exact in float32: encoding twice changes nothing.
    bits = steps.astype(np.float32).view(np.uint32)
    # Steps too small for a normal float32 are none at all: such a coordinate, below 1.5e-36 everywhere, reads as 0.
    bits = np.where(steps < np.finfo(np.float32).tiny, np.uint32(0), bits)
    return ((bits + np.uint32(0xFF)) & np.uint32(0xFFFFFF00)).view(np.float32)
