"""Matrix products in bfloat16 and through oneDNN: the same training, by what the hardware is good at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import ilse.core.machine.linear
import trainer.fitting.running
from tests.trainer.conftest import head_of, of_labels, recipe_of
from trainer.fitting.fit import fit
from trainer.rows.in_memory import Rows

MakeRows = Callable[..., Rows]


def test_bfloat16_products_give_the_same_accuracy(rows: MakeRows) -> None:
    """Emulated here where the hardware has none; the weights stay in float32."""
    train, validation = rows(120), rows(80, seed=1)
    found = [
        fit(
            head_of("cayley", hidden=16),
            train,
            validation,
            of_labels(),
            recipe_of(epochs=8, compute_type=kind),
            0,
            "cpu",
        )
        for kind in ("float32", "bfloat16")
    ]
    assert found[0].curve != found[1].curve
    assert found[1].best.val_score == pytest.approx(found[0].best.val_score, abs=0.05)
    assert all(parameter.dtype == torch.float32 for parameter in found[1].head.parameters())


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_what_the_hardware_multiplies(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.fitting.running, "native_bfloat16", lambda device: native)
    assert trainer.fitting.running._mixed("auto", "cpu") == native
    assert not trainer.fitting.running._mixed("float32", "cpu")
    assert trainer.fitting.running._mixed("bfloat16", "cpu")


@pytest.mark.skipif(not ilse.core.machine.linear.available(), reason="no x86 CPU, or PyTorch without the operator")
def test_onednn_trains_the_same_head(rows: MakeRows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ilse.core.machine.linear, "SMALL", 0)
    found, calls = [], []
    product = ilse.core.machine.linear.product
    monkeypatch.setattr(
        ilse.core.machine.linear, "product", lambda *args, **kwargs: calls.append(0) or product(*args, **kwargs)
    )
    for way in (False, True):
        monkeypatch.setattr(trainer.fitting.running, "pays", lambda way=way: way)
        recipe = recipe_of(compute_type="float32")
        found.append(fit(head_of("cayley", hidden=16), rows(60), rows(40, seed=1), of_labels(), recipe, 0, "cpu"))
        assert bool(calls) == way
        assert not any(isinstance(module, ilse.core.machine.linear.OneDnnLinear) for module in found[-1].head.modules())
    losses = [[epoch.train_loss for epoch in result.curve] for result in found]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
