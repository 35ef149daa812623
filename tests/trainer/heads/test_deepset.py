"""The Set-Encoder against a loop over layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainer.heads import build_head


def apply(stack: torch.nn.Sequential, z: Tensor) -> Tensor:
    for linear in stack[::3]:
        z = (linear.weight @ z + linear.bias).relu()
    return z


@pytest.mark.parametrize("pre", [0, 1])
@pytest.mark.parametrize("post", [0, 1, 2])
@pytest.mark.parametrize("pool", ["mean", "sum"])
def test_equals_the_slow_twin(pre: int, post: int, pool: str) -> None:
    torch.manual_seed(0)
    options = {"hidden": 6, "pre_layers": pre, "post_layers": post, "pool": pool}
    head = build_head("set", options, layers=5, dim=4, out=3).double().eval()
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    expected = []
    for example in x:
        summed = sum(apply(head.encoder.pre, z) for z in example)
        expected.append(apply(head.encoder.post, summed / 5 if pool == "mean" else summed))
    torch.testing.assert_close(head.encode(x), torch.stack(expected))
    assert head(x).shape == (3, 3)


def test_blind_to_order() -> None:
    torch.manual_seed(1)
    head = build_head("set", {"hidden": 6}, layers=5, dim=4, out=3).double().eval()
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(head(x), head(x.flip(1)))


def test_gradcheck() -> None:
    torch.manual_seed(2)
    head = build_head("set", {"hidden": 6}, layers=3, dim=4, out=2).double().eval()
    assert torch.autograd.gradcheck(head, torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True))
