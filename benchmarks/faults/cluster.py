"""`kill -9` of Dask workers and of the scheduler: a real `dask scheduler` and `dask worker`s on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

from benchmarks.faults.hook import Hook
from benchmarks.faults.kills import wait_for
from benchmarks.faults.references import References
from benchmarks.faults.stage import SHARDS, Stage
from benchmarks.faults.starting import Ended, Running
from benchmarks.faults.tally import Fault
from benchmarks.faults.work import Mark, Work, chain

WORKER_KILLS = 3
"""Workers killed in one run; Dask gives up on a task after four."""


class Cluster:
    """A scheduler and its workers, as a user starts them."""

    def __init__(self, stage: Stage, folder: Path, port: int, hook: Hook) -> None:
        self.address = f"tcp://127.0.0.1:{port}"
        self._stage, self._folder, self._hook = stage, folder, hook
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", str(port))
        self.workers = [self.new_worker() for _ in range(2)]

    def new_worker(self) -> Running:
        """One more worker; it tries until its scheduler is there."""
        return self._start("worker", self.address, "--no-nanny", "--nthreads", "1", "--death-timeout", "120")

    def kill(self, running: Running) -> None:
        """`kill -9`."""
        running.process.kill()
        running.wait()

    def end(self) -> None:
        """Ends every process that is left."""
        for running in [self.scheduler, *self.workers]:
            if running.process.poll() is None:
                self.kill(running)

    def _start(self, *command: str) -> Running:
        return self._stage.start_module(["dask", *command, "--no-dashboard"], self._folder, self._hook)


def workers(references: References, random: Random, count: int) -> list[Fault]:
    """Workers are killed while they compute, one or both at once, and replaced; the run must go on."""
    work, port = _work(references, "kill -9 of a Dask worker")
    with _cluster(references.stage, work, port) as cluster:
        running = references.stage.start(work.call, work.hook())
        marks: list[Mark] = []
        while len(marks) < min(count, WORKER_KILLS):
            wait_for(work, running, len(work.records()) + random.randint(1, SHARDS // WORKER_KILLS - 1))
            if running.process.poll() is not None:
                break
            for number in random.sample((0, 1), min(random.choice((1, 1, 2)), count - len(marks))):
                cluster.kill(cluster.workers[number])
                marks.append(work.mark())
                cluster.workers[number] = cluster.new_worker()
        ended = running.wait()
        for number, mark in enumerate(marks, 1):
            work.hit(f"kill {number} of {len(marks)} in one run", ended, mark=mark)
        if ended.code != 0:
            return work.judged(references.stage.run(work.call, work.hook()))
        return work.judged(ended, rerun=False)


def scheduler(references: References, random: Random, count: int) -> list[Fault]:
    """The scheduler is killed while its workers compute; a new one at the same address has to be enough."""
    work, port = _work(references, "kill -9 of the Dask scheduler")

    def faulty(work: Work) -> Ended:
        with _cluster(references.stage, work, port) as cluster:
            running = references.stage.start(work.call, work.hook())
            records = random.randint(0, max(0, SHARDS - len(work.intact()) - 4))
            wait_for(work, running, len(work.records()) + records, random.uniform(0, 9) if records == 0 else 0)
            cluster.kill(cluster.scheduler)
            ended = running.wait()
        work.hit(f"after {records} more shards", ended)
        return ended

    def clean(_call: object) -> Ended:
        with _cluster(references.stage, work, port):
            return references.stage.run(work.call, work.hook())

    return chain(work, faulty, clean, count)


def _work(references: References, kind: str) -> tuple[Work, int]:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    cluster = {"kind": "address", "address": f"tcp://127.0.0.1:{port}"}
    return references.work(kind, cluster=cluster), port


@contextmanager
def _cluster(stage: Stage, work: Work, port: int) -> Iterator[Cluster]:
    cluster = Cluster(stage, work.call.folder, port, work.hook(process="none", slow=0.1))
    try:
        yield cluster
    finally:
        cluster.end()
