"""The heads weighted and bottleneck against loops over layers."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.heads.slow import DIM, LAYERS, OUT, layer_norm, linear, make, softmax
from trainer.heads import build_head


@pytest.mark.parametrize("gamma", [False, True])
@pytest.mark.parametrize("normalised", [False, True])
def test_weighted_by_layer(gamma: bool, normalised: bool) -> None:
    head, x = make("weighted", gamma=gamma, layer_norm=normalised)
    shares = softmax(list(head.encoder.scores))
    scale = head.encoder.gamma if gamma else 1
    rows = [[layer_norm(z) if normalised else z for z in example] for example in x]
    expected = [scale * sum(share * z for share, z in zip(shares, example, strict=True)) for example in rows]
    torch.testing.assert_close(head(x), head.readout(torch.stack(expected)))
    torch.testing.assert_close(head.layer_weights(), torch.stack(shares).detach())
    assert not head.layer_weights().requires_grad
    torch.testing.assert_close(head.input_weights(x), torch.stack([torch.stack(shares)] * 2).detach())


def test_weighted_by_coordinate() -> None:
    head, x = make("weighted", weight_of="coordinate")
    head.requires_grad_(False)
    shares = [softmax(list(head.encoder.scores[:, i])) for i in range(DIM)]
    expected = [
        [sum(shares[i][layer] * example[layer, i] for layer in range(LAYERS)) for i in range(DIM)] for example in x
    ]
    torch.testing.assert_close(head.encode(x), torch.tensor(expected))
    torch.testing.assert_close(head.layer_weights().sum(), torch.tensor(1.0).double())


def test_weighted_starts_as_the_mean() -> None:
    x = torch.randn(2, LAYERS, DIM)
    for options in ({}, {"weight_of": "coordinate"}, {"gamma": True}):
        head = build_head("weighted", options, layers=LAYERS, dim=DIM, out=OUT)
        torch.testing.assert_close(head.encode(x), x.mean(1))  # type: ignore[operator]


def test_bottleneck_side_by_side() -> None:
    head, x = make("bottleneck", rank=2)
    project = head.encoder.project
    expected = [
        torch.cat([(project.weight[i] @ z + project.bias[i]).relu() for i, z in enumerate(example)]) for example in x
    ]
    torch.testing.assert_close(head.encode(x), torch.stack(expected))
    assert head.encoder.width == 2 * LAYERS


def test_bottleneck_summed() -> None:
    head, x = make("bottleneck", rank=6, combine="sum")
    parts = head.encoder.project.weight.split(DIM, dim=1)
    bias = head.encoder.project.bias
    expected = [(sum(part @ z for part, z in zip(parts, example, strict=True)) + bias).relu() for example in x]
    torch.testing.assert_close(head.encode(x), torch.stack(expected))
    torch.testing.assert_close(head(x), torch.stack([linear(head.readout, z) for z in expected]))
