"""The layers that are kept: numbers from 0 (the embedding) and ranges, in the syntax of `extract.layers`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ilse.core.errors import UserError

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


def chosen_layers(chosen: Sequence[int | str] | None, layers: int, where: str = "extract.layers") -> tuple[int, ...]:
    """Positions among `layers` rows, of a model or a cache, ascending and once each; all of them for None.

    `a..b` holds both its ends; negative numbers count from the last. Raises `UserError` for what is not there;
    `where` is what its message names.
    """
    if chosen is None:
        return tuple(range(layers))
    positions = {position for item in chosen for position in _positions(item, layers, where)}
    if not positions:
        raise _refused(list(chosen), layers, where)
    return tuple(sorted(positions))


def _positions(item: int | str, layers: int, where: str) -> range:
    match = _RANGE.fullmatch(str(item).strip()) or re.fullmatch(r"(-?\d+)", str(item).strip())
    if match is None:
        raise _refused(item, layers, where)
    first, last = (int(number) + layers * (int(number) < 0) for number in (match[1], match[match.lastindex or 1]))
    if not 0 <= first <= last < layers:
        raise _refused(item, layers, where)
    return range(first, last + 1)


def _refused(item: object, layers: int, where: str) -> UserError:
    return UserError(
        f"{where}, {item!r}",
        expected=f"numbers from 0 (the embedding) to {layers - 1} (after the final norm), or ranges such as 0..12",
        found=f"{item!r}, of {layers} layers",
        next_step=f"correct {where}; negative numbers count from the last",
    )
