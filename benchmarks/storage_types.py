"""Size, reading speed and head accuracy of one cache in each storage type.

    python -m benchmarks.storage_types [--quick] [--task NAME TRAIN.parquet TEST.parquet]...

Without a task, the demo's headlines. Each task is extracted once, as float32; the other caches are made from those
very values, so that nothing but the storage type differs. Heads are trained with the demo's recipe and seeds. Reading
is timed A B C D A B C D. The last line is JSON: by type `bytes_per_value`, `read_megabytes_per_second` of stored bytes,
`read_values_per_second`, and by task and head the median test accuracy over the seeds; `largest_loss` is the most that
a type loses to float32 anywhere, in points.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.demo import demo_params, plain_copy
from benchmarks.steady import ENOUGH, QUICK_ENOUGH, Rounds, report, rounds_until_steady
from ilse.core.params import load_section, validate
from ilse.core.tables import EXAMPLES_FILE, TEXTS_FILE
from pipeline import store
from pipeline.config import ExtractParams
from pipeline.stages.extract import extract
from pipeline.stages.prepare import PrepareParams, prepare
from trainer.config import TrainParams
from trainer.stages.evaluate import evaluate
from trainer.stages.train import train

HEADS = ("last", "weighted")
TYPES = ("float32", "bfloat16", "float16", "int8")


def main() -> None:
    """Measures every task and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within a minute: 128 headlines, one head and seed")
    parser.add_argument("--task", nargs=3, action="append", metavar=("NAME", "TRAIN", "TEST"), default=[])
    given = parser.parse_args()
    params = demo_params()
    accuracy: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params = params.model_copy(update={"model": plain_copy(params.model, folder / "model")})
        for task, source in _sources(given.task, given.quick):
            place = folder / task
            prepare(source, place)
            caches = make_caches(params, place)
            accuracy[task] = {kind: accuracies(place, cache, given.quick) for kind, cache in caches.items()}
            print(task, accuracy[task], flush=True)
        speeds, rounds = reading(caches, given.quick)
    report(_summary(speeds, accuracy), rounds)


def _sources(tasks: list[list[str]], quick: bool) -> list[tuple[str, PrepareParams]]:
    if not tasks:
        return [("headlines", load_section("prepare", PrepareParams))]
    return [
        (
            name,
            validate("prepare", PrepareParams, {"path": {"train": train_file, "test": test_file}, "format": "parquet"}),
        )
        for name, train_file, test_file in tasks
    ]


def make_caches(params: ExtractParams, folder: Path) -> dict[str, Path]:
    """The task's cache in every type; float32 is extracted, the others hold its values."""
    whole = params.model_copy(update={"storage_type": "float32"})
    extract(whole, folder / TEXTS_FILE, folder / "float32.zarr", folder / "scratch")
    source = store.open_cache(folder / "float32.zarr")
    return {kind: recode(source, kind, folder / f"{kind}.zarr") for kind in TYPES}


def recode(source: store.Cache, kind: str, out: Path) -> Path:
    """A cache of the same values in another type."""
    if kind == source.header.capture.storage_type:
        return Path(source.path)
    header = replace(source.header, capture=replace(source.header.capture, storage_type=kind))
    location, ids = store.Location(out), source.text_ids()
    counts, cut = source.token_counts(), source.truncated()
    store.create(location, header, ids)
    records = []
    for shard, place in enumerate(source.shards()):
        rows = store.ShardRows(ids[place], counts[place].tolist(), cut[place].tolist(), {"mean": source.read(place)})
        records.append(store.write_shard(location, header, shard, rows))
    store.finish(location, header, ids, records)
    return out


def accuracies(folder: Path, cache: Path, quick: bool) -> dict[str, float]:
    """Median test accuracy over the seeds, in per cent, by head."""
    heads = HEADS[:1] if quick else HEADS
    params = load_section("train", TrainParams).model_copy(
        update={"heads": list(heads), **({"seeds": 1} if quick else {})}
    )
    models, results = folder / f"models-{cache.stem}", folder / f"results-{cache.stem}"
    for head in heads:
        train(params, head, cache, folder / EXAMPLES_FILE, models, results)
    table = evaluate(list(heads), cache, folder / EXAMPLES_FILE, models, results)
    return {row["head"]: round(100 * row["test_score"], 2) for row in table.to_dicts()}


def reading(caches: dict[str, Path], quick: bool) -> tuple[dict[str, float], Rounds]:
    """Median seconds a value of reading a whole cache, by type; and how each type compares with the first."""
    seconds: dict[str, list[float]] = {kind: [] for kind in caches}
    first, *others = caches

    def a_round() -> dict[str, float]:
        for kind, path in caches.items():
            cache = store.open_cache(path)
            started = time.perf_counter()
            for place in cache.shards():
                cache.read(place)
            seconds[kind].append((time.perf_counter() - started) / np.prod(_shape(cache)))
        return {f"read_{kind}_over_{first}": seconds[kind][-1] / seconds[first][-1] for kind in others}

    rounds = rounds_until_steady(a_round, *((3, 15) if quick else (7, 21)), QUICK_ENOUGH if quick else ENOUGH)
    return {kind: median(values) for kind, values in seconds.items()}, rounds


def _shape(cache: store.Cache) -> tuple[int, int, int]:
    return cache.header.texts, len(cache.layers), cache.dim


def _summary(speeds: dict[str, float], accuracy: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    losses = [
        of_type["float32"][head] - of_type[kind][head]
        for of_type in accuracy.values()
        for kind in TYPES
        for head in of_type[kind]
    ]
    return {
        "bytes_per_value": {kind: store.value_bytes(kind) for kind in TYPES},
        "read_values_per_second": {kind: round(1 / seconds) for kind, seconds in speeds.items()},
        "read_megabytes_per_second": {
            kind: round(store.value_bytes(kind) / seconds / 1e6) for kind, seconds in speeds.items()
        },
        "test_score": accuracy,
        "largest_loss": round(max(losses), 2),
    }


if __name__ == "__main__":
    main()
