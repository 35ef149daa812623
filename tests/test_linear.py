"""The oneDNN linear layer against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import ilse.core.machine.linear
from ilse.core.machine.linear import OneDnnLinear, available, use_onednn

pytestmark = pytest.mark.skipif(not available(), reason="no x86 CPU, or PyTorch without the operator")


def both(linear: nn.Linear, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        expected = nn.functional.linear(x, linear.weight, linear.bias)
        use_onednn(linear)
        assert type(linear) is OneDnnLinear
        return linear(x), expected


@given(
    shape=st.lists(st.integers(1, 9), min_size=0, max_size=3), sizes=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    bias=st.booleans(), stride=st.integers(1, 3),
)  # fmt: skip
def test_it_is_the_same_product(shape: list[int], sizes: tuple[int, int], bias: bool, stride: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(*shape, sizes[0] * stride)[..., ::stride]
    found, expected = both(nn.Linear(*sizes, bias=bias), x)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_it_is_the_same_product_on_transposed_and_expanded_tensors() -> None:
    for x in (torch.randn(7, 5, 3).transpose(0, 2), torch.randn(1, 1, 7).expand(4, 2, 7)):
        torch.testing.assert_close(*both(nn.Linear(7, 6), x), rtol=1e-5, atol=1e-5)


def test_weight_and_bias_stay_where_they_are() -> None:
    linear = nn.Linear(3, 2)
    weight, names = linear.weight, list(linear.state_dict())
    use_onednn(linear)
    assert isinstance(linear, nn.Linear)
    assert linear.weight is weight
    assert list(linear.state_dict()) == names


def test_only_plain_float32_layers_are_changed() -> None:
    class Own(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).bfloat16(), Own(2, 2), nn.Linear(2, 2, device="meta"))
    use_onednn(model)
    assert [type(module) for module in model] == [OneDnnLinear, nn.Linear, Own, nn.Linear]


@pytest.mark.slow
def test_it_compiles_in_one_graph() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
    x = torch.randn(3, 5, 8)
    with torch.inference_mode():
        expected = model(x)
        use_onednn(model)
        torch.testing.assert_close(
            torch.compile(model, fullgraph=True, dynamic=True)(x), expected, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 7)])
def test_its_gradients_are_those_of_pytorchs_layer(
    shape: tuple[int, ...], bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ilse.core.machine.linear, "SMALL", 0)
    torch.manual_seed(0)
    x, layer, found = torch.randn(shape), nn.Linear(7, 6, bias=bias), []
    for _ in range(2):
        given = x.clone().requires_grad_()
        out = layer(given)
        (out * torch.arange(float(out.numel())).view_as(out)).sum().backward()
        found.append([given.grad, *(p.grad for p in layer.parameters()), out.detach()])
        layer.zero_grad()
        use_onednn(layer)
    assert type(layer) is OneDnnLinear
    for expected, one in zip(*found, strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-3)


def test_small_products_in_training_stay_with_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        ilse.core.machine.linear, "linear", lambda *given: seen.append(given) or nn.functional.linear(*given)
    )
    layer = nn.Linear(4, 3)
    use_onednn(layer)
    layer(torch.randn(2, 4))
    assert not seen
    with torch.no_grad():
        layer(torch.randn(2, 4))
    layer(torch.randn(ilse.core.machine.linear.SMALL // 4, 4))
    assert len(seen) == 2
