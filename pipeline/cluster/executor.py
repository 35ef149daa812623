"""Executors that compute shards, on Dask workers or in this process. Both run the same function."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, runtime_checkable

from ilse.core.errors import FailedError, UserError
from ilse.core.terminal import say
from pipeline.cluster.client import OWN_DEVICE, no_workers, open_client, seconds_without_workers
from pipeline.cluster.machine import cores
from pipeline.cluster.packed_call import packed, run_alone
from pipeline.cluster.silence import Signs
from pipeline.config import ClusterParams

T = TypeVar("T")
Item = TypeVar("Item")

A_WORKER = 2
"""Tasks sent ahead for each worker: one that it computes, and one so that it need not wait for the next."""
PULSE_SECONDS = 5.0
"""How often the scheduler is asked who its workers are: new ones get work, and silence is noticed."""
SILENCE_SECONDS = 30.0
"""How long the scheduler may take to answer that."""


@runtime_checkable
class Executor(Protocol):
    """Runs functions where the model is."""

    @property
    def workers(self) -> int:
        """How many workers are there now."""

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """The result of one call on one worker."""

    def each(self, function: Callable[[Any, Item], T], job: Any, items: Iterable[Item]) -> Iterator[T]:
        """`function(job, item)` for every item, in the order in which they finish.

        The function must be idempotent: an item whose worker is lost is computed again on another.
        """


class Serial:
    """The slow, obvious twin: everything in this process, one after the other."""

    workers = 1

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """The function's result."""
        return function(*args)

    def each(self, function: Callable[[Any, Item], T], job: Any, items: Iterable[Item]) -> Iterator[T]:
        """The results in the items' order."""
        return (function(job, item) for item in items)


class DaskExecutor:
    """Sends work to a Dask scheduler's workers, a bounded number of tasks at a time."""

    def __init__(self, client: Any, seconds_without_workers: float) -> None:
        self._client = client
        self._address = client.scheduler.address
        self._patience = seconds_without_workers
        self._workers: set[str] = set()
        self._signs = Signs()
        self._last_pulse = -PULSE_SECONDS
        self._last_worker = time.monotonic()
        self._arrivals = 0

    @property
    def workers(self) -> int:
        """How many were there at the last pulse."""
        return len(self._workers)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """The result of one call on any worker."""
        self._pulse()
        return self._result(self._submit(function, *args), function.__name__)  # type: ignore[no-any-return]

    def each(self, function: Callable[[Any, Item], T], job: Any, items: Iterable[Item]) -> Iterator[T]:
        """Results as they come; the first failure is raised, and the tasks that wait are withdrawn.

        Raises `UserError` for a lost scheduler, a cluster without workers and an item on which workers die.
        """
        rest = iter(items)
        flying: dict[Any, Item] = {}
        try:
            while self._fill(flying, rest, function, job):
                done = self._finished(flying)
                # In the order they were sent: of tasks that died with a worker, the first one is likelier to blame.
                for future in [one for one in flying if one in done]:
                    yield self._result(future, str(flying.pop(future)))
        finally:
            for future in flying:
                future.release()

    def _fill(self, flying: dict[Any, Item], rest: Iterator[Item], function: Callable[..., Any], job: Any) -> int:
        """Sends tasks until the window is full or no item is left; returns how many are in flight."""
        self._pulse()
        while len(flying) < A_WORKER * max(1, len(self._workers)):
            for item in rest:
                flying[self._submit(function, job, item)] = item
                break
            else:
                break
        return len(flying)

    def _submit(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return self._client.submit(run_alone, packed(function, *args), pure=False)
        except Exception as error:
            if self._client.status == "running":
                raise
            raise self._scheduler_lost(error) from error

    def _finished(self, flying: Iterable[Any]) -> Collection[Any]:
        """Futures that are done; none when the time for a pulse has come first."""
        from distributed import wait

        try:
            with self._client.as_current():
                done: set[Any] = wait(list(flying), PULSE_SECONDS, "FIRST_COMPLETED").done
        except TimeoutError:
            return ()
        except CancelledError as error:
            raise self._scheduler_lost(error) from error
        return done

    def _result(self, future: Any, what: str) -> Any:
        from distributed import KilledWorker

        while True:
            try:
                return future.result(timeout=PULSE_SECONDS)
            except KilledWorker as error:
                raise _workers_died(what, error) from error
            except CancelledError as error:
                raise self._scheduler_lost(error) from error
            except Exception as error:
                if future.status == "error":
                    _refuse_environment(error)
                    raise
                if not isinstance(error, TimeoutError):
                    raise self._scheduler_lost(error) from error
            self._pulse()

    def _pulse(self) -> None:
        """Asks the scheduler who its workers are, now and then."""
        now = time.monotonic()
        if now < self._last_pulse + PULSE_SECONDS:
            return
        try:
            known = self._client.sync(self._client.scheduler.identity, callback_timeout=SILENCE_SECONDS)["workers"]
        except Exception as error:
            raise self._scheduler_lost(error) from error
        self._last_pulse, workers = time.monotonic(), set(known)
        if lost := len(self._workers - workers):
            say(f"{lost} of {len(self._workers)} workers lost; their shards go elsewhere")
        self._workers = workers
        for worker, seconds in self._signs.silent({name: one["last_seen"] for name, one in known.items()}, now):
            say(_no_sign(worker, seconds))
        if workers or self._some_came():
            self._last_worker = self._last_pulse
        elif self._last_pulse > self._last_worker + self._patience:
            raise no_workers(self._address, self._last_pulse - self._last_worker)

    def _some_came(self) -> bool:
        """Whether workers came since it was last asked, also such as died again before the pulse: of these the task
        is to blame, which the scheduler says after some deaths.
        """
        events = self._client.get_events("all")
        before, self._arrivals = self._arrivals, sum(event.get("action") == "add-worker" for _, event in events)
        return self._arrivals > before

    def _scheduler_lost(self, error: Exception) -> UserError:
        return FailedError(
            f"scheduler {self._address}",
            expected="a connection that lasts as long as the run",
            found=f"it was lost ({getattr(error, 'reason', None) or type(error).__name__})",
            next_step="start the scheduler and its workers again and run the same command: finished shards are kept, "
            "and it resumes from there",
        )


@contextmanager
def open_executor(params: ClusterParams) -> Iterator[Executor]:
    """An executor of the kind asked for; the worker processes that it started end with the block."""
    if params.kind == "synchronous":
        yield Serial()
        return
    with open_client(params) as client:
        yield DaskExecutor(client, seconds_without_workers(params))


def threads_of(requested: int, params: ClusterParams) -> int:
    """CPU threads of one worker; 0 where only the worker can tell, by `cores`.

    On this machine its cores are shared among the workers. Of the machines behind an address, of Slurm's and of a
    machine with one worker a GPU nothing is known here.
    """
    if requested or params.kind in ("address", "slurm", "cuda"):
        return requested
    workers = params.workers if params.kind == "local" else 1
    return max(1, cores() // workers)


def worker_device(requested: str) -> str:
    """The device of the worker that calls: where workers of kind `local` share CUDA devices, the one of its index.

    dask-cuda's workers see their own device as the first, those elsewhere are given theirs by who starts them.
    """
    if requested != "cuda" or OWN_DEVICE not in os.environ:
        return requested
    import torch
    from distributed import get_worker

    return f"cuda:{_device_number(int(get_worker().name), torch.cuda.device_count())}"


def _device_number(index: int, devices: int) -> int:
    return index % max(1, devices)


def _no_sign(worker: str, seconds: float) -> str:
    """Warns of a silent worker. It may come back, so its tasks stay with it: giving it up is up to the scheduler."""
    return (
        f"worker {worker} has given no sign for {seconds:,.0f} s: it hangs, or its machine or network does. If it is "
        "killed its shards go elsewhere at once; else when the scheduler gives it up, by Dask's own setting within 10 "
        "minutes"
    )


def _workers_died(what: str, error: Any) -> UserError:
    return FailedError(
        f"{what} on {error.last_worker.address}",
        expected="a worker that lives as long as its task",
        found=f"every worker that computed it died, {error.allowed_failures + 1} in total; out of memory is the usual "
        "cause",
        next_step="give workers more memory, or set a smaller 'extract.batch_tokens' or fewer workers per machine, and "
        "run the same command again; finished shards are kept",
    )


def _refuse_environment(error: Exception) -> None:
    """Raises `UserError` where a worker or scheduler could not read the task; returns for the task's own errors."""
    missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__
    unread = isinstance(error, RuntimeError) and "deserialization" in str(error)
    ours = isinstance(missing, ModuleNotFoundError) and (missing.name or "").split(".")[0] in ("ilse", "pipeline")
    if unread or ours:
        raise FailedError(
            "the cluster's environment",
            expected="this package, of this version, on the scheduler and on every worker",
            found=str(missing) if missing else "tasks that it could not read",
            next_step="pip install 'ilse-cache[extract]' of the same version there, and start them again",
        ) from error
