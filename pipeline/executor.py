"""Where the shards are computed: Dask worker processes, or this process. Both run the same function."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, runtime_checkable

from pipeline.config import ClusterParams

T = TypeVar("T")


@runtime_checkable
class Executor(Protocol):
    """Runs functions where the model is."""

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """The result of one call on one worker."""

    def each(self, function: Callable[[Any, int], T], job: Any, items: Sequence[int]) -> Iterator[T]:
        """`function(job, item)` for every item, in the order in which they finish."""


class Serial:
    """The slow, obvious twin: everything in this process, one after the other."""

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """The function's result."""
        return function(*args)

    def each(self, function: Callable[[Any, int], T], job: Any, items: Sequence[int]) -> Iterator[T]:
        """The results in the items' order."""
        return (function(job, item) for item in items)


class DaskExecutor:
    """Sends work to a Dask scheduler's workers."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """The result of one call on any worker."""
        result: T = self._client.submit(function, *args, pure=False).result()
        return result

    def each(self, function: Callable[[Any, int], T], job: Any, items: Sequence[int]) -> Iterator[T]:
        """Results as they come; the first failure is raised and the rest is cancelled."""
        from distributed import as_completed

        futures = [self._client.submit(function, job, item, pure=False) for item in items]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            self._client.cancel(futures)


@contextmanager
def open_executor(params: ClusterParams) -> Iterator[Executor]:
    """An executor of the kind asked for; its worker processes end with the block."""
    if params.kind == "synchronous":
        yield Serial()
        return
    import dask
    from distributed import Client, LocalCluster

    with (
        # Dask hands freed memory back at once and gives each worker one OpenMP thread. Measured on the demo, two cores:
        # 630 tokens/s so, 1,270 without, most of the difference in page faults.
        dask.config.set({"distributed.nanny.pre-spawn-environ": {}}),
        LocalCluster(
            n_workers=params.workers,
            threads_per_worker=1,  # a worker holds one model, which uses the cores by itself
            processes=True,
            dashboard_address=None,
            memory_limit=0,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield DaskExecutor(client)


def threads_of(requested: int, params: ClusterParams) -> int:
    """CPU threads of one worker; with 0 the machine's cores are shared among the workers."""
    workers = params.workers if params.kind == "local" else 1
    return requested or max(1, len(os.sched_getaffinity(0)) // workers)
