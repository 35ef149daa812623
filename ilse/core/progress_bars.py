"""Progress bars with the time left, on standard error, of what takes long."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ilse.core.terminal import is_speaking, is_watched

if TYPE_CHECKING:
    from tqdm import tqdm

SHORT = 2.0
"""Seconds before a bar appears: what ends sooner needs none."""


def progress_bar(total: int | None, what: str, unit: str, *, done: int = 0, delay: float = SHORT) -> tqdm[Any]:
    """A bar of tqdm's, to be used as a block: `bar.update(n)` after every n units.

    Nothing is shown within `speaking(False)`, nor in the first `delay` seconds. A bar that waits is for people alone: a
    file or a program that reads standard error gets the lines without it.
    """
    from tqdm import tqdm

    shown = is_speaking() and (not delay or is_watched())
    return tqdm(
        total=total,
        initial=done,
        unit=unit,
        desc=what,
        file=sys.stderr,
        disable=not shown,
        delay=delay,
        leave=not delay,
    )
