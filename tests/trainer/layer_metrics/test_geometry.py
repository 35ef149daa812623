"""Lengths, angles, massive values, dimension and separation against their definitions, pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.layer_metrics.dimension import LEAST, OBSERVED, two_nn
from trainer.layer_metrics.geometry import MASSIVE, Geometry, Mean
from trainer.layer_metrics.separation import Fisher, silhouettes


def rows(texts: int, dim: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(1, 2, size=(texts, dim)))


def geometry(x: Tensor, size: int = 5) -> Geometry:
    found = Geometry(x.shape[1])
    for part in x.split(size):
        found.add(part)
    return found


def test_the_mean_cosine_is_that_of_all_pairs() -> None:
    x = rows(12, 4)
    pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
    slow = np.mean([torch.nn.functional.cosine_similarity(x[i], x[j], dim=0) for i, j in pairs])
    assert geometry(x).cosine == pytest.approx(slow, abs=1e-9)
    assert geometry(torch.ones(6, 3, dtype=torch.float64)).cosine == pytest.approx(1)
    assert geometry(torch.eye(6, dtype=torch.float64)).cosine == pytest.approx(0, abs=1e-12)
    assert geometry(x[:1]).cosine is None


def test_rows_of_zeros_have_no_direction_and_are_counted() -> None:
    x = rows(8, 3)
    found = geometry(torch.cat([x, torch.zeros(2, 3, dtype=torch.float64)]))
    assert (found.seen, found.directed, found.massive.count) == (10, 8, 8)
    assert found.cosine == pytest.approx(geometry(x).cosine)


def test_norm_and_massive_values() -> None:
    x = rows(9, 5)
    x[0, 1], x[3, 2] = 4_000, -9_000
    norms = x.numpy().__pow__(2).sum(1) ** 0.5
    found = geometry(x, 4)
    assert found.norm.value == pytest.approx(norms.mean(), rel=1e-9)
    assert found.norm.error == pytest.approx(norms.std(ddof=1) / 3, rel=1e-9)
    shares = []
    for row in x.numpy():
        massive = np.abs(row) > MASSIVE * np.sort(np.abs(row))[2]
        shares.append((row[massive] ** 2).sum() / (row**2).sum())
    assert found.massive.value == pytest.approx(np.mean(shares), rel=1e-9)
    assert 0.2 < np.mean(shares) < 0.3


def test_a_mean_of_nothing_is_none() -> None:
    assert (Mean().value, Mean().error) == (None, None)


def slow_two_nn(x: np.ndarray) -> float:
    logs = []
    for i in range(len(x)):
        near = sorted(math.dist(x[i], x[j]) for j in range(len(x)) if j != i)
        logs.append(math.log(near[1] / near[0]))
    logs.sort()
    m = math.ceil(OBSERVED * len(logs))
    return (m - 1) / (sum(logs[:m]) + (len(logs) - m) * logs[m - 1])


def test_two_nn_equals_its_formula_also_far_from_the_origin() -> None:
    x = rows(40, 6)
    assert two_nn(x).value == pytest.approx(slow_two_nn(x.numpy()), rel=1e-6)
    far = x + 1e4
    assert two_nn(far).value == pytest.approx(slow_two_nn(far.numpy()), rel=1e-6)


def curved(dim: int) -> Tensor:
    """A piece of a curved surface of `dim` dimensions in 30."""
    random = np.random.default_rng(0)
    flat = random.uniform(-1, 1, size=(1_000, dim))
    bent = np.concatenate([flat, np.sin(flat @ random.normal(size=(dim, dim)))], axis=1)
    return torch.from_numpy(bent @ np.linalg.qr(random.normal(size=(30, 2 * dim)))[0].T)


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_two_nn_knows_a_surface_s_dimension(dim: int) -> None:
    found = two_nn(curved(dim))
    assert found.value is not None
    assert found.error is not None
    assert found.value == pytest.approx(dim, rel=0.1)
    assert found.error == pytest.approx(found.value / math.sqrt(900), rel=0.01)


def test_of_copies_one_counts_and_too_few_rows_have_no_dimension() -> None:
    x = rows(30, 4)
    twice = two_nn(torch.cat([x, x]))
    assert (twice.value, twice.rows) == (pytest.approx(two_nn(x).value), 30)
    few = two_nn(x[: LEAST - 1])
    assert few.value is None
    assert "9 different rows, 10 are needed" in few.why
    assert two_nn(torch.ones(20, 3, dtype=torch.float64)).rows == 1
    even = two_nn(torch.eye(12, dtype=torch.float64))
    assert (even.value, "one distance" in even.why) == (None, True)


def fisher(x: Tensor, y: Tensor) -> tuple[float | None, str]:
    found = Fisher(5, x.shape[1])
    for part, of in zip(x.split(7), y.split(7), strict=True):
        found.add(part, of)
    return found.value()


def test_fisher_equals_its_sums_and_no_scale_changes_it() -> None:
    x, y = rows(40, 6), torch.arange(40) % 3
    x[:, 1] += 2.0 * y
    between = within = 0.0
    for column in x.numpy().T:
        total = ((column - column.mean()) ** 2).sum()
        w = sum(((column[y == c] - column[y == c].mean()) ** 2).sum() for c in range(3))
        between, within = between + (total - w) / total, within + w / total
    assert fisher(x, y)[0] == pytest.approx(between / within, rel=1e-9)
    stretched = x * torch.tensor([1.0, 1e3, 1, 1e-3, 1, 1]) + 1e4
    assert fisher(stretched, y)[0] == pytest.approx(between / within, rel=1e-5)
    constant = torch.cat([x, torch.ones(40, 1)], dim=1)
    assert fisher(constant, y)[0] == pytest.approx(between / within, rel=1e-9)


def test_no_fisher_without_two_labels_or_a_difference() -> None:
    x, y = rows(12, 3), torch.arange(12) % 2
    assert fisher(x, torch.zeros(12, dtype=torch.long))[0] is None
    assert fisher(torch.ones(12, 3, dtype=torch.float64), y) == (None, "no text differs from another")
    assert fisher(y[:, None].double().repeat(1, 3), y) == (None, "no text differs from another of its label")


def test_silhouettes_equal_their_definition() -> None:
    x, y = rows(20, 4), torch.cat([torch.arange(19) % 3, torch.tensor([4])])  # the last is alone with its label
    x[:, 0] *= 50
    found = silhouettes(x, y)
    assert found is not None
    kept, of = x.numpy()[:19], y.numpy()[:19]
    z = (kept - kept.mean(0)) / kept.std(0)
    for i in range(19):
        mean = {c: np.mean([math.dist(z[i], z[j]) for j in range(19) if of[j] == c and j != i]) for c in range(3)}
        a, b = mean[of[i]], min(value for c, value in mean.items() if c != of[i])
        assert found[i] == pytest.approx((b - a) / max(a, b), abs=1e-5)
    assert silhouettes(x, torch.zeros(20, dtype=torch.long)) is None
    assert silhouettes(torch.ones(20, 4, dtype=torch.float64), y) is None
