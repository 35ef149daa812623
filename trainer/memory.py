"""How much memory rows may take."""

from __future__ import annotations

import psutil

SHARE = 0.5
"""Of the memory that is free, where no budget is given: a head, its gradients and the system want some too."""


def memory_budget(gigabytes: float | None) -> int:
    """Bytes for rows: what is given, or half of what is free now."""
    return int(SHARE * psutil.virtual_memory().available if gigabytes is None else gigabytes * 1e9)
