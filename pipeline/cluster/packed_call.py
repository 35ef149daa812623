"""A task in the form that workers receive: a call as bytes, which the task's own thread unpacks.

Dask reads what a worker is sent on the thread of its event loop. Whatever that needs is imported there: for a shard
PyTorch and transformers, many seconds on a busy machine, and all the while the worker gives no sign of life and takes
no message. As bytes, a call needs nothing but this module there.
"""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

from ilse.core.machine.memory import keep_freed_memory

SAMPLES_MAY_HANG = sys.version_info < (3, 11, 12)
"""Whether this Python's `sys._current_frames` may never return (gh-106883).

It holds a lock of the interpreter while it makes objects. If one of them sets off a garbage collection, which throws
away a `threading.local` (each read of an object store leaves one behind) or lets another thread run that starts or
ends, the lock is waited for by who holds it: the whole process stands still, heartbeats too, until the scheduler
drops it.
"""

_ALONE = threading.Lock()


def packed(function: Callable[..., Any], *args: Any) -> bytes:
    """A call packed as bytes, for `run_alone`."""
    from distributed.protocol.pickle import dumps  # by value what can't be imported there, such as a script's own

    return dumps((function, args))  # type: ignore[no-any-return]


def run_alone(call: bytes) -> Any:
    """The call's result. One at a time in a worker process, whatever its number of threads: it holds one model."""
    with _ALONE:
        if SAMPLES_MAY_HANG:
            _stop_sampling()
        keep_freed_memory()
        function, args = pickle.loads(call)
        return function(*args)


def _stop_sampling() -> None:
    """Ends the samples that Dask takes of a task's thread, 100 a second, for the dashboard's profile."""
    from distributed import get_worker

    worker = get_worker()
    sampling = worker.periodic_callbacks.pop("profile", None)
    if sampling is not None:
        worker.loop.add_callback(sampling.stop)
