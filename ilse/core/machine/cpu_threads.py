"""CPU threads for our work; torch's setting belongs to the whole process, and is restored."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LOCK = threading.Lock()
_within = 0
"""Blocks of `cpu_threads` that are running, in all threads."""
_before = 0
"""The process's own setting, from before the first of them."""


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Runs torch with `count` CPU threads inside the block, and as before when the last such block has ended.

    0 leaves the setting as it is.
    """
    global _within, _before
    if not count:
        yield
        return
    with _LOCK:
        if not _within:
            _before = torch.get_num_threads()
        _within += 1
        torch.set_num_threads(count)  # a Dask worker starts with one, whatever the machine has
    try:
        yield
    finally:
        with _LOCK:
            _within -= 1
            torch.set_num_threads(_before)
