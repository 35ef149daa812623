"""The order of labels, which is that of a head's outputs and, for `ordinal`, what it is trained on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")


def in_order(names: Iterable[str]) -> list[str]:
    """Sorted; by value where all of them are numbers: `10.0` behind `2.0`."""
    found = sorted(names)
    return sorted(found, key=Decimal) if all(map(is_number, found)) else found


def is_number(name: str) -> bool:
    """Whether a label is called like a number: `-1`, `2.50`, `1e-3`."""
    return bool(_NUMBER.fullmatch(name))
