"""The quick steps of the graph encoder against the plain ones, which are its definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ilse.core.machine.linear import available, pays
from trainer.heads import build_head
from trainer.heads.graphs import quick

pytestmark = pytest.mark.skipif(not available(), reason="needs oneDNN's products, which PyTorch has on x86 CPUs")

Step = tuple[Tensor, list[Tensor]]


def step(monkeypatch: pytest.MonkeyPatch, fast: bool, mixed: bool, layers: int = 31, **options: float) -> Step:
    """An encoding in training mode, and every parameter's gradient of a loss that looks at all of it."""
    monkeypatch.setattr(quick, "pays", lambda: fast)
    torch.manual_seed(0)
    head = build_head("cayley", {"hidden": 32, **options}, layers=layers, dim=24, out=3).train()
    for parameter in head.encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, towards = torch.randn(16, layers, 24), torch.randn(16, 32)
    torch.manual_seed(1)  # the dropout of both
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        encoded = head.encode(x).float()
    return encoded, list(torch.autograd.grad((encoded * towards).sum(), list(head.encoder.parameters())))


@pytest.mark.parametrize(
    ("layers", "options"),
    [(31, {}), (31, {"dropout": 0.0}), (13, {"dropout": 0.5, "blocks": 3}), (6, {"blocks": 1}), (24, {})],
)
def test_it_is_the_plain_step(monkeypatch: pytest.MonkeyPatch, layers: int, options: dict[str, float]) -> None:
    ours, plain = (step(monkeypatch, fast, False, layers, **options) for fast in (True, False))
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_under_autocast_it_is_as_near_to_float32_as_the_plain_step(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = step(monkeypatch, False, False)
    ours, plain = (distances(step(monkeypatch, fast, True), exact) for fast in (True, False))
    assert 0 < max(plain) < 0.2
    assert all(one <= 1.2 * other + 0.002 for one, other in zip(ours, plain, strict=True))


def distances(one: Step, other: Step) -> list[float]:
    pairs = zip([one[0], *one[1]], [other[0], *other[1]], strict=True)
    return [float((a - b).detach().norm() / b.detach().norm()) for a, b in pairs]


def test_it_is_taken_in_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    monkeypatch.setattr(quick, "pays", lambda: True)
    monkeypatch.setattr(quick, "message", lambda h, *rest: taken.append("message") or h[:, :7])
    head = build_head("cayley", {"hidden": 8}, layers=7, dim=4, out=3)
    head.eval()(torch.randn(2, 7, 4))
    head.double().train()(torch.randn(2, 7, 4).double())
    assert taken == []
    head.float()(torch.randn(2, 7, 4))
    assert taken == ["message", "message"]


def test_the_machine_decides() -> None:
    assert quick.applies(torch.zeros(1, 1, 1)) == pays()
    assert not quick.applies(torch.zeros(1, 1, 1, device="meta"))
    assert not quick.applies(torch.zeros(1, 1, 1, dtype=torch.float64))
