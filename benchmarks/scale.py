"""Memory and time per text of a whole extraction with a tiny model, at 10 thousand, 100 thousand and 1 million texts.

    python -m benchmarks.scale [--quick]

Each size runs as a process of its own with one Dask worker. The last line is JSON: `rss_growth` is the peak resident
memory of the largest run over that of the smallest (main process and worker, the larger growth of the two),
`time_per_text_growth` the same of seconds per text, from the first result to the finished cache; what is paid once a
run weighs on the smallest size, so `microseconds_per_further_text` says what the texts of each step up cost.
`graph_bytes` is the most bytes of tasks that were in flight at once.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.tiny import tiny_model, tiny_texts

SIZES = (10_000, 100_000, 1_000_000)
QUICK = (2_000, 10_000)


def main() -> None:
    """Runs every size, or one as a child."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within a minute: 2 and 10 thousand texts")
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "TEXTS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(extract_one(Path(given.child[0]), int(given.child[1]))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_model(folder / "model")
        runs = [_child(folder, size) for size in (QUICK if given.quick else SIZES)]
    print(json.dumps({**_growth(runs[0], runs[-1]), "microseconds_per_further_text": _further(runs), "runs": runs}))


def _further(runs: list[dict[str, Any]]) -> list[float]:
    """Of each size over the one before: what a text more costs, without what is paid once a run."""
    return [round(1e6 * (b["seconds"] - a["seconds"]) / (b["texts"] - a["texts"]), 2) for a, b in pairwise(runs)]


def _child(folder: Path, size: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scale", "--child", str(folder), str(size)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(figures, file=sys.stderr)
    return figures


def extract_one(folder: Path, size: int) -> dict[str, Any]:
    """One extraction of `size` texts; figures of this process and of its worker."""
    import pipeline.stages.extract as stage
    from pipeline.cluster.executor import DaskExecutor
    from pipeline.config import ExtractParams

    texts = tiny_texts(size, folder / f"{size}.parquet")
    params = ExtractParams.model_validate(
        {"model": {"path": folder / "model"}, "compute_type": "float32", "cluster": {"kind": "local", "workers": 1}}
    )
    seen: dict[str, Any] = {}
    whole = DaskExecutor.each

    def each(self: DaskExecutor, *args: Any) -> Any:
        """Looks at the worker's memory and at the graph once the work is done."""
        for result in whole(self, *args):
            # What is slow once a process, such as the first batch of each shape, ends with the first result.
            seen.setdefault("started", time.perf_counter())
            seen.setdefault("texts", size - sum(receipt.texts for receipt in result))
            yield result
        seen["worker_kilobytes"] = self.call(_peak_rss)
        seen["graph_bytes"] = self.largest_graph

    move = stage.move_into_place

    def move_into_place(*args: Any) -> None:
        """The cache is finished when it is in its place; that the cluster then ends costs every run a second."""
        move(*args)
        seen["finished"] = time.perf_counter()

    DaskExecutor.each = each  # type: ignore[method-assign]
    stage.move_into_place = move_into_place
    stage.extract(params, texts, folder / f"{size}.zarr", folder / f"scratch-{size}")
    seconds = seen["finished"] - seen["started"]
    return {
        "texts": size,
        "seconds": round(seconds, 2),
        "microseconds_per_text": round(1e6 * seconds / seen["texts"], 2),
        "main_megabytes": round(_peak_rss() / 1e3, 1),
        "worker_megabytes": round(seen["worker_kilobytes"] / 1e3, 1),
        "graph_bytes": seen["graph_bytes"],
    }


def _peak_rss() -> int:
    """Kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _growth(small: dict[str, Any], large: dict[str, Any]) -> dict[str, Any]:
    both = ("main_megabytes", "worker_megabytes")
    return {
        "rss_growth": round(max(large[name] / small[name] for name in both), 3),
        "time_per_text_growth": round(large["microseconds_per_text"] / small["microseconds_per_text"], 3),
        "graph_bytes": large["graph_bytes"],
    }


if __name__ == "__main__":
    main()
