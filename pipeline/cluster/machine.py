"""Cores that this process may use: a container, a Slurm job or `taskset` may grant it only some of the machine's."""

from __future__ import annotations


def cores() -> int:
    """CPU cores that this process may use: those of its Slurm job, container or `taskset`, or the machine's.

    A container's share of CPU time counts as so many cores, rounded up. Several workers on one machine that all see all
    cores should be given theirs, or `extract.threads` be named. The environment's OMP_NUM_THREADS is not asked: Dask
    sets it to 1 for every worker that it starts.
    """
    # Imported here: `ilse plan` for a model that is not here needs no Dask.
    from dask.system import cpu_count

    return int(cpu_count())


def memory() -> int:
    """Bytes of main memory that this process may use: the machine's, its container's, or what its Dask worker has."""
    from distributed import get_worker
    from distributed.system import memory_limit

    most = int(memory_limit())
    try:
        own = get_worker().memory_manager.memory_limit
    except ValueError:  # no worker: the work runs in this process
        own = None
    return min(most, own or most)
