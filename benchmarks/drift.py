"""Whether the gate of `ilse layers --compare` keeps its word: its error rate by simulation, and on made-up caches.

    python -m benchmarks.drift [--quick] [--simulations N]

The first lines draw answers of one head on two caches: shares of examples that only one of them has right, `lost` and
`won`, with a true change of exactly the tolerance (`passed` is the error rate then, 5 % at most) or of none (it is the
power). `normal` is the same test by normal quantiles in place of exact probabilities.

The last lines make whole caches anew in each run: rows of a few massive coordinates among many small ones, of which the
small ones hold the label; a head trained on 400 of the texts; and copies of the cache. `int8` stores it anew in int8,
`noise` adds to each row isotropic noise of a tenth of its length. `passed` is the share of runs whose gate says yes at
2 points with 1,000 examples, and `true_points` the mean change on 20,000 other texts. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl
import torch

from pipeline import store
from trainer import drift, fit
from trainer.artifacts.artifact import TrainedHead
from trainer.cache_drift.gate import LEVEL
from trainer.statistics import Change
from trainer.statistics.equivalence import score

Array = np.ndarray[Any, np.dtype[Any]]
SETTINGS = [(300, 3.0, 0.0), (300, 3.0, 0.01), (1_000, 1.0, 0.0), (1_000, 2.0, 0.01), (2_000, 1.0, 0.002)]
"""Examples, tolerance in points, share that is won."""
LABELS, DIM, TEXTS, TOLERANCE = 3, 48, 1_400, 2.0


def main() -> None:
    """Prints a line a setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within a minute: fewer simulations and runs")
    parser.add_argument("--simulations", type=int, default=None, help="20,000; 2,000 with --quick")
    given = parser.parse_args()
    simulations = given.simulations or (2_000 if given.quick else 20_000)
    told = []
    for rows, points, won in SETTINGS:
        for lost in (won + points / 100, won):
            told.append(rates(rows, points, lost, won, simulations))
            print(json.dumps(told[-1]))
    caches = {kind: of_caches(kind, 4 if given.quick else 20) for kind in ("int8", "noise")}
    print(json.dumps(caches))
    errors = [one["passed"] for one in told if one["true_points"] == -one["tolerance"]]
    print(json.dumps({"simulations": simulations, "largest_error_rate": max(errors), "settings": told, **caches}))


def rates(rows: int, points: float, lost: float, won: float, simulations: int) -> dict[str, Any]:
    """How often the gate says yes, exactly and by normal quantiles, in per cent."""
    random, quantile = np.random.default_rng(rows), NormalDist().inv_cdf(LEVEL)
    drawn = random.multinomial(rows, [lost, won, 1 - lost - won], simulations)[:, :2]
    outcomes, times = np.unique(drawn, axis=0, return_counts=True)

    @cache
    def passes(b: int, c: int) -> bool:
        return Change(b, c, rows).p_within(points / 100) <= LEVEL

    def roughly(b: int, c: int) -> bool:
        both = (score(np.array(x), np.array(y), rows, points / 100) for x, y in ((b, c), (c, b)))
        return max(float(one) for one in both) <= quantile

    exact, normal = (
        100 * times[[rule(b, c) for b, c in outcomes.tolist()]].sum() / simulations for rule in (passes, roughly)
    )
    return {
        "examples": rows,
        "tolerance": points,
        "won": won,
        "true_points": round(100 * (won - lost), 6),
        "passed": round(float(exact), 2),
        "normal": round(float(normal), 2),
    }


def of_caches(kind: str, runs: int) -> dict[str, float]:
    """How often a copy of a cache passes, in per cent, and what the head truly loses on it."""
    passed: list[bool] = []
    lost: list[float] = []
    for seed in range(runs):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            x, y, random = *rows_of(TEXTS, seed), np.random.default_rng(seed + 1_000)
            write(folder / "cache.zarr", x, "float32")
            examples(folder / "examples.parquet", y)
            own = {"folds": None, "refit": False, "penalty": "validation"}
            head = fit(folder, "last", out=folder / "head", recipe=own)
            write(folder / "b.zarr", x if kind == "int8" else noisy(x, random), "int8" if kind == "int8" else "float32")
            given: dict[str, Any] = {"examples": folder / "examples.parquet", "tolerance": TOLERANCE}
            passed.append(drift(folder / "cache.zarr", folder / "b.zarr", head=folder / "head", **given).passed is True)
            others, theirs = rows_of(20_000, seed + 10_000)
            copied = in_int8(others) if kind == "int8" else noisy(others, random)
            lost.append(accuracy(head, copied, theirs) - accuracy(head, others, theirs))
    return {"runs": runs, "passed": 100 * float(np.mean(passed)), "true_points": round(100 * float(np.mean(lost)), 2)}


def rows_of(texts: int, seed: int) -> tuple[Array, Array]:
    """Rows [texts, 1, width] and labels."""
    random = np.random.default_rng(seed)
    y = random.integers(LABELS, size=texts)
    directions = np.random.default_rng(0).normal(size=(LABELS, DIM)) / np.sqrt(DIM)
    x = random.normal(size=(texts, DIM)) + 9 * directions[y]
    x[:, :2] = 100 + 10 * random.normal(size=(texts, 2))
    return x[:, None].astype(np.float32), y


def noisy(x: Array, random: np.random.Generator) -> Array:
    """With isotropic noise of a tenth of each row's length."""
    noise = random.normal(size=x.shape)
    noise *= 0.1 * np.linalg.norm(x, axis=2, keepdims=True) / np.linalg.norm(noise, axis=2, keepdims=True)
    return np.asarray(x + noise, np.float32)


def in_int8(x: Array) -> Array:
    """As a cache of one shard would hold it."""
    scale = np.abs(x).max(0) / 127
    return np.asarray(np.rint(x / scale) * scale, np.float32)


def accuracy(head: TrainedHead, x: Array, y: Array) -> float:
    """Of a head, on rows."""
    with torch.no_grad():
        return float((head(torch.from_numpy(x)).argmax(-1).numpy() == y).mean())


def write(place: Path, x: Array, storage_type: str) -> None:
    """A cache of these rows."""
    spec = store.CaptureSpec(
        {"sha256": "00"}, "11", ("final",), DIM, 16, "{text}", compute_type="float32", storage_type=storage_type
    )
    header = store.CacheHeader(spec, len(x), 256, "made up", 1_000, {})
    location, ids = store.Location(place), [f"{i:032x}" for i in range(len(x))]
    store.create(location, header, ids)
    records = []
    for shard in range(header.shards):
        rows = header.rows_of(shard)
        size = rows.stop - rows.start
        content = store.ShardRows(ids[rows], [5] * size, [False] * size, {"mean": x[rows]})
        records.append(store.write_shard(location, header, shard, content))
    store.finish(location, header, ids, records)


def examples(place: Path, y: Array) -> None:
    """The first 400 to train on, the others for validation."""
    columns = {
        "text_id": [f"{i:032x}" for i in range(len(y))],
        "source_row": range(len(y)),
        "label": [f"label {i}" for i in y],
        "label_index": y,
        "split": ["train" if i < 400 else "validation" for i in range(len(y))],
    }
    pl.DataFrame(columns).write_parquet(place)


if __name__ == "__main__":
    main()
