"""Fits apart from their caller, who finds the process as it was: random numbers, loggers, Ctrl-C.

Weights and dropout draw from generators that belong to the whole process, so one thread at a time has them: fits in
several threads follow each other, and each draws the numbers that it would draw alone. Python's and NumPy's generators
are not used.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_ALONE, _COUNTING = threading.RLock(), threading.Lock()
_QUIET: dict[str, tuple[int, int]] = {}
"""Logger → how many ask for quiet, and its level before."""


@contextmanager
def seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """Torch's random numbers begin at `seed`, and go on afterwards where they were: the CPU's, and a CUDA `device`'s.

    That device is the current one within.
    """
    used = _cuda_index(device)
    with _ALONE, torch.cuda.device(-1 if used is None else used), torch.random.fork_rng([] if used is None else [used]):
        # `torch.manual_seed` would also seed devices that are not ours, those that are yet to be used among them.
        torch.default_generator.manual_seed(seed)
        if used is not None:
            torch.cuda.manual_seed(seed)
        yield


def _cuda_index(device: str) -> int | None:
    kind = torch.device(device)
    if kind.type != "cuda":
        return None
    return torch.cuda.current_device() if kind.index is None else kind.index


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Silences a logger below warnings."""
    found = logging.getLogger(logger)
    with _COUNTING:
        users, before = _QUIET.get(logger, (0, found.level))
        _QUIET[logger] = users + 1, before
        found.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        with _COUNTING:  # the last thread gives the level back
            users, before = _QUIET.pop(logger)
            if users > 1:
                _QUIET[logger] = users - 1, before
            else:
                found.setLevel(before)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C is what it was: Lightning ends a fit upon it, and from then on would have Python ignore it."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if in_main_thread and before is not None and signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)
