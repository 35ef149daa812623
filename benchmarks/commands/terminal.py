"""A terminal that a command writes to: it may show there less than what it hands on to a program."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

from benchmarks.faults.starting import HUNG, Ended, Running


class Terminal:
    """What was written to it."""

    def __init__(self) -> None:
        self._near, self._far = os.openpty()
        self.path = Path(os.ttyname(self._far))
        """Where a command writes to."""
        self._heard = bytearray()
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def wait(self, running: Running, patience: float) -> Ended:
        """Waits for the end of a command that writes to it; one that hangs is killed."""
        if running.ended_within(patience):
            code = running.process.poll() or 0
        else:
            running.kill()
            code = HUNG
        os.close(self._far)  # with the last one who could write, reading ends
        self._listening.join(patience)
        os.close(self._near)
        return Ended(code, bytes(self._heard).decode(errors="replace").replace("\r\n", "\n"))

    def _listen(self) -> None:
        with suppress(OSError):
            while heard := os.read(self._near, 2**16):
                self._heard += heard
