"""The heads mean, weighted and mlp against loops over layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.heads import build_head

LAYERS, DIM, OUT = 5, 4, 3


def make(name: str, **options: Any) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    head = build_head(name, options, layers=LAYERS, dim=DIM, out=OUT).double().eval()
    return head, torch.randn(2, LAYERS, DIM, dtype=torch.float64)


def test_mean() -> None:
    head, x = make("mean")
    expected = [sum(example[layer] for layer in range(LAYERS)) / LAYERS for example in x]
    torch.testing.assert_close(head(x), head.readout(torch.stack(expected)))
    assert head.layer_weights() is None


def test_weighted() -> None:
    head, x = make("weighted")
    torch.nn.init.normal_(head.encoder.scores)
    powers = head.encoder.scores.exp()
    shares = [power / sum(powers) for power in powers]
    expected = [sum(share * z for share, z in zip(shares, example, strict=True)) for example in x]
    torch.testing.assert_close(head(x), head.readout(torch.stack(expected)))
    torch.testing.assert_close(head.layer_weights(), torch.stack(shares).detach())
    assert not head.layer_weights().requires_grad


def test_weighted_starts_as_the_mean() -> None:
    head, x = make("weighted")
    torch.testing.assert_close(head.encode(x), x.mean(1))


@pytest.mark.parametrize("fusion", ["last", "mean", "weighted"])
@pytest.mark.parametrize("mlp_layers", [1, 2, 3])
def test_mlp(fusion: str, mlp_layers: int) -> None:
    head, x = make("mlp", fusion=fusion, mlp_layers=mlp_layers, hidden=6)
    z = x[:, -1] if fusion == "last" else x.mean(1)
    linears = [module for module in head.encoder.stack if isinstance(module, torch.nn.Linear)]
    assert len(linears) == mlp_layers
    for linear in linears:
        z = (z @ linear.weight.T + linear.bias).relu()
    torch.testing.assert_close(head.encode(x), z)
    torch.testing.assert_close(head(x), head.readout(z))
    assert (head.layer_weights() is not None) is (fusion == "weighted")
    assert head.layers_read == ((LAYERS - 1,) if fusion == "last" else tuple(range(LAYERS)))


def test_mlp_on_the_last_row_needs_that_row_alone() -> None:
    head, x = make("mlp", fusion="last")
    torch.testing.assert_close(head(x), head(x[:, list(head.layers_read)]))


@pytest.mark.parametrize("name", ["mean", "weighted", "mlp"])
def test_gradcheck(name: str) -> None:
    head, x = make(name)
    names = [key for key, _ in head.named_parameters()]

    def outputs(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(head, dict(zip(names, values, strict=True)), (x,))

    # The readout and the fusion's scores; an MLP's 256 hidden units would only be slow.
    values = [p.detach().requires_grad_(p.numel() < 100) for p in head.parameters()]
    assert torch.autograd.gradcheck(outputs, (x.requires_grad_(), *values))
