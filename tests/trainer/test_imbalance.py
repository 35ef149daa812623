"""Rare labels: weights, balanced draws, and what they are good for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.trainer.conftest import head_of, of_labels, recipe_of
from trainer.fitting.fit import fit
from trainer.rows.in_memory import IndexBatches, Rows, label_weights

MakeRows = Callable[..., Rows]


def test_label_weights() -> None:
    y = torch.tensor([0, 0, 0, 2, 2, 2, 2, 2, 2])
    assert label_weights(y).tolist() == pytest.approx([9 / 2 / 3, 0.0, 9 / 2 / 6])
    assert label_weights(y)[y].mean().item() == pytest.approx(1.0)


def test_sampling_draws_every_label_as_often() -> None:
    y = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    batches = IndexBatches(Rows(torch.zeros(1000, 1, 1), y, []), 100, seed=0, balanced=True)
    drawn = torch.cat([labels for _ in range(3) for _, labels in batches])
    assert len(drawn) == 3000
    assert (drawn.bincount() / 3000).tolist() == pytest.approx([1 / 3] * 3, abs=0.03)


@pytest.mark.parametrize("imbalance", ["weights", "sampling"])
def test_a_rare_label_is_found_more_often(imbalance: str, rows: MakeRows) -> None:
    every = rows(600)
    kept = torch.cat([(every.y == 0).nonzero()[:6, 0], (every.y == 1).nonzero()[:, 0]])
    train, validation = every.take(kept), rows(200, seed=1)
    recalls = []
    for how in ("none", imbalance):
        result = fit(head_of("last"), *(Rows(p.x[:, [-1]], p.y, p.text_ids) for p in (train, validation)),
                     of_labels(), recipe_of(imbalance=how, epochs=10), 0, "cpu")  # fmt: skip
        rare = validation.x[validation.y == 0][:, [-1]]
        recalls.append(float((result.head(rare).argmax(1) == 0).double().mean()))
    assert recalls[1] > recalls[0] + 0.1
