"""How texts may share a forward pass: what is fastest of what a model's rows bear."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Way(enum.Enum):
    """From the fastest to the slowest; a text's rows are always those of the text alone."""

    PACKED = "several texts in one row"
    PADDED = "padded, without a mask"
    MASKED = "padded, with a mask"
    EXACT = "beside texts of the same length alone"
    ALONE = "one text a forward pass"


@dataclass(frozen=True)
class Zone:
    """How texts of up to `longest` tokens, and longer than those of the zone before, are read."""

    longest: int
    way: Way


ANY_LENGTH = 2**31 - 1
