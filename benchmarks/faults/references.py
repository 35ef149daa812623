"""Caches that no fault has touched, and unfinished work to damage; each is made once, when it is first asked for."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.faults.judge import Reference
from benchmarks.faults.stage import SHARD_ROWS, SHARDS, TABLES, Call, Stage
from benchmarks.faults.watching import Watch, watching
from benchmarks.faults.work import Work

T = TypeVar("T")
DAMAGED = ("pooled/mean/c/3/0/0", "text_id/zarr.json")
LENT_OF_DAMAGED = frozenset(range(SHARDS)) - {3}


class References:
    """Reference caches by variant and table."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._lock = threading.RLock()
        self.cache = self._once(self._cache)
        self.reference = self._once(self._reference)
        self.in_basis = self._once(self._in_basis)
        self.unfinished = self._once(self._unfinished)
        self.moments = self._once(self._moments)

    def work(
        self, kind: str, variant: str = "float16", start: str = "nothing", folder: Path | None = None, **changes: Any
    ) -> Work:
        """A new piece of work. At its start stands nothing at `out`, an older cache of half the texts, or a finished
        one with a damaged shard and a damaged array.
        """
        call = self.stage.call(folder or self.stage.folder(), variant, **changes)
        work = Work(kind, call, (self.reference(variant),))
        if start == "older":
            shutil.copytree(self.cache(variant, "older"), call.out)
            work.allowed += (self.reference(variant, "older"),)
            work.lent = frozenset(range(TABLES["older"] // SHARD_ROWS))
        elif start == "damaged":
            shutil.copytree(self.cache(variant), call.out)
            for name in DAMAGED:
                Path(call.out, name).write_bytes(b"damaged")
            work.lent = LENT_OF_DAMAGED
        return work

    def _once(self, make: Callable[..., T]) -> Callable[..., T]:
        cached = functools.cache(make)

        @functools.wraps(make)
        def locked(*arguments: str) -> T:
            with self._lock:
                return cached(*arguments)

        return locked

    def _cache(self, variant: str, table: str = "texts") -> Path:
        """Folder of the finished cache."""
        return Path(self._made(self.stage.folder(), variant, table).out)

    def _made(self, folder: Path, variant: str, table: str = "texts") -> Call:
        call = self.stage.call(folder, variant, table)
        ended = self.stage.here(call.arguments())
        assert ended.code == 0, ended.said
        return call

    def _reference(self, variant: str, table: str = "texts") -> Reference:
        return Reference.of(self.cache(variant, table))

    def of(self, variant: str, table: str) -> tuple[Reference, ...]:
        """What a cache of these texts may be whose run finds the campaign's own, of which it may take the basis."""
        made = self.reference(variant, table)
        return (made,) if variant != "basis" or table == "texts" else (made, self.in_basis(table))

    def _in_basis(self, table: str) -> Reference:
        """The texts in the basis of the campaign's own."""
        call = self.stage.call(self.stage.folder(), "basis", table, donors=[str(self.cache("basis"))])
        ended = self.stage.here(call.arguments())
        assert ended.code == 0, ended.said
        return Reference.of(Path(call.out))

    def _unfinished(self, variant: str, table: str = "texts") -> Path:
        """Folder of the scratch as a kill midway leaves it."""
        folder, copy = self.stage.folder(), self.stage.folder() / "copy"
        with watching(Watch(folder, self.moments(variant) // 2, copy)):
            call = self._made(folder, variant, table)
        return copy / call.scratch.name

    def _moments(self, variant: str = "float16") -> int:
        """File operations of an undisturbed run."""
        folder = self.stage.folder()
        with watching(Watch(folder)) as watch:
            self._made(folder, variant)
        return watch.count
