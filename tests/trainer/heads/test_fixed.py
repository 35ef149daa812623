"""The heads mean, max, concat and mlp against loops over layers."""

from __future__ import annotations

import pytest
import torch

from ilse.core.errors import UserError
from tests.trainer.heads.slow import DIM, LAYERS, OUT, hidden_layers, make
from trainer.heads import build_head


def test_mean() -> None:
    head, x = make("mean")
    expected = [sum(example[layer] for layer in range(LAYERS)) / LAYERS for example in x]
    torch.testing.assert_close(head(x), head.readout(torch.stack(expected)))
    assert head.layer_weights() is None
    assert head.input_weights(x) is None


def test_max() -> None:
    head, x = make("max")
    expected = [[max(example[layer][i] for layer in range(LAYERS)) for i in range(DIM)] for example in x]
    torch.testing.assert_close(head.encode(x), torch.tensor(expected))


@pytest.mark.parametrize(
    ("rows", "read"), [(2, (3, 4)), (5, (0, 1, 2, 3, 4)), ([0, 3], (0, 3)), ([-1, 1], (1, 4)), ([2], (2,))]
)
def test_concat(rows: int | list[int], read: tuple[int, ...]) -> None:
    head, x = make("concat", rows=rows)
    assert head.layers_read == read
    expected = [[value for layer in read for value in example[layer]] for example in x]
    torch.testing.assert_close(head.encode(x), torch.tensor(expected))
    torch.testing.assert_close(head(x), head(x[:, list(read)]))


@pytest.mark.parametrize("rows", [0, 6, -1, [], [1, 1], [1, -4]])
def test_concat_refuses_rows_that_are_none(rows: int | list[int]) -> None:
    with pytest.raises(UserError, match=r"concat', rows\n.*1 to 5"):
        build_head("concat", {"rows": rows}, layers=LAYERS, dim=DIM, out=OUT)
    with pytest.raises(UserError, match=r"concat'\n.*0 to 4.*-5 to -1\n.*: +5\n"):
        build_head("concat", {"rows": [5]}, layers=LAYERS, dim=DIM, out=OUT)


@pytest.mark.parametrize("name", ["mean", "max", "concat", "weighted", "attention", "bottleneck"])
@pytest.mark.parametrize("mlp_layers", [1, 3])
def test_every_fusion_takes_an_mlp(name: str, mlp_layers: int) -> None:
    plain, x = make(name)
    head, _ = make(name, mlp_layers=mlp_layers, hidden=6)
    plain.encoder.load_state_dict(head.encoder.fusion.state_dict())
    expected = [hidden_layers(head.encoder.stack, z) for z in plain.encode(x)]
    assert all(len(layers) == mlp_layers for layers in expected)
    torch.testing.assert_close(head.encode(x), torch.stack([layers[-1] for layers in expected]))
    torch.testing.assert_close(head(x), head.readout(head.encode(x)))


@pytest.mark.parametrize("fusion", ["last", "mean", "weighted"])
def test_mlp_names_its_fusion(fusion: str) -> None:
    head, x = make("mlp", fusion=fusion, hidden=6)
    weights = torch.full((LAYERS,), 1 / LAYERS) if fusion != "weighted" else head.layer_weights()
    z = (
        x[:, -1]
        if fusion == "last"
        else torch.stack([sum(w * row for w, row in zip(weights, e, strict=True)) for e in x])
    )
    expected = [hidden_layers(head.encoder.stack, one)[-1] for one in z]
    torch.testing.assert_close(head.encode(x), torch.stack(expected))
    assert (head.layer_weights() is not None) is (fusion == "weighted")
    assert head.layers_read == ((LAYERS - 1,) if fusion == "last" else tuple(range(LAYERS)))


def test_mlp_on_the_last_row_needs_that_row_alone() -> None:
    head, x = make("mlp", fusion="last")
    torch.testing.assert_close(head(x), head(x[:, list(head.layers_read)]))
