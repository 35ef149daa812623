"""Gradient × input: against differences of the answer itself, an example and a layer at a time; and its entropy."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from tests.trainer.analysis.heads import trained_head
from tests.trainer.conftest import LAYERS, TELLING
from trainer.analysis.attribution import answer, shares
from trainer.analysis.entropy import normalised_entropy, untrained
from trainer.objectives import MultiClass, MultiLabel, Ordinal, Regression
from trainer.objectives.similarity import Similarity
from trainer.rows.in_memory import Rows

MakeRows = Callable[..., Rows]


@pytest.mark.parametrize("name", ["concat", "cayley", "gated"])
def test_equals_how_the_answer_changes_as_a_layer_grows(rows: MakeRows, name: str) -> None:
    """Σ_d ∂f/∂z_d · z_d is the change of f as z is made longer: a difference of two answers tells it too."""
    held, step = rows(12, seed=1), 1e-5
    held = Rows(held.x.double(), held.y, held.text_ids)
    trained = trained_head(name, rows(120)).double()
    total = torch.zeros(len(LAYERS), dtype=torch.float64)
    for x in held.x:
        z = trained.treatment(x[None])
        with torch.no_grad():
            label = trained.head(z).argmax()
            for layer in range(len(LAYERS)):
                grown, shrunk = z.clone(), z.clone()
                grown[0, layer] *= 1 + step
                shrunk[0, layer] *= 1 - step
                total[layer] += (trained.head(grown) - trained.head(shrunk))[0, label].abs() / (2 * step)
    found = shares(trained, held)
    torch.testing.assert_close(found, total / total.sum(), rtol=1e-5, atol=1e-6)
    assert found.argmax() == TELLING


def test_of_a_linear_head_it_is_the_layers_part_of_the_logit(rows: MakeRows) -> None:
    held, trained = rows(30, seed=1), trained_head("mean", rows(120))
    z = trained.treatment(held.x)
    weight = trained.head.readout.weight[trained.head(z).argmax(1)]  # type: ignore[index, union-attr]
    parts = (z * weight[:, None]).sum(-1).abs().mean(0).double()
    torch.testing.assert_close(shares(trained, held), (parts / parts.sum()).detach(), rtol=1e-4, atol=1e-6)


def test_an_answer_that_depends_on_no_layer_has_no_shares(rows: MakeRows) -> None:
    trained = trained_head("mean", rows(60))
    with torch.no_grad():
        trained.head.readout.weight.zero_()  # type: ignore[operator, union-attr]
    assert shares(trained, rows(10)).tolist() == [0.0] * len(LAYERS)


def test_what_the_answer_is() -> None:
    outputs = torch.tensor([[1.0, 3.0], [2.0, -4.0]])
    assert answer(MultiClass(("a", "b")), outputs).tolist() == [3, 2]
    assert answer(MultiLabel(("a", "b")), outputs).tolist() == [3, 2]
    assert answer(Ordinal(("1", "2", "3")), outputs).tolist() == [4, -2]
    assert answer(Regression(), outputs[:, :1]).tolist() == [1, 2]
    cosine = (1 * 2 - 3 * 4) / math.sqrt(10 * 20)
    torch.testing.assert_close(answer(Similarity(2), outputs), torch.tensor([cosine]))


def test_normalised_entropy() -> None:
    assert normalised_entropy(torch.full((8,), 1 / 8)) == pytest.approx(1)
    assert normalised_entropy(torch.tensor([0.0, 1.0, 0.0])) == 0
    assert normalised_entropy(torch.tensor([0.5, 0.5, 0.0, 0.0])) == pytest.approx(0.5)


def test_the_control_is_the_same_head_before_training(rows: MakeRows) -> None:
    trained = trained_head("bottleneck", rows(120), rank=4)
    control = untrained(trained)
    assert control.treatment is trained.treatment
    before, after = (dict(one.head.named_parameters()) for one in (control, trained))
    assert {name: p.shape for name, p in before.items()} == {name: p.shape for name, p in after.items()}
    assert not torch.equal(before["readout.weight"], after["readout.weight"])
    again = dict(untrained(trained).head.named_parameters())
    assert all(torch.equal(before[name], again[name]) for name in before)
    held = rows(40, seed=1)
    assert normalised_entropy(shares(control, held)) > normalised_entropy(shares(trained, held))
