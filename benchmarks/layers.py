"""Time and memory of `ilse layers`: the demo's cache, and made-up activations at 1, 10 and 100 thousand texts.

    python -m benchmarks.layers [--cache data/cache.zarr] [--examples data/examples.parquet] [--quick]

Every run is a process of its own that calls the library as a user does, imports included. The last line is JSON:
`seconds_demo` and `peak_rss_megabytes` are of all figures of the demo's cache (BBC News under SmolLM2-135M), with
labels; `time_growth` is the time per text of the largest made-up cache over that of the smallest, without labels. What
is paid once weighs on the smallest, so `cpu_microseconds_per_further_text` says what the texts of each step up cost. A
made-up cache has 12 layers of width 128, rows that vary in some directions more than in others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ilse.core.machine.memory import peak_resident
from pipeline import store

SIZES = (1_000, 10_000, 100_000)
QUICK = (1_000, 4_000)
LAYERS, DIM, SHARD_ROWS = 12, 128, 256


def main() -> None:
    """Runs each size, or one as a child."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("data/cache.zarr"))
    parser.add_argument("--examples", type=Path, default=Path("data/examples.parquet"))
    parser.add_argument("--quick", action="store_true", help="end within a minute or two: made-up caches to 4 thousand")
    parser.add_argument("--child", nargs="+", metavar="CACHE [EXAMPLES]", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measured(*given.child)))
        return
    runs = []
    with tempfile.TemporaryDirectory() as name:
        for size in QUICK if given.quick else SIZES:
            place = Path(name) / f"{size}.zarr"
            made_up(place, size)
            runs.append({"texts": size, **_child(place)})
            print(runs[-1], file=sys.stderr)
    demo = _child(given.cache, given.examples)
    per_text = [run["seconds"] / run["texts"] for run in runs]
    figures = {
        "seconds_demo": demo["seconds"],
        "cpu_seconds_demo": demo["cpu_seconds"],
        "peak_rss_megabytes": demo["peak_rss_megabytes"],
        "time_growth": round(per_text[-1] / per_text[0], 3),
        "rss_growth": round(runs[-1]["peak_rss_megabytes"] / runs[0]["peak_rss_megabytes"], 3),
        "cpu_microseconds_per_further_text": [
            round(1e6 * (b["cpu_seconds"] - a["cpu_seconds"]) / (b["texts"] - a["texts"]), 1) for a, b in pairwise(runs)
        ],
        "runs": runs,
    }
    print(json.dumps(figures))


def _child(*arguments: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.layers", "--child", *map(str, arguments)]
    started = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    whole = round(time.perf_counter() - started, 2)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"seconds_with_start": whole, **figures}


def measured(cache: str, examples: str | None = None) -> dict[str, Any]:
    """One call; seconds of the call, imports included, and the process's CPU seconds and memory."""
    started = time.perf_counter()
    from trainer import layers

    table = layers(cache, examples=examples)
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(time.process_time(), 2),
        "peak_rss_megabytes": round((peak_resident() or 0) / 2**20, 1),
        "figures": len(table),
    }


def made_up(place: Path, texts: int) -> None:
    """A cache of `texts` rows in float16."""
    names = ("embedding", *(f"block {i}" for i in range(1, LAYERS - 1)), "final")
    spec = store.CaptureSpec(
        {"sha256": "00"}, "11", names, DIM, 16, "{text}", compute_type="float32", storage_type="float16"
    )
    header = store.CacheHeader(spec, texts, SHARD_ROWS, "made up", 1_000, {})
    location, ids = store.Location(place), [f"{i:032x}" for i in range(texts)]
    random = np.random.default_rng(0)
    spread = np.geomspace(1, 0.02, DIM) * np.linspace(1, 5, LAYERS)[:, None]
    store.create(location, header, ids)

    def shards() -> Any:
        for shard in range(header.shards):
            rows = header.rows_of(shard)
            size = rows.stop - rows.start
            values = (random.normal(0.3, 1, size=(size, LAYERS, DIM)) * spread).astype(np.float32)
            content = store.ShardRows(ids[rows], [5] * size, [False] * size, {"mean": values})
            yield store.write_shard(location, header, shard, content)

    store.finish(location, header, ids, shards())


if __name__ == "__main__":
    main()
