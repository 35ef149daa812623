"""From predictions to the tables of a comparison: the right answers, figures and heads go into them."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from ilse.core.errors import UserError
from trainer.objectives import Objective, make
from trainer.results.significance import calibration_table, class_table, comparison
from trainer.statistics import compare_accuracy

LABELS = ("art", "law", "war")
ROWS = 60


def probabilities(right: float, seed: int) -> Tensor:
    """Of y = 0, 1, 2, 0, …: the right label first in this share of rows."""
    generator = np.random.default_rng(seed)
    y = np.arange(ROWS) % 3
    told = np.where(generator.random(ROWS) < right, y, (y + 1) % 3)
    found = np.full((ROWS, 3), 0.1)
    found[np.arange(ROWS), told] = 0.8
    return torch.from_numpy(found).float()


Y = torch.arange(ROWS) % 3
HEADS = {"last": [probabilities(0.5, s) for s in range(3)], "mlp": [probabilities(0.9, 10 + s) for s in range(3)]}


def scores(objective: Objective, seed: int) -> tuple[Tensor, Tensor]:
    """Predictions and targets as the objective has them."""
    generator = torch.Generator().manual_seed(seed)
    if objective.kind == "multi_label":
        return torch.rand(ROWS, 3, generator=generator), (torch.rand(ROWS, 3, generator=generator) > 0.5).float()
    if objective.kind in ("multi_class", "ordinal"):
        return torch.rand(ROWS, 3, generator=generator).softmax(-1), Y
    y = torch.randint(0, 6, (ROWS,), generator=generator).float()
    return y + torch.randn(ROWS, generator=generator), y


def test_accuracies_are_compared_by_right_answers() -> None:
    table = comparison(make("multi_class", LABELS, 0, "cosent"), HEADS, Y, ["last"])
    right = {name: np.stack([one.numpy().argmax(1) == Y.numpy() for one in seeds]) for name, seeds in HEADS.items()}
    assert table.equals(compare_accuracy(right, ["last"]))
    row = table.row(0, named=True)
    assert (row["head"], row["baseline"], row["seeds"], row["rows"], row["better"]) == ("mlp", "last", 3, ROWS, True)
    gap = 100 * (right["mlp"].mean() - right["last"].mean())
    assert row["difference_points"] == pytest.approx(gap)
    assert row["low_points"] < gap < row["high_points"]


@pytest.mark.parametrize("kind", ["multi_class", "ordinal", "multi_label", "regression", "similarity"])
def test_the_one_figure_is_the_one_among_all(kind: Any) -> None:
    objective = make(kind, LABELS if kind in ("multi_class", "ordinal", "multi_label") else (), 4, "cosent")
    for seed in range(5):
        predicted, y = scores(objective, seed)
        assert objective.figure(predicted, y) == pytest.approx(
            objective.figures(predicted, y)[objective.metric], abs=1e-6
        )


def test_other_figures_are_resampled() -> None:
    """Against the same resamples by hand: spread of the difference over 1,000 draws of the rows."""
    objective = make("similarity", (), 4, "cosent")
    y = torch.arange(ROWS).float()
    noise = torch.Generator().manual_seed(0)
    heads = {name: [y + by * torch.randn(ROWS, generator=noise)] for name, by in (("last", 40.0), ("mlp", 10.0))}
    row = comparison(objective, heads, y, ["last"]).row(0, named=True)
    gap = 100 * (objective.figure(heads["mlp"][0], y) - objective.figure(heads["last"][0], y))
    assert row["difference_points"] == pytest.approx(gap)
    drawn = np.random.default_rng(5)
    places = [torch.from_numpy(drawn.integers(ROWS, size=ROWS)) for _ in range(1000)]
    gaps = [objective.figure(heads["mlp"][0][i], y[i]) - objective.figure(heads["last"][0][i], y[i]) for i in places]
    assert (row["high_points"] - row["low_points"]) / 2 == pytest.approx(2.0 * 100 * np.std(gaps), rel=0.1)
    assert row["mcnemar_p"] is None


def test_predictions_that_are_all_the_same_are_named_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    objective = make("similarity", (), 4, "cosent")
    y = torch.arange(ROWS).float()
    heads = {"last": [y + torch.arange(ROWS) % 7], "flat": [torch.ones(ROWS)], "mlp": [y]}
    assert comparison(objective, heads, y, ["last"])["head"].to_list() == ["mlp"]
    assert "flat: no spearman, its predictions are all the same; not compared" in capsys.readouterr().err
    with pytest.raises(UserError, match="undefined for seed 0"):
        comparison(objective, heads, y, ["flat"])


def test_a_baseline_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'last'"):
        comparison(make("multi_class", LABELS, 0, "cosent"), HEADS, Y, ["lasst"])


def test_calibration_and_classes_count_every_seed_s_answers() -> None:
    objective = make("multi_class", LABELS, 0, "cosent")
    calibration = calibration_table(objective, HEADS, Y)
    of_mlp = calibration.filter(head="mlp", rows=3 * ROWS).row(0, named=True)
    right = torch.stack([one.argmax(1) == Y for one in HEADS["mlp"]]).double().mean()
    assert of_mlp["confidence"] == pytest.approx(0.8, abs=1e-6)
    assert of_mlp["accuracy"] == pytest.approx(float(right))
    classes = class_table(objective, HEADS, Y)
    assert classes.group_by("head").agg(pl.col("rows").sum()).sort("head")["rows"].to_list() == [3 * ROWS, 3 * ROWS]
    mean = classes.filter(head="mlp")["recall"].mean()
    assert mean == pytest.approx(float(right)), "classes of the same size"


def test_scores_have_neither_calibration_nor_classes() -> None:
    objective = make("regression", (), 0, "cosent")
    y = torch.arange(ROWS).float()
    assert calibration_table(objective, {"last": [y]}, y).is_empty()
    assert class_table(objective, {"last": [y]}, y).is_empty()
