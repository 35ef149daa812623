"""The head `linear` against a loop over layers, and what its penalty favours."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.trainer.conftest import LAYERS as NAMES
from tests.trainer.conftest import head_of, of_labels
from tests.trainer.heads.slow import make
from trainer.config import Recipe
from trainer.fitting.fit import fit
from trainer.heads.blend import spread
from trainer.rows.in_memory import Rows


def by_loop(x: Tensor, last: float, own: list[int]) -> Tensor:
    """What the head is linear in."""
    rows = []
    for example in x:
        mean = sum(example[layer] for layer in range(len(example))) / len(example)
        rows.append(torch.cat([last * example[-1], mean, *(example[layer] / sqrt(len(own)) for layer in own)]))
    return torch.stack(rows)


@pytest.mark.parametrize(("count", "layers", "expected"), [
    (4, 7, [2, 3, 4, 6]), (4, 31, [8, 15, 22, 30]), (1, 7, [6]), (4, 4, [0, 1, 2, 3]), (9, 3, [0, 1, 2]), (3, 1, [0]),
])  # fmt: skip
def test_layers_are_spread_evenly_to_the_last(count: int, layers: int, expected: list[int]) -> None:
    assert spread(count, layers) == expected


@pytest.mark.parametrize(("rows", "own"), [(2, [2, 4]), (5, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4])])
@pytest.mark.parametrize("last", [0.0, 2.0])
def test_it_is_linear_in_the_last_layer_their_mean_and_some_of_them(rows: int, own: list[int], last: float) -> None:
    head, x = make("linear", rows=rows, last=last)
    torch.testing.assert_close(head.encode(x), by_loop(x, last, own))
    torch.testing.assert_close(head(x), head.readout(by_loop(x, last, own)))


def test_what_is_shared_costs_less_than_what_one_layer_says(rows: Callable[..., Rows]) -> None:
    """The same penalty: where all layers say the same, the head fits closer than all of them side by side."""
    some = rows(60)
    same = Rows(some.x[:, -1:].expand(-1, len(NAMES), -1).contiguous(), some.y, some.text_ids)
    recipe = Recipe.model_validate({"penalty": 30.0, "folds": None, "refit": False})

    def loss(name: str, **options: object) -> float:
        head = fit(head_of(name, **options), same, same, of_labels(), recipe, 0, "cpu").head
        with torch.no_grad():
            return float(functional.cross_entropy(head(same.x[:, list(head.layers_read)]), same.y))

    side_by_side = loss("concat", rows=len(NAMES))
    assert loss("linear", last=4.0) < loss("linear", last=1.5) < loss("linear", last=0.0)
    assert loss("linear", last=1.5) < side_by_side
