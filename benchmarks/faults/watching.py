"""Watches the file operations of a run inside the campaign's own process."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.faults.inside.sitecustomize import OPERATIONS


class Watch:
    """Counts the operations under a folder, and copies the folder before one of them: what `kill -9` there leaves."""

    def __init__(self, folder: Path, moment: int = 0, copy: Path | None = None) -> None:
        self.count = 0
        self._where, self._moment, self._copy = f"{folder}/", moment, copy
        self._lock = threading.Lock()

    def see(self, operation: str, arguments: tuple[object, ...]) -> None:
        """Called before every operation of the process."""
        if operation not in OPERATIONS or self._lock.locked():
            return
        target = arguments[1] if operation in ("os.rename", "os.link") else arguments[0]
        if isinstance(target, (str, os.PathLike)) and os.fspath(target).startswith(self._where):
            self.count += 1
            if self.count == self._moment and self._copy is not None:
                with self._lock:
                    shutil.copytree(self._where, self._copy)


_watches: list[Watch] = []


@contextmanager
def watching(watch: Watch) -> Iterator[Watch]:
    """Watches for the block."""
    if not hasattr(watching, "installed"):
        sys.addaudithook(_see)  # an audit hook stays for good: one, that passes on to whoever watches
        watching.installed = True  # type: ignore[attr-defined]
    _watches.append(watch)
    try:
        yield watch
    finally:
        _watches.remove(watch)


def _see(operation: str, arguments: tuple[object, ...]) -> None:
    for watch in _watches:
        watch.see(operation, arguments)
