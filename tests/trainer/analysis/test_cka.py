"""CKA against the papers' own formulas, entry by entry, and what it must not see."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainer.analysis.cka import cka, table

N, DIM = 9, 4


def layers_of(texts: int = N, layers: int = 3, dim: int = DIM) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(texts, layers, dim, generator=generator)
    x[:, 1] += 0.8 * x[:, 0]
    return x + 3.0


def feature_space(x: Tensor, y: Tensor) -> Tensor:
    """Kornblith et al., eq. 5: ‖YᵀX‖²_F of centred columns."""
    x, y = (z - z.mean(0) for z in (x.double(), y.double()))
    return (y.T @ x).square().sum()


def unbiased_hsic(x: Tensor, y: Tensor) -> Tensor:
    """Song et al., eq. 5, from Gram matrices without their diagonals."""
    n, one = len(x), torch.ones(len(x), dtype=torch.float64)
    k, m = ((z.double() @ z.double().T).fill_diagonal_(0) for z in (x, y))
    traced = sum(k[i, j] * m[j, i] for i in range(n) for j in range(n))
    sums = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (traced + sums - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


@pytest.mark.parametrize(("debiased", "product"), [(False, feature_space), (True, unbiased_hsic)])
def test_equals_the_formula(debiased: bool, product: Callable[[Tensor, Tensor], Tensor]) -> None:
    x = layers_of()
    found = cka(x, debiased)
    for a in range(3):
        for b in range(3):
            one, other = x[:, a], x[:, b]
            norms = (product(one, one) * product(other, other)).sqrt()
            assert found[a, b].item() == pytest.approx((product(one, other) / norms).item(), abs=1e-5)


@pytest.mark.parametrize("debiased", [False, True])
def test_turning_moving_and_scaling_change_nothing(debiased: bool) -> None:
    x = layers_of(40)
    turn = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(1))).Q
    x = torch.stack([x[:, 0], 7 * x[:, 0] @ turn + 100], dim=1)
    torch.testing.assert_close(cka(x, debiased), torch.ones(2, 2, dtype=torch.float64), rtol=1e-4, atol=1e-4)


def test_without_the_bias_layers_that_share_nothing_are_not_alike() -> None:
    """With more coordinates than texts the plain form calls any two layers alike."""
    x = torch.randn(60, 2, 600, generator=torch.Generator().manual_seed(0))
    assert cka(x, debiased=False)[0, 1] > 0.9
    assert abs(cka(x)[0, 1]) < 0.1


def test_a_layer_in_which_no_text_differs_is_like_none() -> None:
    x = layers_of()
    x[:, 2] = 5.0
    assert cka(x)[2].tolist() == [0, 0, 0]


def test_the_table_names_every_pair_and_sees_standardised_coordinates() -> None:
    x = layers_of(50)
    rows = list(table(x, ("one", "two", "three")))
    assert [(row["layer_a"], row["layer_b"]) for row in rows] == [(a, b) for a in range(3) for b in range(3)]
    assert rows[5]["name_a"] == "two"
    assert rows[5]["name_b"] == "three"
    found = {(row["layer_a"], row["layer_b"]): row["cka"] for row in rows}
    assert found[0, 1] == found[1, 0]
    assert found[0, 1] > found[0, 2]
    stretched = x.clone()
    stretched[:, :, 0] *= 1000  # a massive activation
    again = {(row["layer_a"], row["layer_b"]): row["cka"] for row in table(stretched, "abc")}
    assert again == pytest.approx(found, abs=1e-3)
    assert not list(table(x[:3], "abc")), "an unbiased estimate takes four texts"
