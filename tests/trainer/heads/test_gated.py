"""The head gated against loops over layers."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.heads.slow import DIM, LAYERS, OUT, make, softmax
from trainer.heads import build_head
from trainer.heads.gated import load_balance


@pytest.mark.parametrize("gate", ["constant", "first", "mean", "all"])
@pytest.mark.parametrize("top_k", [None, 2])
def test_gated(gate: str, top_k: int | None) -> None:
    head, x = make("gated", gate=gate, top_k=top_k, temperature=0.7)
    head.requires_grad_(False)
    for example, found, weights in zip(x, head(x), head.input_weights(x), strict=True):
        seen = {"first": example[0], "mean": sum(example) / LAYERS, "all": example.flatten()}
        raw = head.scores if gate == "constant" else head.gate.weight @ seen[gate] + head.gate.bias
        scores = [score / 0.7 for score in raw]
        kept = sorted(range(LAYERS), key=lambda layer: -float(scores[layer]))[: top_k or LAYERS]
        shares = dict(zip(kept, softmax([scores[layer] for layer in kept]), strict=True))
        p = sum(
            share * (head.classifiers.weight[layer] @ example[layer] + head.classifiers.bias[layer]).softmax(-1)
            for layer, share in shares.items()
        )
        torch.testing.assert_close(found.exp(), p)
        torch.testing.assert_close(
            weights, torch.stack([shares.get(layer, torch.tensor(0.0).double()) for layer in range(LAYERS)]).detach()
        )
    assert (head.layer_weights() is not None) is (gate == "constant")


def test_top_k_has_finite_gradients() -> None:
    head, x = make("gated", top_k=1)
    outputs = head.supervised(x)
    (outputs.logits.logsumexp(1).sum() + outputs.logits[:, 0].sum() + outputs.penalty).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


def test_all_layers_count_the_same_at_first() -> None:
    head = build_head("gated", layers=LAYERS, dim=DIM, out=OUT)
    torch.testing.assert_close(head.input_weights(torch.randn(2, LAYERS, DIM)), torch.full((2, LAYERS), 1 / LAYERS))


def test_load_balance() -> None:
    even = torch.eye(LAYERS) * 0.5 + 0.1
    assert load_balance(even).item() == pytest.approx(1.0)
    one_layer = torch.tensor([[1.0, 0, 0, 0, 0]] * 3)
    assert load_balance(one_layer).item() == pytest.approx(LAYERS)
    head, x = make("gated", balance=0.0)
    assert head.supervised(x).penalty is None
    head, x = make("gated", balance=0.5)
    torch.testing.assert_close(head.supervised(x).penalty, 0.5 * load_balance(head.input_weights(x)))
