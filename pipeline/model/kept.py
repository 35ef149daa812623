"""Models that this process has in memory, each only once, for as long as someone uses it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from ilse.core.errors import UserError
from pipeline.config import ModelParams
from pipeline.model.identity import model_files

V = TypeVar("V")
Stamp = tuple[tuple[str, int, int, int, int], ...]


class Kept(Generic[V]):
    """Values by key, made when first asked for; each is forgotten when nobody holds it any more.

    Several threads that ask for one value get the same one. Values are made one at a time: transformers changes
    settings of the whole process while it loads a model.
    """

    def __init__(self) -> None:
        self._values: WeakValueDictionary[Hashable, V] = WeakValueDictionary()
        self._lock = threading.RLock()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of `key`, made if nobody holds it."""
        with self._lock:
            value = self._values.get(key)
            if value is None:
                value = self._values[key] = make()
            return value

    def held(self, key: Hashable) -> V | None:
        """The value of `key`, if somebody holds it."""
        with self._lock:
            return self._values.get(key)

    def forget(self) -> None:
        """Makes every value again when it is next asked for; those that are in use live on."""
        with self._lock:
            self._values.clear()


def stamp(params: ModelParams) -> Stamp:
    """Changes whenever one of a local model's files is written or replaced; empty for a model of the Hub.

    A path says nothing about what lies there now. The time of the last change (ctime) is the system's own: no program
    can set it back, as `cp --preserve` does with the time of the last write.
    """
    files = [(file.name, os.stat(file)) for file in model_files(params)]
    return tuple((name, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns) for name, found in files)


def require_unchanged(params: ModelParams, before: Stamp) -> None:
    """Raises `UserError` when the model's files are no longer those of `before`."""
    if stamp(params) != before:
        raise UserError(
            f"model {params.path}",
            expected="files that stay as they are while the model is read",
            found="files that were written meanwhile",
            next_step="wait until whatever writes them is done, then run the same command again",
        )
