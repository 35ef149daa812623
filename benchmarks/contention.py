"""What extraction and training keep of their speed beside one busy process a core, alternating in one run, A B A B.

    python -m benchmarks.contention [--quick]

Quiet and busy in turn, whole commands as a user gives them: `ilse extract` of articles through all-MiniLM-L6-v2 by a
local worker, and `ilse train` of heads of three kinds on the headlines' cache. The speeds are those that the commands
write down, of computing and of fitting, without starting and loading. A fair share beside one busy process a core is
0.5.

The environment's words on threads are taken out first: what the commands do about spinning threads is what is measured.

The last line is JSON: `extraction` and `training`, each a share of the quiet speed (median over the rounds), their
spreads, the quiet speeds, and `others`, the share of the processors that other programs took in the quiet turns.
Rounds go on until the spreads are small; a machine that is too noisy for that, or is not quiet, ends with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import yaml

from benchmarks.demo import RAW, demo_texts, first_texts
from benchmarks.steady import ENOUGH, QUICK_ENOUGH, report, rounds_until_steady
from ilse.core.machine.spinning import COUNT, POLICY
from ilse.core.params import load_section
from pipeline.stages.fetch import FetchParams, fetch

HEADS = ("weighted", "mlp", "cayley")
ON_THREADS = (COUNT, POLICY, "OMP_NUM_THREADS", "MKL_NUM_THREADS")
QUIET = 0.1
"""Share of the processors that others may take in the quiet turns."""
BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    for _ in range(10**5): pass"
"""Ends with who started it, however and whenever that ends."""


def main() -> None:
    """Prepares texts and cache, runs the rounds and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few texts, epochs and rounds: a minute or two")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), articles=32 if quick else 768, epochs=10 if quick else 60)
        rounds = rounds_until_steady(bench.round, *((2, 4) if quick else (5, 15)), QUICK_ENOUGH if quick else ENOUGH)
        others = median(bench.others)
        if others > QUIET:
            rounds.unusable["quiet turns"] = f"had other programs take {others:.0%} of the processors"
        speeds = {key: round(median(values), 2) for key, values in bench.speeds.items() if key.startswith("quiet")}
        report({**rounds.medians(), **speeds, "others": round(others, 3), "rounds": len(bench.others)}, rounds)


class Bench:
    """The commands with their inputs in a folder."""

    def __init__(self, folder: Path, articles: int, epochs: int) -> None:
        self.speeds: dict[str, list[float]] = {}
        self.others: list[float] = []
        self._folder = folder
        minilm = RAW / "minilm"
        if not minilm.exists():
            fetch(load_section("fetch.minilm", FetchParams).root, minilm)
        self._articles = first_texts(demo_texts(folder / "long", whole=True), articles, folder / "articles.parquet")
        self._headlines = demo_texts(folder / "short", whole=False)
        sections = {
            "extract": {"model": {"path": str(minilm.resolve())}, "max_tokens": 128},
            "train": {"heads": list(HEADS), "seeds": 1, "device": "cpu", "recipe": {"epochs": epochs}},
        }
        (folder / "params.yaml").write_text(yaml.safe_dump(sections), encoding="utf-8")
        self._extract(self._headlines, folder / "cache.zarr")

    def round(self) -> dict[str, float]:
        """Both shares of the quiet speed."""
        shares = {}
        for name, speed in (("extraction", self._extraction), ("training", self._training)):
            with self._others_watched():
                quiet = speed()
            with busy_cores():
                busy = speed()
            self.speeds.setdefault(f"quiet_{name}", []).append(quiet)
            shares[name] = busy / quiet
        return shares

    def _extraction(self) -> float:
        """Tokens per second."""
        with tempfile.TemporaryDirectory(dir=self._folder) as out:
            return float(self._extract(self._articles, Path(out) / "cache.zarr")["tokens_per_second"])

    def _extract(self, texts: Path, out: Path) -> Any:
        figures = self._folder / "extract.json"
        scratch = out.with_suffix(".scratch")
        self._ilse("extract", "--texts", texts, "--out", out, "--scratch", scratch, "--figures", figures)
        return json.loads(figures.read_text())

    def _training(self) -> float:
        """Fits of all heads per second."""
        with tempfile.TemporaryDirectory(dir=self._folder) as out:
            places = ["--models", Path(out) / "models", "--results", Path(out) / "results"]
            examples = self._headlines.with_name("examples.parquet")
            self._ilse("train", "--cache", self._folder / "cache.zarr", "--examples", examples, *places)
            written = [json.loads((Path(out) / f"results/train/{head}.json").read_text()) for head in HEADS]
        return 1 / sum(float(one["train_seconds"]) for one in written)

    def _ilse(self, *words: str | Path) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in ON_THREADS}
        command = [sys.executable, "-m", "ilse.cli", *map(str, words), "--params", str(self._folder / "params.yaml")]
        subprocess.run(command, env=environment, stdout=sys.stderr, check=True)

    @contextmanager
    def _others_watched(self) -> Iterator[None]:
        """Keeps the share of the processors' time that neither this process nor its commands took."""
        started, all_before, own_before = time.perf_counter(), _busy_seconds(), _own_seconds()
        yield
        others = _busy_seconds() - all_before - (_own_seconds() - own_before)
        self.others.append(max(0.0, others / (time.perf_counter() - started) / (psutil.cpu_count() or 1)))


@contextmanager
def busy_cores() -> Iterator[list[subprocess.Popen[bytes]]]:
    """One process that does nothing but count on each core that this one may use."""
    cores = sorted(os.sched_getaffinity(0))
    running = [subprocess.Popen([sys.executable, "-c", BUSY, str(os.getpid())]) for _ in cores]
    try:
        for process, core in zip(running, cores, strict=True):
            os.sched_setaffinity(process.pid, {core})
        yield running
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()


def _busy_seconds() -> float:
    """Of all processors since the machine started."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def _own_seconds() -> float:
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
