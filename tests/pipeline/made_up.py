"""Functions that workers of the executor's tests import; each stands for a shard's computation."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any


def double(job: str, item: tuple[int, ...]) -> list[int]:
    return [2 * number for number in item]


def sleepy(job: float, item: tuple[int, ...]) -> tuple[int, ...]:
    time.sleep(job)
    return item


def logged(job: tuple[Path, float], item: tuple[int, ...]) -> tuple[int, ...]:
    """Leaves a line for every start, so that a test sees which process ran what."""
    folder, seconds = job
    with (folder / "starts").open("a") as file:
        file.write(f"{item[0]} {os.getpid()}\n")
    time.sleep(seconds)
    return item


def deadly(job: int, item: tuple[int, ...]) -> tuple[int, ...]:
    """Kills its process on the item `job`, as the kernel does when memory is out."""
    if item[0] == job:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def failing(job: int, item: tuple[int, ...]) -> tuple[int, ...]:
    if item[0] == job:
        raise OSError(28, "No space left on device")
    return item


def refusing(job: int, item: tuple[int, ...]) -> tuple[int, ...]:
    from ilse.core.errors import UserError

    raise UserError("text 7", expected="finite rows", found="nan", next_step="name another compute_type")


def slow(job: int, item: tuple[int, ...]) -> tuple[int, ...]:
    raise TimeoutError("the disk took too long")


def overlaps(job: Path, item: tuple[int, ...]) -> bool:
    """Whether another task runs in this process at the same time."""
    place = job / str(os.getpid())
    try:
        place.touch(exist_ok=False)
    except FileExistsError:
        return True
    time.sleep(0.05)
    place.unlink()
    return False


def device(requested: str) -> str:
    from pipeline.cluster.executor import worker_device

    return worker_device(requested)


def environment() -> dict[str, str]:
    return dict(os.environ)


def sampled(dask_worker: Any) -> bool:
    """Whether Dask takes samples of what this worker's tasks do."""
    callback = dask_worker.periodic_callbacks.get("profile")
    return callback is not None and callback.is_running()
