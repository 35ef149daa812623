"""How much memory rows may take."""

from __future__ import annotations

import psutil

from ilse.core.errors import UserError
from ilse.core.machine.memory import container_free

SHARE = 0.5
"""Share of the free memory that is used if no budget is given; a head, its gradients and the system need some too."""


ANSWER_BYTES = 4
WORKING = 4
"""Sets of answers that are held beside those that are kept: put in order, and as a table that is written."""


def require_room_for_answers(rows: int, labels: int, sets: int) -> None:
    """Raises `UserError`, before it is taken, where a number for each of `labels`, for `rows` examples, `sets` times,
    needs more memory than is free.
    """
    need, free = ANSWER_BYTES * rows * labels * (sets + WORKING), free_memory()
    if need > free:
        raise UserError(
            f"answers to {rows:,} examples",
            expected=f"{need / 1e9:,.1f} GB of free memory for probabilities of {labels:,} labels, {sets} times",
            found=f"{free / 1e9:,.1f} GB",
            next_step="take fewer labels, a smaller share for validation and test (prepare.splits), or fewer heads and "
            "seeds at once",
        )


def free_memory() -> int:
    """Bytes that are free now, on the machine and in its container."""
    machine, container = psutil.virtual_memory().available, container_free()
    return int(machine if container is None else min(machine, container))


def memory_budget(gigabytes: float | None) -> int:
    """Bytes for rows: what is given, or half of what is free now, on the machine and in its container."""
    if gigabytes is not None:
        return int(gigabytes * 1e9)
    return int(SHARE * free_memory())
