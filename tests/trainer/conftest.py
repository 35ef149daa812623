"""A small task over a cache made without a model, in which a middle layer carries the label and the last one little."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from pipeline import store
from trainer.config import Recipe, TrainParams
from trainer.heads import Head, build_head
from trainer.objectives import MultiClass
from trainer.rows.in_memory import Rows

LABELS = ("art", "law", "war")
LAYERS = ("embeddings", "block 0", "block 1", "block 2")
TELLING = 2
"""The layer that carries the label."""
STRENGTH = {TELLING: 3.0, 3: 0.6}
"""Layer → how far a label moves a row."""
DIM = 8


def of_labels() -> MultiClass:
    """The task's objective."""
    return MultiClass(LABELS)


def head_of(name: str, seed: int = 0, **options: Any) -> Head:
    """An untrained head for the task."""
    torch.manual_seed(seed)
    return build_head(name, options, layers=len(LAYERS), dim=DIM, out=len(LABELS))


def recipe_of(**changes: Any) -> Recipe:
    """A short training of linear heads too, whose epochs validation chooses, with changes."""
    own = {} if "preset" in changes else {"optimizer": "adamw", "folds": None}
    return Recipe.model_validate({"epochs": 6, "batch_size": 16, "learning_rate": 0.02, **own, **changes})


@dataclass(frozen=True)
class Made:
    """The files of one task, and what is in them."""

    cache: Path
    examples: Path
    table: pl.DataFrame
    values: dict[str, np.ndarray[Any, np.dtype[np.float32]]]
    """Text id → its [layers, dim] in the cache."""


def rows_for(labels: np.ndarray[Any, Any], seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Noise of another scale in each layer, and the label's direction in those that tell."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(len(labels), len(LAYERS), DIM))
    directions = np.random.default_rng(99).normal(size=(len(LAYERS), len(LABELS) + 5, DIM))
    for layer, strength in STRENGTH.items():
        values[:, layer] += strength * directions[layer, labels] / np.sqrt(DIM)
    return (values * 10.0 ** np.arange(len(LAYERS))[:, None]).astype(np.float32)


def pooled(header: store.CacheHeader, values: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The rows under the first pooling; under each of the others they are turned, so that no two are alike."""
    return {name: np.roll(values, place, axis=-1) for place, name in enumerate(header.capture.poolings)}


def write_cache(path: Path, ids: list[str], values: np.ndarray[Any, Any], **capture: Any) -> None:
    facts: dict[str, Any] = {
        "model": {"sha256": "00"}, "tokenizer": "11", "layers": LAYERS, "dim": DIM, "max_tokens": 16,
        "template": "{text}", "compute_type": "float32", "storage_type": "float32",
    }  # fmt: skip
    header = store.CacheHeader(store.CaptureSpec(**{**facts, **capture}), len(ids), 16, "tiny", 1000, {})
    location = store.Location(path)
    store.create(location, header, ids)
    records = []
    for shard in range(header.shards):
        place = header.rows_of(shard)
        size = place.stop - place.start
        rows = store.ShardRows(ids[place], [3] * size, [False] * size, pooled(header, values[place]))
        records.append(store.write_shard(location, header, shard, rows))
    store.finish(location, header, ids, records)


def write_task(folder: Path, counts: dict[str, int] | None = None, seed: int = 0, **capture: Any) -> Made:
    """A task with `counts` examples a split; the cache's rows stand in another order, among texts of no example."""
    splits = [name for name, n in (counts or {"train": 90, "validation": 45, "test": 45}).items() for _ in range(n)]
    generator = np.random.default_rng(seed)
    labels = generator.integers(len(LABELS), size=len(splits) + 7)
    ids = [f"{i:032x}" for i in generator.permutation(10_000)[: len(labels)]]
    values, order = rows_for(labels, seed), generator.permutation(len(labels))
    write_cache(folder / "cache.zarr", [ids[i] for i in order], values[order], **capture)
    table = pl.DataFrame(
        {
            "text_id": ids[: len(splits)],
            "source_row": range(len(splits)),
            "label": [LABELS[i] for i in labels[: len(splits)]],
            "label_index": labels[: len(splits)],
            "split": splits,
        }
    ).sample(fraction=1, shuffle=True, seed=seed)
    table.write_parquet(folder / "examples.parquet")
    return Made(folder / "cache.zarr", folder / "examples.parquet", table, dict(zip(ids, values, strict=True)))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Heads this small only wait for a second thread, and for long when other work holds its core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return write_task(tmp_path)


@pytest.fixture
def quick() -> Callable[..., TrainParams]:
    """Parameters of a short training of all heads, whose epochs validation chooses, with changes."""

    def build(**changes: Any) -> TrainParams:
        given = changes.pop("recipe", {})
        own = {} if "preset" in given else {"optimizer": "adamw", "folds": None}
        recipe = {"epochs": 4, "batch_size": 16, "learning_rate": 0.02, **own, **given}
        return TrainParams.model_validate({"seeds": 2, "device": "cpu", "recipe": recipe, **changes})

    return build


@pytest.fixture
def rows() -> Callable[..., Rows]:
    """Rows in memory, standardised: `count` examples of the synthetic task with the chosen layers."""

    def build(count: int, seed: int = 0, layers: tuple[int, ...] | None = None) -> Rows:
        labels = np.random.default_rng(seed).integers(len(LABELS), size=count)
        values = rows_for(labels, seed) / 10.0 ** np.arange(len(LAYERS), dtype=np.float32)[:, None]
        chosen = values if layers is None else values[:, list(layers)]
        return Rows(torch.from_numpy(chosen.copy()), torch.from_numpy(labels), [f"{i:032x}" for i in range(count)])

    return build
