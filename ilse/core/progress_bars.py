"""Progress bars with the time left, on standard error, of what takes long."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ilse.core.terminal import is_speaking

if TYPE_CHECKING:
    from tqdm import tqdm

SHORT = 2.0
"""Seconds before a bar appears: what ends sooner needs none."""


def progress_bar(total: int | None, what: str, unit: str, *, done: int = 0, delay: float = SHORT) -> tqdm[Any]:
    """A bar of tqdm's, to be used as a block: `bar.update(n)` after every n units.

    Nothing is shown within `speaking(False)`, nor in the first `delay` seconds.
    """
    from tqdm import tqdm

    return tqdm(
        total=total, initial=done, unit=unit, desc=what, file=sys.stderr, disable=not is_speaking(), delay=delay,
        leave=not delay,
    )  # fmt: skip
