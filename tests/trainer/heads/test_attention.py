"""The heads attention and dwatt against loops over layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.trainer.heads.slow import DIM, LAYERS, OUT, layer_norm, linear, make, softmax
from trainer.heads import build_head


def test_attention() -> None:
    head, x = make("attention", width=6)
    encoder = head.encoder
    for example, found, weights in zip(x, head.encode(x), head.input_weights(x), strict=True):
        keys = [linear(encoder.key, layer_norm(z)) + e for z, e in zip(example, encoder.place, strict=True)]
        shares = softmax([encoder.query @ key.tanh() for key in keys])
        torch.testing.assert_close(found, sum(a * z for a, z in zip(shares, example, strict=True)))
        torch.testing.assert_close(weights, torch.stack(shares))


def test_attention_starts_as_the_mean_and_depends_on_the_input_later() -> None:
    x = torch.randn(2, LAYERS, DIM)
    fresh = build_head("attention", layers=LAYERS, dim=DIM, out=OUT)
    torch.testing.assert_close(fresh.encode(x), x.mean(1))  # type: ignore[operator]
    head, x = make("attention")
    first, second = head.input_weights(x)
    assert (first - second).abs().max() > 1e-3
    assert head.layer_weights() is None


def normed(z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return layer_norm(z) * scale + shift


@pytest.mark.parametrize("hidden", [None, 6])
def test_dwatt(hidden: int | None) -> None:
    head, x = make("dwatt", hidden=hidden)
    e = head.encoder
    for example, found, weights in zip(x, head.encode(x), head.input_weights(x), strict=True):
        z = [linear(e.project, row) if hidden else row for row in example]
        values = []
        for layer, row in enumerate(z):
            inner = functional.gelu(e.value_in.weight[layer] @ row + e.value_in.bias[layer])
            inner = normed(inner, e.value_norm.weight[layer], e.value_norm.bias[layer])
            outer = e.value_out.weight[layer] @ inner + e.value_out.bias[layer]
            values.append(normed(outer, e.norm.weight[layer], e.norm.bias[layer]))
        asks = functional.gelu(linear(e.query[0], z[-1]))
        asks = linear(e.query[3], normed(asks, e.query[2].weight, e.query[2].bias))
        query = 1 + functional.elu(z[-1] + asks)
        shares = softmax([query @ linear(e.key, place) for place in e.place])
        torch.testing.assert_close(found, z[-1] + sum(a * v for a, v in zip(shares, values, strict=True)))
        torch.testing.assert_close(weights, torch.stack(shares))
