"""Dask clients: opens one for each `cluster.kind`, and refuses a cluster whose workers cannot run an extraction."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from ilse.core.errors import FailedError, UserError
from ilse.core.machine.children import SAFE_PATH
from ilse.core.machine.spinning import COUNT, POLICY, ROUNDS, spinning
from ilse.core.terminal import say
from pipeline.config import ClusterParams

CONNECT_SECONDS = 8.0
"""How long a scheduler may take to answer at the start, and how long a lost connection is tried again."""
WORKER_SECONDS = 60.0
"""How long a cluster may be without any worker."""
QUEUE_SECONDS = 24 * 3600.0
"""How long a Slurm cluster may be without any worker, as jobs wait in a queue."""
SAME_ON_ALL = ("ilse-cache", "torch", "transformers", "distributed")
"""Distributions of which a worker elsewhere needs the version that is here: rows depend on them, or pickles do."""
PLAIN_ENVIRONMENT = (
    "export DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON=\"{'MALLOC_TRIM_THRESHOLD_': None, 'OMP_NUM_THREADS': None, "
    "'MKL_NUM_THREADS': None, 'OPENBLAS_NUM_THREADS': None}\""
)
"""Shell line that keeps Dask from giving a worker's process what `_cluster` keeps from workers on this machine."""
BRIEF_SPINNING = f'[ -n "${{{POLICY}+set}}" ] || export {COUNT}="${{{COUNT}:-{ROUNDS}}}"'
"""Shell line for what `ilse.core.machine.spinning` does here; what the user has set wins, also under Slurm."""
SAFE_PATH_LINE = "; ".join(f"export {name}={value}" for name, value in SAFE_PATH.items())
"""Shell line for what `ilse.core.machine.children` says."""
OWN_DEVICE = "ILSE_OWN_DEVICE"
"""Set in the workers of kind `local`, which share the machine's CUDA devices by their index."""


@contextmanager
def open_client(params: ClusterParams) -> Iterator[Any]:
    """A `distributed.Client` of the kind asked for, with its first worker there.

    The processes that were started for it end with the block. Raises `UserError` for a missing package, an address
    where no scheduler answers, a cluster that stays without workers and workers with other versions.
    """
    from distributed.utils import silence_logging_cmgr

    with ExitStack() as stack:
        for name in ("distributed", "tornado", "bokeh"):  # our own errors say what their log lines would
            stack.enter_context(silence_logging_cmgr(logging.CRITICAL, name))
        client = stack.enter_context(_connected(params.address or _cluster(params, stack), params))
        say(f"dashboard: {dashboard(client)}")
        wait_for_worker(client, params)
        if params.kind in ("address", "slurm"):
            _require_same_versions(client)
        yield client


def seconds_without_workers(params: ClusterParams) -> float:
    """How long a cluster of this kind may be without any worker before that is an error."""
    return QUEUE_SECONDS if params.kind == "slurm" else WORKER_SECONDS


def dashboard(client: Any) -> str:
    """An address that shows what the cluster is doing; without bokeh, Dask's plain tables of workers."""
    try:
        link = str(client.dashboard_link)
    except KeyError:  # the scheduler was started without one
        return "none at this scheduler"
    if importlib.util.find_spec("bokeh") is None and link.endswith("/status"):
        return link.removesuffix("/status") + "/info/main/workers.html"
    return link


def wait_for_worker(client: Any, params: ClusterParams) -> None:
    """Returns once a worker is there. Raises `UserError` when none comes in time."""
    if client.scheduler_info()["workers"]:
        return
    limit = seconds_without_workers(params)
    say(f"no worker has connected to {client.scheduler.address} yet; waiting up to {limit:,.0f} s for the first")
    try:
        client.wait_for_workers(1, timeout=limit)
    except TimeoutError as error:
        raise no_workers(client.scheduler.address, limit) from error


def no_workers(address: str, seconds: float) -> UserError:
    """The error of a cluster that has been without any worker for `seconds`."""
    return FailedError(
        f"scheduler {address}",
        expected="at least one worker",
        found=f"none for {seconds:,.0f} s",
        next_step=f"start one with 'dask worker {address} --nthreads 1' in an environment that has this package, and "
        "run the same command again; finished shards are kept",
    )


def _cluster(params: ClusterParams, stack: ExitStack) -> Any:
    import dask

    makers = {"local": _local, "slurm": _slurm, "cuda": _cuda}
    # Dask hands freed memory back at once and gives each worker one OpenMP thread. Measured on the demo, two cores:
    # 630 tokens/s so, 1,270 without, most of the difference in page faults.
    stack.enter_context(_same_environment())
    stack.enter_context(dask.config.set({"distributed.nanny.pre-spawn-environ": {**spinning(), **SAFE_PATH}}))
    try:
        return stack.enter_context(makers[params.kind](params))
    except UserError:
        raise
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise FailedError(
            f"cluster of kind '{params.kind}'",
            expected="workers that start" + (f" with the options {sorted(params.options)}" if params.options else ""),
            found=f"{type(error).__name__}: {error}",
            next_step="check 'extract.cluster' in the parameter file; a script of your own has to be a file, and run "
            "its work under if __name__ == '__main__', since workers import it",
        ) from error


@contextmanager
def _same_environment() -> Iterator[None]:
    """Dask puts what a worker is to find into this process's environment first, and leaves it there.

    The safe path is there before: `multiprocessing` starts a helper of its own ahead of the first worker.
    """
    before = {name: os.environ.get(name) for name in (COUNT, *SAFE_PATH, "PYTHONHASHSEED", "__DASK_PARENT_PID")}
    os.environ.update(SAFE_PATH)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _local(params: ClusterParams) -> Any:
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=params.workers,
        threads_per_worker=1,  # a worker holds one model, which uses the cores by itself
        processes=True,
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        silence_logs=logging.CRITICAL,
        env={OWN_DEVICE: "1"},
        security=_keys_of_the_run("local"),
    )


def _keys_of_the_run(extra: str) -> Any:
    """TLS with keys that live as long as the cluster, in memory: a scheduler runs whatever is sent to its port.

    On loopback every user of the machine can reach it. Measured: 0.3 s more until the first worker is there, and no
    more for a task.
    """
    _optional("cryptography", extra)
    from distributed.security import Security

    return Security.temporary()


def _slurm(params: ClusterParams) -> Any:
    jobqueue = _optional("dask_jobqueue", "slurm")
    prologue = [PLAIN_ENVIRONMENT, BRIEF_SPINNING, SAFE_PATH_LINE, *params.options.get("job_script_prologue", ())]
    # Its own default shows the dashboard to the whole network, by plain http.
    scheduler = {"dashboard_address": "127.0.0.1:0", **params.options.get("scheduler_options", {})}
    # One worker a job: its own default cuts a job of 8 cores into 4, each with a copy of the model and all 8 cores.
    given = {"n_workers": params.workers, "processes": 1, **params.options}
    return jobqueue.SLURMCluster(**given | {"job_script_prologue": prologue, "scheduler_options": scheduler})


def _cuda(params: ClusterParams) -> Any:
    cuda = _optional("dask_cuda", "cuda")
    # A worker a visible GPU is its own default; a number that the user named goes before it.
    named = {"n_workers": params.workers} if "workers" in params.model_fields_set else {}
    # Over NVLink and InfiniBand it has another protocol, which knows no keys.
    own = any(name in ("protocol", "security") or name.startswith("enable_") for name in params.options)
    keys = {} if own else {"security": _keys_of_the_run("cuda")}
    return cuda.LocalCUDACluster(**{"dashboard_address": "127.0.0.1:0", **named, **keys, **params.options})


def _optional(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise FailedError(
            f"cluster of kind '{extra}'",
            expected=f"the packages of the extra '{extra}'",
            found=f"no package '{error.name}'",
            next_step=f"pip install 'ilse-cache[{extra}]'",
        ) from error


@contextmanager
def _connected(place: Any, params: ClusterParams) -> Iterator[Any]:
    from distributed import Client

    client = Client.__new__(Client)  # held, so that it can be closed where its constructor fails
    try:
        Client.__init__(client, place, timeout=CONNECT_SECONDS, set_as_default=False)
    except Exception as error:  # whatever answers at a wrong port is read as a message: even MemoryError was seen
        _close(client)
        raise FailedError(
            f"scheduler {params.address or place}",
            expected="a Dask scheduler that answers",
            found=f"{type(error).__name__}: {error}",
            next_step="check 'extract.cluster.address', and that 'dask scheduler' runs there",
        ) from error
    try:
        yield client
    finally:
        _close(client)


def _close(client: Any) -> None:
    """Once it is closed, its finaliser does nothing.

    Otherwise that tries again, and prints a traceback. Or it runs in the thread that the next client starts, and waits
    there for a lock that this one's constructor holds until the thread has started: an AssertionError after 10 s.
    """
    with suppress(Exception):  # the work is done or its error is on its way; a lost scheduler can't say goodbye
        client.close(timeout=2)
    client.status = "closed"


def _require_same_versions(client: Any) -> None:
    """Refuses workers, and a scheduler, whose versions would fail late or give other rows."""
    found = client.get_versions(packages=list(SAME_ON_ALL))
    here = _versions(found["client"])
    machines = {f"worker {address}": _versions(said) for address, said in found["workers"].items()}
    both = {"python", "ilse-cache", "distributed"}  # the scheduler unpickles tasks, and computes nothing
    machines["the scheduler"] = {name: v for name, v in _versions(found["scheduler"]).items() if name in both}
    for machine, there in machines.items():
        for name, version in there.items():
            if here[name] is not None and version != here[name]:
                raise _other_version(machine, name, str(here[name]), version)


def _versions(said: Any) -> dict[str, str | None]:
    """Versions without what follows a plus sign: torch 2.8.0+cpu here goes with 2.8.0+cu128 on a worker."""
    packages = said["packages"]
    versions = {name: (packages.get(name) or "").split("+")[0] or None for name in SAME_ON_ALL}
    return {"python": ".".join(packages["python"].split(".")[:2]), **versions}


def _other_version(machine: str, name: str, here: str, there: str | None) -> UserError:
    return UserError(
        f"{machine} of the cluster",
        expected=f"{name} {here}, as on this machine",
        found=f"{name} {there}" if there else f"no package '{name}'",
        next_step="start it in an environment with the same versions, such as one made with this project's "
        "constraints.txt",
    )
