"""Our dropout against what dropout is."""

from __future__ import annotations

import pytest
import torch

from trainer.heads.dense import Dropout, dense_stack


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
def test_a_pass_drops_as_much_as_its_scale_makes_up_for(rate: float) -> None:
    torch.manual_seed(0)
    y = Dropout(rate)(torch.ones(1000, 999))
    kept = y != 0
    assert kept.float().mean().item() == pytest.approx(1 - rate, abs=1 / 256 + 0.002)
    assert len(y[kept].unique()) == 1
    assert kept.float().mean().item() == pytest.approx(1 / y.max().item(), abs=0.002)
    assert y.mean().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.998])
def test_passes_drop_the_rate_on_average(rate: float) -> None:
    torch.manual_seed(0)
    dropout, x = Dropout(rate), torch.ones(4096)
    passes = torch.tensor([(dropout(x) == 0).float().mean() for _ in range(2000)])
    assert passes.mean().item() == pytest.approx(min(rate, 255 / 256), abs=3e-4)
    assert passes.std() < 0.01


def test_each_byte_of_a_word_is_drawn_alike() -> None:
    """Eight elements share a 64-bit draw: each position drops at the rate, and no two move together."""
    torch.manual_seed(1)
    dropped = (Dropout(77 / 256)(torch.ones(100_000, 8)) == 0).float()
    assert torch.allclose(dropped.mean(0), torch.full((8,), 77 / 256), atol=0.006)
    assert (torch.corrcoef(dropped.T) - torch.eye(8)).abs().max() < 0.015


def test_a_shared_row_is_dropped_apart_for_each_node() -> None:
    torch.manual_seed(2)
    y = Dropout(0.5)(torch.ones(2, 1, 64).expand(-1, 3, -1))
    rows = y.flatten(0, 1)
    assert len(rows.unique(dim=0)) == 6


def test_gradient_passes_where_values_do() -> None:
    torch.manual_seed(3)
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    y = Dropout(0.4)(x)
    y.sum().backward()
    assert torch.allclose(x.grad * x, y)


def test_identity_in_eval_mode_and_at_rate_zero() -> None:
    x = torch.randn(3, 4)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_seed_decides() -> None:
    def draw() -> torch.Tensor:
        torch.manual_seed(4)
        return Dropout(0.5)(torch.ones(33))

    assert torch.equal(draw(), draw())


def test_stack_is_linear_relu_in_turn() -> None:
    stack = dense_stack(3, 4, 2, 0.5).eval()
    x = torch.randn(2, 3)
    first, second = stack[0], stack[3]
    assert torch.equal(stack(x), second(first(x).relu()).relu())
    assert torch.equal(dense_stack(3, 4, 0, 0.5)(x), x)
