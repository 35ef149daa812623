"""Compares the test predictions of all heads: who is better and how sure that is, calibration, classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from ilse.core.terminal import say
from trainer.objectives import Objective
from trainer.objectives.labelled import SingleLabel
from trainer.statistics import (
    Estimate,
    compare_accuracy,
    compare_figure,
    of_figure,
    of_rows,
    per_class,
    reliability,
)
from trainer.statistics.estimates import Figure

Predicted = Mapping[str, Sequence[Float[Tensor, "rows ..."]]]
"""Head → what its objective tells of the test examples, by seed."""


def comparison(
    objective: Objective, predicted: Predicted, y: Tensor, baselines: list[str], paired_seeds: bool = False
) -> pl.DataFrame:
    """Every head against each of `baselines`: one row per head, columns as `trainer.statistics.comparison.SCHEMA`.

    `paired_seeds` says that a seed drew the same training examples for every head. A head without a figure, such as
    the correlation of predictions that are all the same, is named on stderr and left out. Raises `UserError` for a
    baseline that is not among the heads, and for test splits that are too small.
    """
    right = right_answers(objective, predicted, y)
    if objective.metric == "accuracy" and right is not None:
        return compare_accuracy(right, baselines, paired_seeds)
    stacked = {name: torch.stack(list(seeds)).numpy() for name, seeds in predicted.items()}
    figure, targets = _figure_of(objective), y.numpy()
    for name in [name for name, seeds in stacked.items() if not np.isfinite([figure(s, targets) for s in seeds]).all()]:
        if name not in baselines:  # of which the error tells more
            say(f"{name}: no {objective.metric}, its predictions are all the same; not compared")
            del stacked[name]
    return compare_figure(stacked, targets, figure, baselines, right, paired_seeds=paired_seeds)


def estimate_of(objective: Objective, predicted: Float[Tensor, "seeds rows ..."], y: Tensor, where: str) -> Estimate:
    """The figure that heads are chosen by for each seed of one head, and how it varies with the examples.

    Raises `UserError` (at `where`) for fewer than two examples, and predictions that define no figure.
    """
    right = right_answers(objective, {where: list(predicted)}, y)
    if objective.metric == "accuracy" and right is not None:
        return of_rows(right[where], where)
    return of_figure(predicted.numpy(), y.numpy(), _figure_of(objective), where)


def _figure_of(objective: Objective) -> Figure:
    def figure(some: Shaped[np.ndarray, "rows ..."], targets: Shaped[np.ndarray, "rows ..."]) -> float:
        return objective.figure(torch.from_numpy(some), torch.from_numpy(targets))

    return figure


def right_answers(objective: Objective, predicted: Predicted, y: Tensor) -> dict[str, Bool[np.ndarray, "_ _"]] | None:
    """Head → which answers are right, [seeds, rows]; None where examples have no single label."""
    if not isinstance(objective, SingleLabel):
        return None
    return {
        name: np.stack([(objective.chosen(one) == y).numpy() for one in seeds]) for name, seeds in predicted.items()
    }


def calibration_table(objective: Objective, predicted: Predicted, y: Tensor) -> pl.DataFrame:
    """How often heads are right by how sure they are, over all seeds: `head` and the columns of `reliability`.

    Without rows where examples have no single label.
    """
    found = [_of_head("", reliability(np.zeros(1), np.zeros(1, bool)).clear())]
    if isinstance(objective, SingleLabel):
        for name, seeds in predicted.items():
            tables = [objective.columns(one, y) for one in seeds]
            sure = np.concatenate([table["probability"] for table in tables]).astype(np.float64)
            right = np.concatenate([np.equal(table["label"], table["prediction"]) for table in tables])
            found.append(_of_head(name, reliability(sure, right)))
    return pl.concat(found)


def class_table(objective: Objective, predicted: Predicted, y: Int[Tensor, " rows"] | Tensor) -> pl.DataFrame:
    """Precision, recall and F1 of every label by head, over all seeds: `head` and the columns of `per_class`.

    Without rows where examples have no single label.
    """
    found = [_of_head("", per_class(np.zeros(1, int), np.zeros(1, int), [""]).clear())]
    if isinstance(objective, SingleLabel):
        for name, seeds in predicted.items():
            chosen = np.concatenate([objective.chosen(one).numpy() for one in seeds])
            found.append(_of_head(name, per_class(np.tile(y.numpy(), len(seeds)), chosen, objective.labels)))
    return pl.concat(found)


def _of_head(name: str, table: pl.DataFrame) -> pl.DataFrame:
    return table.select(pl.lit(name).alias("head"), pl.all())
