"""The label of each text of a cache, from the training and validation examples. Test labels are not looked at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ilse.core.errors import UserError
from ilse.core.tables import TEXT_ID, TRAIN, VALIDATION
from pipeline.store import Cache
from trainer.data.task import Task, open_task


@dataclass(frozen=True)
class Labels:
    """The texts that have a label, and their labels.

    Parameters
    ----------
    names
        By index.
    of_row
        Index of each text's label, [texts of the cache]; −1 of none.
    train, validation
        Rows of the cache of each split's texts that have a label.
    excluded
        Texts with several labels in different examples.
    """

    names: tuple[str, ...]
    of_row: NDArray[np.int64]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    excluded: int


def read_labels(cache: Cache, examples: Path) -> Labels:
    """Labels from a table of examples over `cache`.

    Raises `UserError` as `open_task` does, also for texts that the cache does not hold, and for examples that are not
    of one text with one label each.
    """
    task = open_task(cache, examples)
    if task.targets.kind != "label" or task.pairs:
        found = "two texts per example" if task.pairs else f"a column '{task.targets.kind}'"
        raise UserError(
            f"examples {examples}",
            expected="examples of one text with one label each: separation and probes are of labels",
            found=found,
            next_step="leave --examples out: the other figures need no labels",
        )
    table = _labelled(task)
    several = table.filter(pl.col("labels") > 1)
    kept = table.filter(pl.col("labels") == 1)
    of_row = np.full(cache.header.texts, -1, np.int64)
    of_row[kept["row"].to_numpy()] = kept["label"].to_numpy()
    train, validation = (kept.filter(pl.col("split") == name)["row"].to_numpy() for name in (TRAIN, VALIDATION))
    return Labels(task.labels, of_row, train, validation, len(several))


def _labelled(task: Task) -> pl.DataFrame:
    """Every text once: its row in the cache, its first label, the number of its labels, and its split."""
    ids = task.cache.text_ids()
    rows = pl.DataFrame({TEXT_ID: ids, "row": pl.Series(range(len(ids)), dtype=pl.Int64)})
    told = [
        task.training_ids(split).with_columns(
            pl.Series("label", task.training_targets(split).numpy()), split=pl.lit(split)
        )
        for split in (TRAIN, VALIDATION)
        if task.rows(split)
    ]
    if not told:
        raise UserError(
            "examples",
            expected="training or validation examples, whose labels may be looked at",
            found="test examples alone",
            next_step="leave --examples out, or name a table with training examples",
        )
    every = pl.concat(told).join(rows, on=TEXT_ID, how="left", maintain_order="left")
    first = [pl.col("label").first(), pl.col("split").first(), pl.col("label").n_unique().alias("labels")]
    return every.group_by("row", maintain_order=True).agg(first)
