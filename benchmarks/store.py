"""How fast a cache is written and read, against the same bytes as one plain file, in one run, A B A B.

    python -m benchmarks.store [--quick]

`read_fraction` and `write_fraction` are the cache's speed over the plain file's; `one_layer_fraction` is the time of
reading a single layer over that of reading all.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.steady import QUICK_ENOUGH, report, rounds_until_steady
from pipeline import store

ON_DISK = 0.2
"""Spread that is allowed: disks differ from one write to the next, more than processors do."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    quick = parser.parse_args().quick
    texts, least = (2_048, 3) if quick else (10_240, 7)
    spec = store.CaptureSpec(
        model={"sha256": "0"},
        tokenizer="0",
        layers=tuple(f"block {i}" for i in range(31)),
        dim=576,
        max_tokens=128,
        template="{text}",
        compute_type="float32",
        storage_type="float16",
    )
    header = store.CacheHeader(spec, texts, 256, "made up", 1)
    rows = np.random.default_rng(0).normal(size=(texts, 31, 576)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), header, rows, least, QUICK_ENOUGH if quick else ON_DISK)


def measure(folder: Path, header: store.CacheHeader, rows: store.FloatRows, least: int, enough: float) -> None:
    """Prints medians over the rounds; bytes are those stored."""
    times: dict[str, list[float]] = {}

    def timed(name: str, job: Callable[[], object]) -> float:
        started = time.perf_counter()
        job()
        times.setdefault(name, []).append(time.perf_counter() - started)
        return times[name][-1]

    def a_round() -> dict[str, float]:
        plain, path = folder / "plain", folder / f"{len(times.get('write', ()))}.zarr"
        plainly_written = timed("plain write", lambda: rows.astype(np.float16).tofile(plain))
        written = timed("write", lambda: write(path, header, rows))
        cache = store.open_cache(path)
        plainly_read = timed("plain read", lambda: np.fromfile(plain, np.float16).astype(np.float32))
        read = timed("read", lambda: [cache.read(place) for place in cache.shards()])
        one = timed("one layer", lambda: [cache.read(place, [30]) for place in cache.shards()])
        shutil.rmtree(path)
        return {
            "write_fraction": plainly_written / written,
            "read_fraction": plainly_read / read,
            "one_layer_fraction": one / read,
        }

    rounds = rounds_until_steady(a_round, least, 3 * least, enough)
    medians = {name: median(values) for name, values in times.items()}
    figures = {
        "megabytes": header.bytes / 1e6,
        "write_mb_per_second": round(header.bytes / 1e6 / medians["write"], 1),
        "read_mb_per_second": round(header.bytes / 1e6 / medians["read"], 1),
    }
    report(figures | rounds.medians(3), rounds)


def write(folder: Path, header: store.CacheHeader, rows: store.FloatRows) -> None:
    """A whole cache, as the extract stage writes it."""
    path = store.Location(folder)
    ids = [f"{i:032x}" for i in range(header.texts)]
    store.create(path, header, ids)
    records = []
    for shard in range(header.shards):
        place = header.rows_of(shard)
        count = place.stop - place.start
        content = store.ShardRows(ids[place], [1] * count, [False] * count, {"mean": rows[place]})
        records.append(store.write_shard(path, header, shard, content))
    store.finish(path, header, ids, records)


if __name__ == "__main__":
    main()
