"""Limits how long OpenMP's threads spin before they sleep; it must be set before PyTorch is loaded.

At each matrix product libgomp's threads wait for the slowest, and spin meanwhile. By default they spin for so long
that, wherever another process wants a core too, they take it from the very thread that they wait for. Measured on two
cores with a busy process on each: MiniLM's extraction rose from 1,900 tokens/s to 4,400 and more with a count of
10,000, and lost nothing on a quiet machine (9.0 and 9.8 k). Sleeping at once, by a count of 0 or by
OMP_WAIT_POLICY=passive, gave 3,600 to 4,000.

libgomp reads the environment when it is loaded, and PyTorch loads it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

COUNT = "GOMP_SPINCOUNT"
"""libgomp's variable: how many rounds a thread spins."""
POLICY = "OMP_WAIT_POLICY"
"""OpenMP's own word for it, by which somebody may have decided already."""
ROUNDS = "10000"


def spinning(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment variables to set for a process; none if the user has set either of them."""
    return {} if COUNT in environment or POLICY in environment else {COUNT: ROUNDS}


def spin_briefly() -> None:
    """Sets it for this process and its children. For programs: a library leaves its caller's environment alone."""
    os.environ.update(spinning())
