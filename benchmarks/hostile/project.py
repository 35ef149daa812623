"""The intact project that every crafted one is a copy of: made by the stages themselves, over a tiny model."""

from __future__ import annotations

import csv
import itertools
import random
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

import yaml

from benchmarks.hostile.opening import ilse
from benchmarks.tiny import WORDS, tiny_model

ROWS = 60
HEAD = "models/weighted/seed-0"
TOKEN_HEAD = "models/mean/seed-0"
ANSWERS = "models/majority/seed-0"
CACHE = "data/cache.zarr"
EXPORTED = "exported"
PARAMS: dict[str, Any] = {
    "fetch": {"folder": {"kind": "path", "path": "given"}},
    "prepare": {"path": "source.csv"},
    "extract": {
        "model": {"path": "model"},
        "compute_type": "float32",
        "max_tokens": 16,
        "shard_rows": 32,
        "threads": 1,
        "cluster": {"kind": "synchronous"},
    },
    "train": {
        "heads": ["weighted"],
        "seeds": 1,
        "device": "cpu",
        "recipe": {"epochs": 1, "batch_size": 16, "compute_type": "float32"},
    },
    "controls": {"names": ["majority"], "seeds": 1},
    "lora": {},
    "tune": {"trials": 1, "storage": "sqlite:///data/tune.db"},
}
READS_TOKENS: dict[str, Any] = {"heads": ["weighted", "mean"], "options": {"mean": {"tokens": {"rank": 2}}}}
"""Of section `train`, where a second head is to read tokens."""
STAGES = (
    ("prepare",),
    ("extract",),
    ("train", "weighted"),
    ("control", "majority"),
    ("evaluate",),
    ("predict", HEAD, "--input", "new.txt", "--model", "model", "--out", "answers.csv"),
)


def make_project(folder: Path) -> None:
    """A folder with model, data set, tables, cache, a head, a control's answers and an exported head."""
    from ilse.predict.predictor import Predictor
    from ilse.predict.sentence_transformer import export

    lay_out(folder)
    with chdir(folder):
        for stage in STAGES:
            ended = ilse(*stage)()
            if ended.code:
                raise RuntimeError(f"ilse {stage[0]} on the intact project: {ended.said}")
        export(Predictor.load(HEAD, "model", device="cpu", threads=1), EXPORTED)


def lay_out(folder: Path, labels: Sequence[str] = "ab", more: str = "", tokens: bool = False) -> None:
    """What a user brings: a model, a data set with these labels in turn, new texts and parameters.

    `more` stands in every text. With `tokens` the cache is to keep token states, and `TOKEN_HEAD` to read them.
    """
    tiny_model(folder / "model")
    draw = random.Random(0)
    words = [f"{' '.join(draw.choices(WORDS, k=4))} {' '.join(str(row))}{more}" for row in range(ROWS)]
    with (folder / "source.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("text", "label"), *zip(words, itertools.cycle(labels))])
    (folder / "new.txt").write_text(f"the market wins{more}\n")
    for name in ("given", "data/raw"):
        (folder / name).mkdir(parents=True)
    (folder / "given" / "a.txt").write_text("a file")
    extract, train = (PARAMS[name] | (own if tokens else {}) for name, own in (
        ("extract", {"token_states": True}), ("train", READS_TOKENS),
    ))  # fmt: skip
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS | {"extract": extract, "train": train}))
