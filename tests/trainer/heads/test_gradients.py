"""Every head's gradients, with respect to its input and all its parameters, against finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.heads.slow import make
from trainer.heads import HEADS

MORE: dict[str, list[dict[str, Any]]] = {
    "weighted": [{"weight_of": "coordinate", "gamma": True, "layer_norm": True}],
    "bottleneck": [{"rank": 2, "combine": "sum"}, {"rank": 2}],
    "dwatt": [{"hidden": 6}],
    "concat": [{"rows": [0, 2], "mlp_layers": 1, "hidden": 3}],
    "mlp": [{"hidden": 3}],
    "set": [{"hidden": 3}],
    "fc": [{"hidden": 3}],
    "cayley": [{"hidden": 3}, {"hidden": 3, "virtual_nodes": False, "learn_epsilon": False}],
    "exits": [{"shared": 3}],
    "gated": [{"gate": "all"}],
}
CASES = [(name, options) for name in HEADS for options in MORE.get(name, [{}])]


@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)])
def test_gradcheck(name: str, options: dict[str, Any]) -> None:
    head, x = make(name, **options)
    names = [key for key, _ in head.named_parameters()]

    def outputs(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(head, dict(zip(names, values, strict=True)), (x,))

    values = [p.detach().requires_grad_() for p in head.parameters()]
    assert torch.autograd.gradcheck(outputs, (x.requires_grad_(), *values))
