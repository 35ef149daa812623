"""Ways for texts to share a forward pass; each model gets the fastest that leaves its rows unchanged."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Way(enum.Enum):
    """Ways to run the model, from fastest to slowest. In each, a text's rows are the same as if the text ran alone."""

    PACKED = "several texts in one row"
    PADDED = "padded, without a mask"
    MASKED = "padded, with a mask"
    EXACT = "only with texts of the same length"
    ALONE = "one text per forward pass"


@dataclass(frozen=True)
class Zone:
    """How texts of up to `longest` tokens, and longer than those of the zone before, are read."""

    longest: int
    way: Way


ANY_LENGTH = 2**31 - 1
