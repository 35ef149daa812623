"""The head exits against loops over exits and examples."""

from __future__ import annotations

from math import log
from typing import Any

import pytest
import torch
from torch import Tensor

from ilse.core.errors import UserError
from tests.trainer.heads.slow import DIM, LAYERS, OUT, make
from trainer.heads import build_head
from trainer.heads.exit_thresholds import NEVER, Sureness, choose_threshold, leaves_at, sureness, tradeoffs


def slow_exits(head: Any, example: Tensor) -> list[Tensor]:
    found = []
    for number, layer in enumerate(head.layers_read):
        z = example[layer]
        if head.shared is not None:
            z = (head.shared[0].weight @ z + head.shared[0].bias).relu()
        found.append(head.exits.weight[number] @ z + head.exits.bias[number])
    return found


def slow_exit(logits: list[Tensor], kind: str, threshold: float) -> int:
    run = 0
    for number, one in enumerate(logits):
        p = one.detach().softmax(-1)
        first, second = sorted(p.tolist(), reverse=True)[:2]
        run = run + 1 if number and one.argmax() == logits[number - 1].argmax() else 1
        sure = {
            "entropy": 1 + sum(float(q) * log(float(q)) for q in p) / log(len(p)),
            "probability": first,
            "margin": first - second,
            "patience": run / len(logits),
        }[kind]
        if sure >= threshold:
            return number
    return len(logits) - 1


@pytest.mark.parametrize("options", [{}, {"shared": 6}, {"layers": [-1, 1, 2]}, {"training": "separate"}])
def test_every_exit(options: dict[str, Any]) -> None:
    head, x = make("exits", **options)
    expected = torch.stack([torch.stack(slow_exits(head, example)) for example in x])
    torch.testing.assert_close(head.every(x), expected)
    torch.testing.assert_close(head.every(x[:, list(head.layers_read)]), expected)
    torch.testing.assert_close(head(x), expected[:, -1], msg="without a threshold all go to the last exit")


@pytest.mark.parametrize("kind", ["entropy", "probability", "margin", "patience"])
def test_an_input_leaves_at_the_first_exit_that_is_sure(kind: Sureness) -> None:
    head, _ = make("exits", sureness=kind)
    x = 3 * torch.randn(40, LAYERS, DIM, dtype=torch.float64)
    seen = set()
    for threshold in (0.0, 0.3, 0.5, 0.61, 0.9, 2.0):
        head.threshold.fill_(threshold)
        left = [slow_exit(slow_exits(head, example), kind, threshold) for example in x]
        assert leaves_at(sureness(head.every(x), kind), threshold).tolist() == left
        expected = torch.stack([slow_exits(head, example)[exit_] for example, exit_ in zip(x, left, strict=True)])
        torch.testing.assert_close(head(x), expected)
        assert head.input_weights(x).argmax(1).tolist() == left
        assert torch.equal(head.input_weights(x).sum(1), torch.ones(40))
        seen |= set(left)
    assert seen == set(range(LAYERS))


@pytest.mark.parametrize("kind", ["entropy", "probability", "margin", "patience"])
def test_tradeoffs_and_the_threshold_among_them(kind: Sureness) -> None:
    torch.manual_seed(1)
    y = torch.randint(OUT, (60,))
    logits = (
        torch.randn(60, LAYERS, OUT, dtype=torch.float64)
        + 2 * torch.eye(OUT)[y][:, None] * torch.arange(LAYERS)[:, None] / LAYERS
    )
    curve = tradeoffs(logits, y, kind, (1, 2, 4, 5, 9))
    for point in curve:
        left = [slow_exit(list(example), kind, point.threshold - 1e-6) for example in logits]  # equal is enough
        right = [
            int(example[exit_].argmax()) == int(label) for example, exit_, label in zip(logits, left, y, strict=True)
        ]
        assert point.mean_layer == pytest.approx(sum((1, 2, 4, 5, 9)[exit_] for exit_ in left) / 60)
        assert point.accuracy == pytest.approx(sum(right) / 60)
    assert curve[0].mean_layer == 1
    assert (curve[-1].threshold, curve[-1].mean_layer) == (NEVER, 9)
    assert [point.mean_layer for point in curve] == sorted(point.mean_layer for point in curve)
    best = max(point.accuracy for point in curve)
    for tolerance in (0.0, 0.1):
        threshold = choose_threshold(logits, y, kind, tolerance)
        chosen = next(point for point in curve if point.threshold == threshold)
        assert chosen.accuracy >= best - tolerance
        assert not [p for p in curve if p.accuracy >= best - tolerance and p.mean_layer < chosen.mean_layer]


def test_calibration_sets_the_threshold() -> None:
    head, x = make("exits")
    y = head(x).argmax(1)
    assert head.calibrate([(x[:1], y[:1]), (x[1:], y[1:])])
    assert head.threshold == choose_threshold(head.every(x), y, "entropy")
    assert torch.equal(head(x).argmax(1), y)


def test_loss_weights() -> None:
    uniform, x = make("exits")
    outputs = uniform.supervised(x)
    torch.testing.assert_close(outputs.weights, torch.full((LAYERS,), 1 / LAYERS).double())
    torch.testing.assert_close(outputs.terms, uniform.every(x))
    torch.testing.assert_close(outputs.logits, uniform.every(x)[:, -1])
    depth, _ = make("exits", weights="depth")
    torch.testing.assert_close(depth.supervised(x).weights, torch.arange(1.0, 6.0).double() / 15)


def test_separate_exits_are_candidates_and_all_stay() -> None:
    head, x = make("exits", training="separate")
    assert head.candidates == LAYERS
    assert head.supervised(x).terms is None
    assert head.supervised(x).logits.shape == (2, LAYERS, OUT)
    assert head.settle([3, 1, 0, 2, 4]) is head


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match=r"shared 0 with training 'separate'"):
        build_head("exits", {"training": "separate", "shared": 4}, layers=LAYERS, dim=DIM, out=OUT)
    for layers in ([], [1, 1], [1, -4]):
        with pytest.raises(UserError, match=r"exits', layers"):
            build_head("exits", {"layers": layers}, layers=LAYERS, dim=DIM, out=OUT)
    with pytest.raises(UserError, match=r"0 to 4"):
        build_head("exits", {"layers": [5]}, layers=LAYERS, dim=DIM, out=OUT)
