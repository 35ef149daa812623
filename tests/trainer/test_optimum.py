"""Models at their optimum, with scikit-learn as the slow twin: the same objective, the same strength."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor
from torch.nn import functional

from trainer.fitting.optimum import Models, Optimum

STRENGTHS = [0.001, 0.1, 10.0]


def task(rows: int, dim: int, labels: int, candidates: int = 2, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    """Rows of unequal spread and mean, [rows, candidates, dim], and labels that they tell something of."""
    generator = np.random.default_rng(rows + dim + labels)
    y = generator.integers(labels, size=rows)
    y[:labels] = range(labels)
    directions = generator.normal(size=(candidates, labels, dim))
    noise = generator.normal(size=(rows, candidates, dim)) * np.exp(-np.arange(dim) / dim * spread)
    x = noise + 0.7 * directions[:, y].transpose(1, 0, 2) / np.sqrt(dim) + 1.5
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y)


def objective_of(x: Tensor, y: Tensor, weight: Any, bias: Any, strength: float, counts: Any = 1.0) -> float:
    """What scikit-learn makes small, over strength · rows."""
    outputs = x.double().numpy() @ np.asarray(weight).T + np.asarray(bias)
    each = np.logaddexp.reduce(outputs, axis=1) - outputs[np.arange(len(y)), y.numpy()]
    return float((counts * each).mean() + np.square(np.asarray(weight)).sum() / 2 / strength / len(y))


def sklearns(x: Tensor, y: Tensor, strength: float, counts: NDArray[Any] | None = None) -> LogisticRegression:
    model = LogisticRegression(C=strength, max_iter=20_000, tol=1e-9)
    return model.fit(x.double().numpy(), y.numpy(), sample_weight=counts)


@pytest.mark.parametrize(("rows", "dim"), [(30, 50), (150, 20)])
@pytest.mark.parametrize("labels", [3, 12])
def test_several_labels_are_scikit_learns(rows: int, dim: int, labels: int) -> None:
    x, y = task(rows, dim, labels)
    optimum = Optimum(x, functional.one_hot(y, labels).double(), "softmax")
    for strength in STRENGTHS:
        found = optimum.at(strength)
        outputs = found.outputs(x.double())
        for layer in range(2):
            twin = sklearns(x[:, layer], y, strength)
            best = objective_of(x[:, layer], y, twin.coef_, twin.intercept_, strength)
            ours = objective_of(x[:, layer], y, found.weight[layer, 0], found.bias[layer, 0], strength)
            assert ours == pytest.approx(best, rel=1e-4)
            assert float(found.loss[layer, 0]) == pytest.approx(ours, rel=1e-6)
            answers = outputs[:, layer, 0].argmax(-1).numpy()
            assert (answers == twin.predict(x[:, layer].double().numpy())).mean() >= 0.999
            np.testing.assert_allclose(found.weight[layer, 0], twin.coef_, atol=0.01 * np.abs(twin.coef_).max())


def test_two_labels_by_one_output_are_scikit_learns() -> None:
    x, y = task(80, 12, 2)
    optimum = Optimum(x, y.double()[:, None], "sigmoid")
    for strength in STRENGTHS:
        found, twin = optimum.at(strength), sklearns(x[:, 1], y, strength)
        np.testing.assert_allclose(found.weight[1, 0], twin.coef_, rtol=0.01, atol=1e-3)
        np.testing.assert_allclose(found.bias[1, 0], twin.intercept_, rtol=0.01, atol=1e-2)


def test_what_a_row_counts_is_scikit_learns() -> None:
    x, y = task(90, 10, 4)
    counts = np.random.default_rng(0).uniform(0.1, 3, 90)
    found = Optimum(x, functional.one_hot(y, 4).double(), "softmax", torch.from_numpy(counts)[:, None]).at(0.3)
    twin = sklearns(x[:, 0], y, 0.3, counts)
    best = objective_of(x[:, 0], y, twin.coef_, twin.intercept_, 0.3, counts)
    ours = objective_of(x[:, 0], y, found.weight[0, 0], found.bias[0, 0], 0.3, counts)
    assert ours == pytest.approx(best, rel=1e-4)


def test_scores_are_ridge_regressions() -> None:
    x, _ = task(70, 15, 3)
    y = (x[:, 0, :3].sum(1) + 0.3 * torch.randn(70, generator=torch.Generator().manual_seed(0))).double()
    optimum = Optimum(x, y[:, None], "square")
    for strength in STRENGTHS:
        found = optimum.at(strength)
        twin = Ridge(alpha=1 / strength, solver="svd").fit(x[:, 0].double().numpy(), y.numpy())
        np.testing.assert_allclose(found.weight[0, 0, 0], twin.coef_, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found.bias[0, 0, 0], twin.intercept_, rtol=1e-3)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "square"])
def test_the_gradient_is_none_at_the_optimum(loss: Any) -> None:
    """By autograd, of the objective as the docstring has it, with soft targets and weights."""
    x, y = task(40, 60, 3)
    generator = torch.Generator().manual_seed(1)
    targets = 0.9 * functional.one_hot(y, 3).double() + 0.1 / 3
    counts = torch.rand(40, 1 if loss == "softmax" else 3, generator=generator, dtype=torch.float64)
    models = Optimum(x, targets, loss, counts).at(0.5)
    weight, bias = (value.clone().requires_grad_() for value in (models.weight[:, 0], models.bias[:, 0]))
    outputs = torch.einsum("nkd,kod->nko", x.double(), weight) + bias
    told = targets[:, None].expand_as(outputs)
    by_hand = {
        "softmax": -(outputs.log_softmax(-1) * told),
        "sigmoid": functional.binary_cross_entropy_with_logits(outputs, told, reduction="none"),
        "square": (outputs - told).square() / 2,
    }[loss]
    value = 0.5 * (by_hand * counts[:, None]).sum() + weight.square().sum() / 2
    value.backward()  # type: ignore[no-untyped-call]
    start = 0.5 * counts.sum() * 2
    assert weight.grad is not None
    assert bias.grad is not None
    assert float(weight.grad.abs().max()) < 2e-3 * float(start)
    assert float(bias.grad.abs().max()) < 2e-3 * float(start)
    assert float(value.detach()) / 20 == pytest.approx(float(models.loss.sum()), rel=1e-6)


def test_folds_side_by_side_are_those_rows_alone() -> None:
    x, y = task(60, 9, 3)
    told = functional.one_hot(y, 3).double()
    seen = torch.ones(3, 60)
    seen[0, ::2] = 0
    seen[1, 1::2] = 0
    joint = Optimum(x, told, "softmax", seen=seen)
    for strength in (0.01, 1.0):
        found = joint.at(strength)
        for problem in range(3):
            kept = seen[problem] > 0
            alone = Optimum(x[kept], told[kept], "softmax").at(strength)
            torch.testing.assert_close(found.weight[:, problem], alone.weight[:, 0], rtol=0.05, atol=0.01)
            torch.testing.assert_close(found.loss[:, problem], alone.loss[:, 0], rtol=1e-6, atol=0)


def test_the_order_of_strengths_changes_nothing_but_the_time() -> None:
    x, y = task(50, 20, 4)
    told = functional.one_hot(y, 4).double()
    upwards, downwards = Optimum(x, told, "softmax"), Optimum(x, told, "softmax")
    losses: list[list[Models]] = [[upwards.at(c) for c in STRENGTHS], [downwards.at(c) for c in STRENGTHS[::-1]][::-1]]
    for one, other in zip(*losses, strict=True):
        torch.testing.assert_close(one.loss, other.loss, rtol=1e-5, atol=0)


def test_rows_of_a_mean_far_above_their_spread() -> None:
    """A bias without a penalty takes what all rows have in common."""
    x, y = task(80, 10, 3)
    told = functional.one_hot(y, 3).double()
    near, far = Optimum(x, told, "softmax").at(1.0), Optimum(x.double() + 1000, told, "softmax").at(1.0)
    torch.testing.assert_close(near.loss, far.loss, rtol=1e-5, atol=0)
