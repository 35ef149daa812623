"""The registry: every head builds, is rebuilt from its config, and refuses what it does not know."""

from __future__ import annotations

import json

import pytest
import torch

from ilse.core.errors import UserError
from trainer.heads import HEADS, build_head, head_config
from trainer.heads.graphs.encoder import CayleyOptions, GraphOptions

SIZES = {"layers": 7, "dim": 6, "out": 3}


def test_names() -> None:
    assert list(HEADS) == [
        "last", "layer", "best", "mean", "max", "concat", "linear", "weighted", "bottleneck", "attention", "dwatt",
        "mlp", "set", "fc", "cayley", "exits", "gated",
    ]  # fmt: skip
    assert all(kind.name == name and kind.summary for name, kind in HEADS.items())
    for kind in HEADS.values():
        assert all(field.description for field in kind.options.model_fields.values())


@pytest.mark.parametrize("name", HEADS)
def test_shape_and_rebuilding_through_json(name: str) -> None:
    head = build_head(name, **SIZES).eval()
    x = torch.randn(2, 7, 6)
    outputs = head(x)
    assert outputs.shape == ((2, 7, 3) if name == "best" else (2, 3))
    again = build_head(**json.loads(json.dumps(head_config(head)))).eval()
    assert head_config(again) == head_config(head)
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(x), outputs)


@pytest.mark.parametrize("name", HEADS)
def test_seed_decides_the_initial_weights(name: str) -> None:
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(torch.cat([p.flatten() for p in build_head(name, **SIZES).parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("name", ["mlp", "set", "fc", "cayley"])
def test_dropout_is_random_in_training_only(name: str) -> None:
    torch.manual_seed(0)
    head = build_head(name, {"dropout": 0.5}, **SIZES)
    x = torch.randn(2, 7, 6)
    assert not torch.equal(head(x), head(x))
    head.eval()
    assert torch.equal(head(x), head(x))


def test_options_may_be_the_structure_itself() -> None:
    head = build_head("cayley", CayleyOptions(hidden=8, doubled_edges=True), **SIZES)
    assert head_config(head)["options"]["doubled_edges"] is True
    with pytest.raises(UserError, match="CayleyOptions"):
        build_head("cayley", GraphOptions(), **SIZES)


def test_defaults() -> None:
    assert CayleyOptions().model_dump() == {
        "hidden": 256,
        "blocks": 2,
        "mlp_layers": 1,
        "pool": "mean",
        "dropout": 0.1,
        "doubled_edges": False,
        "virtual_nodes": True,
        "learn_epsilon": True,
        "graph": "cayley",
        "order": "depth",
        "graph_seed": 0,
        "supervision": 0.0,
        "supervision_fades": True,
    }


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"head 'cayly'\n.*one of last, layer, best.*\n.*\n.*did you mean 'cayley'\?"):
        build_head("cayly", **SIZES)
    with pytest.raises(UserError, match="choose one of the heads above"):
        build_head("zzz", **SIZES)


def test_unknown_option_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"section 'fc'\n(.*\n)*.*unknown key 'block'\n.*did you mean 'blocks'\?"):
        build_head("fc", {"block": 1}, **SIZES)


def test_option_out_of_range_is_named() -> None:
    with pytest.raises(UserError, match=r"section 'mlp', dropout\n.*less than 1\n.*1\.5"):
        build_head("mlp", {"dropout": 1.5}, **SIZES)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("shape", [(2, 5, 6), (2, 7, 9)])
def test_another_models_activations_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=rf"head '{name}'\n.*7 layers of 6 values.*\n.*{shape[1]} layers of {shape[2]}"):
        build_head(name, **SIZES)(torch.zeros(shape))
