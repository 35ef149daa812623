"""Targets of examples: from a table's columns to a tensor and the names of the labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from ilse.core.errors import UserError
from ilse.core.tables import LABEL, LABEL_INDEX, LABEL_INDICES, LABELS, SCORE
from trainer import objectives

COLUMNS: dict[objectives.Targets, tuple[str, ...]] = {
    "label": (LABEL, LABEL_INDEX),
    "labels": (LABELS, LABEL_INDICES),
    "score": (SCORE,),
}


@dataclass(frozen=True)
class Targets:
    """The kind of targets, and the names of the labels in the order of their indices; none for scores."""

    kind: objectives.Targets
    labels: tuple[str, ...]

    def tensor(self, examples: pl.DataFrame) -> Tensor:
        """int64 [rows] for a label, float32 [rows, labels] of 0 and 1 for several, float64 [rows] for a score."""
        if self.kind == "label":
            return torch.from_numpy(examples[LABEL_INDEX].to_numpy().astype("int64"))
        if self.kind == "score":
            return torch.from_numpy(examples[SCORE].to_numpy().astype("float64"))
        y = torch.zeros(len(examples), len(self.labels))
        places = examples.select(pl.int_range(pl.len()).alias("row"), LABEL_INDICES).explode(LABEL_INDICES).drop_nulls()
        row, label = (torch.tensor(places[name].to_numpy()) for name in ("row", LABEL_INDICES))
        y[row, label] = 1
        return y


def targets_of(table: pl.DataFrame, where: Path) -> Targets:
    """The targets of a table of examples. Raises `UserError` for one that has none, or labels without a clear index."""
    present = [kind for kind, names in COLUMNS.items() if set(names) <= set(table.columns)]
    if len(present) != 1:
        wanted = " or ".join(", ".join(names) for names in COLUMNS.values())
        raise refused(where, f"the columns {wanted}", f"columns {', '.join(table.columns)}")
    kind = present[0]
    return Targets(kind, () if kind == "score" else _label_map(where, table, *COLUMNS[kind]))


def refused(examples: Path, expected: str, found: str) -> UserError:
    """The error to raise for a table that `ilse prepare` would not write."""
    return UserError(
        f"examples {examples}", expected=expected, found=found, next_step="run 'ilse prepare' again, or 'dvc repro'"
    )


def _label_map(where: Path, table: pl.DataFrame, names: str, indices: str) -> tuple[str, ...]:
    """The labels in the order of their indices, over all splits: a label may stand in one split only."""
    pairs = table.select(indices, names)
    if isinstance(table.schema[names], pl.List):
        pairs = pairs.explode(indices, names).drop_nulls()
    pairs = pairs.unique().sort(indices, names)
    labels = pairs[names].to_list()
    if pairs[indices].to_list() != list(range(len(labels))) or len(set(labels)) < len(labels):
        raise refused(where, "one index from 0 for each label, without gaps", f"{pairs.rows()[:20]}")
    return tuple(labels)
