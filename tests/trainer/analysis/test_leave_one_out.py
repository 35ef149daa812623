"""Leaving layers out: against one example and one layer at a time, and the mean that stands in for a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.trainer.analysis.heads import trained_head
from tests.trainer.conftest import LAYERS, TELLING
from trainer.analysis.leave_one_out import drops, treated_mean
from trainer.rows.in_memory import Rows
from trainer.treatment import Treatment, TreatmentOptions

MakeRows = Callable[..., Rows]


@pytest.mark.parametrize("name", ["concat", "cayley", "exits"])
def test_equals_replacing_a_layer_of_one_example(rows: MakeRows, name: str) -> None:
    train, held = rows(400), rows(40, seed=1)
    trained = trained_head(name, train)
    mean = trained.treatment(train.x).mean(0)
    found = drops(trained, held, mean)
    right = []
    for without in (None, *range(len(LAYERS))):
        count = 0
        for x, y in zip(held.x, held.y, strict=True):
            z = trained.treatment(x[None])
            if without is not None:
                z[0, without] = mean[without]
            with torch.no_grad():
                count += int(trained.head(z).argmax()) == int(y)
        right.append(100 * count / len(held.y))
    torch.testing.assert_close(found, right[0] - torch.tensor(right[1:], dtype=torch.float64))
    assert found.argmax() == TELLING
    assert found[TELLING] > 20


def test_rows_are_left_as_they_were(rows: MakeRows) -> None:
    held = rows(20)
    before = held.x.clone()
    trained = trained_head("concat", held, standardise=False)
    drops(trained, held, trained.treatment(held.x).mean(0))
    assert torch.equal(held.x, before)


TREATMENTS: list[tuple[dict[str, Any], bool]] = [
    ({}, False),
    ({"standardise": False}, True),
    ({"clip": 1.0}, True),
    ({"clip": 1.0, "pca": 3}, False),
    ({"standardise": False, "pca": 3, "whiten": True}, False),
    ({"pca": 3, "layer_norm": True}, True),
]


@pytest.mark.parametrize(("options", "is_read"), TREATMENTS)
def test_the_mean_is_that_of_treated_training_rows(rows: MakeRows, options: dict[str, Any], is_read: bool) -> None:
    """Also where it is known to be 0, for which no row is read."""
    train = rows(300)
    train.x.square_()  # skewed, so that clipping moves the mean
    treatment = Treatment(TreatmentOptions(**options), *train.x.shape[1:]).fit(train.x)
    asked: list[str] = []

    def split(name: str) -> Rows:
        asked.append(name)
        return train

    found = treated_mean(treatment, split)
    torch.testing.assert_close(found, treatment(train.x).mean(0), rtol=1e-4, atol=1e-5)
    assert asked == ["train"] * is_read
