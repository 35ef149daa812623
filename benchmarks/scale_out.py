"""The demo on a cluster that loses a worker, to a disk and to an S3 server, against the same run in one process.

    python -m benchmarks.scale_out [--quick]

Real processes on loopback: `dask scheduler`, two `dask worker`, moto's S3 server, `ilse extract` and `ilse train`. One
of the workers gets `kill -9` when a quarter of the shards is recorded. The last line is JSON: by run its `seconds`,
`killed_after_shards` of `shards`, and `files_that_differ` from the run in one process, byte for byte; `from_s3` is the
test accuracy of a head that was trained and evaluated from the bucket, `from_disk` the same from the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks.demo import demo_params, demo_texts, plain_copy
from benchmarks.faults.bucket import BUCKET, Server
from benchmarks.faults.judge import differences, files_of
from ilse.core.files.table_files import read_csv, read_parquet
from ilse.core.tables import EXAMPLES_FILE, TEXTS_FILE
from pipeline import store
from pipeline.config import ModelParams

HEAD = "weighted"
QUICK_TEXTS, QUICK_ROWS = 96, 8
REMOTE = f"s3://{BUCKET}/demo/cache.zarr"


def main() -> None:
    """Runs the three extractions and prints how they compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within a minute: 96 headlines in shards of 8")
    given = parser.parse_args()
    server = Server()
    with tempfile.TemporaryDirectory() as name:
        try:
            bench = Bench(Path(name), server, given.quick)
            print(json.dumps(bench.figures()))
        finally:
            server.end()


class Bench:
    """A folder with the demo's tables, and one folder a run."""

    def __init__(self, root: Path, server: Server, quick: bool) -> None:
        self._root, self._server, self._quick = root, server, quick
        demo_texts(root, whole=False)
        # One thread everywhere: how a sum is split between threads is seen in its last bits.
        params = demo_params()
        model = ModelParams(path=Path(str(params.model.path)).resolve())
        self._params = params.model_copy(update={"threads": 1, "model": model})
        if quick:
            texts = read_parquet(root / TEXTS_FILE).head(QUICK_TEXTS)
            texts.write_parquet(root / TEXTS_FILE)
            read_parquet(root / EXAMPLES_FILE).join(texts, on="text_id", how="semi").write_parquet(root / EXAMPLES_FILE)
            model = plain_copy(self._params.model, root / "model")
            self._params = self._params.model_copy(update={"shard_rows": QUICK_ROWS, "model": model})
        texts = read_parquet(root / TEXTS_FILE).height
        self._shards = -(-texts // self._params.shard_rows)

    def figures(self) -> dict[str, Any]:
        """All three runs."""
        serial = self._root / "serial" / "cache.zarr"
        alone = {"seconds": self._extract("serial", {"kind": "synchronous"}, str(serial))}
        expected = files_of(serial)
        disk = self._root / "cluster" / "cache.zarr"
        records = self._root / "cluster" / "scratch"
        with self._losing_a_worker(lambda: len(list(records.glob("*/records/*.json")))) as cluster:
            lost = {"seconds": self._extract("cluster", cluster.section, str(disk))}
        lost |= cluster.figures(differences(files_of(disk), expected))
        with self._server.reached():
            beside = store.Location(REMOTE).sibling(".unfinished")
            with self._losing_a_worker(lambda: sum(".json" in name for name, _ in beside.list())) as cluster:
                remote = {"seconds": self._extract("s3", cluster.section, REMOTE)}
            remote |= cluster.figures(differences(self._server.files(REMOTE), expected))
            from_s3 = self._trained("s3", REMOTE)
        from_disk = self._trained("serial", str(serial))
        runs = {"one_process": alone, "two_workers": lost, "two_workers_to_s3": remote}
        return {"shards": self._shards, **runs, "from_disk": from_disk, "from_s3": from_s3}

    def _extract(self, name: str, cluster: dict[str, Any], out: str) -> float:
        folder = self._root / name
        folder.mkdir()
        sections = yaml.safe_load(Path("params.yaml").read_text())
        sections["train"] |= {"heads": [HEAD], "options": {HEAD: {}}}
        sections["controls"]["names"] = []
        sections["extract"] = self._params.model_dump(mode="json") | {"cluster": cluster}
        (folder / "params.yaml").write_text(yaml.safe_dump(sections))
        started = time.perf_counter()
        texts = ("--texts", str(self._root / TEXTS_FILE))
        self._ilse(folder, "extract", *texts, "--out", out, "--scratch", str(folder / "scratch"))
        return round(time.perf_counter() - started, 1)

    def _trained(self, name: str, cache: str) -> float:
        """Test accuracy in per cent of a head from this cache alone."""
        folder, tables = self._root / name, ("--examples", str(self._root / EXAMPLES_FILE))
        self._ilse(folder, "train", HEAD, "--cache", cache, *tables)
        self._ilse(folder, "evaluate", "--cache", cache, *tables)
        table = read_csv(folder / "results" / "leaderboard.csv")
        return round(100 * table.row(0, named=True)["test_score"], 2)

    def _ilse(self, folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "ilse.cli", *arguments, "--params", "params.yaml"]
        done = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")

    @contextmanager
    def _losing_a_worker(self, recorded: Callable[[], int]) -> Iterator[Cluster]:
        cluster = Cluster(self._root, recorded, max(1, self._shards // 4))
        try:
            yield cluster
        finally:
            cluster.end()


class Cluster:
    """A scheduler with two workers; one is killed when `after` shards are recorded."""

    def __init__(self, folder: Path, recorded: Callable[[], int], after: int) -> None:
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        self.section = {"kind": "address", "address": f"tcp://127.0.0.1:{port}"}
        self._folder, self._recorded, self._after = folder, recorded, after
        self._killed_after: int | None = None
        self._ended = threading.Event()
        self._processes = [self._start("scheduler", "--host", "127.0.0.1", "--port", port)]
        self._processes += [self._worker(self.section["address"]) for _ in range(2)]
        threading.Thread(target=self._kill, daemon=True).start()

    def figures(self, differing: list[str]) -> dict[str, Any]:
        """When the worker was killed, and what its loss changed."""
        return {"killed_after_shards": self._killed_after, "files_that_differ": differing}

    def end(self) -> None:
        """Ends what still runs."""
        self._ended.set()
        for process in self._processes:
            process.kill()
            process.wait()

    def _kill(self) -> None:
        while not self._ended.wait(0.05):
            done = self._recorded()
            if done >= self._after:
                self._processes[-1].kill()
                self._killed_after = done
                return

    def _worker(self, address: str) -> subprocess.Popen[bytes]:
        return self._start("worker", address, "--no-nanny", "--nthreads", "1", "--death-timeout", "120")

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-m", "dask", *command, "--no-dashboard"]
        with (self._folder / "dask.log").open("ab") as log:
            return subprocess.Popen(line, cwd=self._folder, env=_environment(), stdout=log, stderr=log)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path.cwd())}


if __name__ == "__main__":
    main()
