"""Signals that end a command as Ctrl-C does: its blocks are left one by one, so that what is half-made goes."""

from __future__ import annotations

import atexit
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
"""SIGHUP, which Windows lacks, comes when the terminal closes."""
ONCE_SECONDS = 2.0
"""A shell and the system both tell of a terminal that closes; what comes later is another signal."""


@dataclass
class Stop:
    """The first signal that came, if any. Code that catches what it raised does not hide it."""

    number: int | None = None
    _since: float = 0.0

    @property
    def code(self) -> int:
        """The exit code, as shells have it."""
        return 128 + (self.number or signal.SIGINT)

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Handles a signal: raises `KeyboardInterrupt` for Ctrl-C, `SystemExit` for the others."""
        now = time.monotonic()
        if self.number is not None and number != signal.SIGINT and now - self._since < ONCE_SECONDS:
            return
        self.number, self._since = self.number or number, now
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(self.code)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Has signals end the block, for a command alone; they mean afterwards what they meant before.

    One that is ignored stays so, as under `nohup`. In a thread that is not the main one nothing is changed.
    """
    stop, before = Stop(), dict[int, Any]()
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, stop)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        atexit.register(_die_quietly)


def _die_quietly() -> None:
    """Once the work is done, Ctrl-C ends the process at once: libraries that take leave would print tracebacks."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
