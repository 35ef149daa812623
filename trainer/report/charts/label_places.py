"""Where names stand beside the points of a scatter chart, so that all can be read.

A name stands right or left of its point, or some lines above or below, where a thin line leads to it. Places are found
for the narrowest picture: in a wider one, names are only further apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

WIDTH = 270
"""Of the narrowest plot, in pixels: that of a page 400 wide."""
LINE, LETTER, GAP, DOT = 14, 6.9, 9, 6
"""Pixels: the height of a name, the width of a letter of it, from the point to the name, and half a point."""
FAR = 8
"""Lines that a name may stand above or below its point."""
BEYOND = 18
"""Pixels that a name may reach beyond the plot."""

Box = tuple[float, float, float, float]
"""Left, right, bottom and top."""


@dataclass(frozen=True)
class Place:
    """Of one name: on which side of its point, and its height in pixels above the plot's foot."""

    name: str
    left: bool
    up: float
    moved: bool
    """Whether it stands above or below, and needs a line."""


def places(points: Iterable[tuple[str, float, float]], height: int) -> list[Place]:
    """Places of the names of points, the most important first; each point is its name, and where it stands.

    That is as shares of the plot's width (before it is padded) and of its `height` in pixels. A name without any free
    place is left out.
    """
    spots = [(name, across * WIDTH, up * height) for name, across, up in points]
    taken: list[Box] = [(x - DOT, x + DOT, y - DOT, y + DOT) for _, x, y in spots]
    found = []
    for number, (name, x, y) in enumerate(spots):
        others = taken[:number] + taken[number + 1 :]
        for left, up in _tried(y):
            box = _box(name, x, up, left)
            inside = box[0] >= -BEYOND and box[1] <= WIDTH + BEYOND and box[2] >= 0 and box[3] <= height
            if inside and not any(_meet(box, other) for other in others):
                found.append(Place(name, left, up, up != y))
                taken.append(box)
                break
    return found


def _tried(y: float) -> Iterator[tuple[bool, float]]:
    for lines in range(FAR + 1):
        for sign in (1, -1) if lines else (1,):
            for left in (False, True):
                yield left, y + sign * lines * LINE


def _box(name: str, x: float, up: float, left: bool) -> Box:
    wide = LETTER * len(name)
    start = x - GAP - wide if left else x + GAP
    return start, start + wide, up - LINE / 2, up + LINE / 2


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]
