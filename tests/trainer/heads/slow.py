"""Slow, obvious pieces that the heads' twins are made of, in float64 and one example at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer.heads import build_head

LAYERS, DIM, OUT = 5, 4, 3


def make(name: str, **options: Any) -> tuple[Any, Tensor]:
    """A head with random parameters, in evaluation mode, and two examples."""
    torch.manual_seed(0)
    head = build_head(name, options, layers=LAYERS, dim=DIM, out=OUT).double().eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return head, torch.randn(2, LAYERS, DIM, dtype=torch.float64)


def softmax(scores: list[Tensor]) -> list[Tensor]:
    """Shares of a list of numbers."""
    powers = [score.exp() for score in scores]
    return [power / sum(powers) for power in powers]


def layer_norm(z: Tensor) -> Tensor:
    """(z − mean) / √(variance + 1e-5)."""
    centred = z - sum(z) / len(z)
    return centred / torch.sqrt(sum(c * c for c in centred) / len(z) + 1e-5)


def linear(module: torch.nn.Linear, z: Tensor) -> Tensor:
    """W z + b."""
    return module.weight @ z + (0 if module.bias is None else module.bias)


def hidden_layers(stack: torch.nn.Sequential, z: Tensor) -> list[Tensor]:
    """After each of the hidden layers."""
    after = []
    for module in stack:
        if isinstance(module, torch.nn.Linear):
            z = linear(module, z).relu()
            after.append(z)
    return after
