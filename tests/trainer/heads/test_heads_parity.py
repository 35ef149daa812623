"""Our encoders against numbers that the published ILSE code gives (`parity/`, one .npz a case)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.heads import EncoderHead, build_head

FOLDER = Path(__file__).parent / "parity"
CASES: dict[str, dict[str, Any]] = json.loads((FOLDER / "index.json").read_text())


def our_name(case: dict[str, Any], published: str) -> str:
    """The name in our state dict of a published module's parameter."""
    if case["kind"] == "weighted":
        return "scores"
    if case["kind"] == "dwatt":
        return dwatt_name(published)
    if case["kind"] == "deepset":
        return published.replace("_pool_mlp", "")
    first, _, rest = published.partition(".")
    if first == "proj_in":
        return f"project.{rest}"
    index, _, leaf = rest.partition(".")
    norm = 2 * case["options"]["mlp"] or 1
    if first == "norms":
        return f"blocks.{index}.body.{norm}.{leaf}"
    if leaf == "eps":
        return f"blocks.{index}.mixing.epsilon"
    return f"blocks.{index}.body." + (leaf.removeprefix("nn.") if "nn." in leaf else f"0.{leaf.removeprefix('lin.')}")


def dwatt_name(published: str) -> str:
    """As above; a `*` stands for a layer, whose tensors we hold stacked."""
    ours = {"layer_pos_embeddings": "place", "input_projection": "project", "key_transform": "key"}
    ours |= {"query_transform": "query", "value_layer_norms.*": "norm"}
    ours |= {f"value_transforms.*.{i}": name for i, name in ((0, "value_in"), (2, "value_norm"), (3, "value_out"))}
    for theirs, mine in ours.items():
        pattern = "^" + re.escape(theirs).replace(r"\*", r"\d+")
        if re.match(pattern, published):
            return re.sub(pattern, mine, published)
    raise KeyError(published)


def our_head(case: dict[str, Any]) -> EncoderHead:
    given = case["options"]
    if case["kind"] == "weighted":
        name, options = "weighted", {}
    elif case["kind"] == "dwatt":
        name, options = "dwatt", {"hidden": given["hidden"]}
    elif case["kind"] == "deepset":
        name, options = "set", {"pre_layers": given["pre"], "post_layers": given["post"], "pool": given["pool"]}
    else:
        name = "cayley" if given["graph"] == "cayley" else "fc"
        options = {"blocks": given["layers"], "mlp_layers": given["mlp"], "pool": given["pool"]}
        options |= {"doubled_edges": True} if name == "cayley" else {}
    options |= {} if name in ("weighted", "dwatt") else {"hidden": case["hidden_dim"]}
    head = build_head(name, options, layers=case["n_layers"], dim=case["dim"], out=2)
    assert isinstance(head, EncoderHead)
    return head.eval()


def our_state(case: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    stacks: dict[str, list[Tensor]] = {}
    for key, array in arrays.items():  # the layers' tensors stand in the layers' order
        if key.startswith("param/"):
            stacks.setdefault(our_name(case, key.removeprefix("param/")), []).append(torch.from_numpy(array))
    state = {name: torch.stack(parts) if len(parts) > 1 else parts[0] for name, parts in stacks.items()}
    for key in [key for key in state if key.endswith("epsilon")]:
        epsilon = state.pop(key).reshape(())
        if case["options"]["graph"] == "cayley":
            state[key] = epsilon
        else:
            assert epsilon == 0
    return state


@pytest.mark.parametrize("name", CASES)
def test_matches_the_published_encoder(name: str) -> None:
    case = CASES[name]
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = dict(file)
    head = our_head(case)
    head.encoder.load_state_dict(our_state(case, arrays))
    with torch.no_grad():
        ours = head.encode(torch.from_numpy(arrays["x"])).numpy()
    y = arrays["y"]
    assert ours.dtype == np.float32
    assert np.abs(ours - y).max() <= 1e-5 * max(1, np.abs(y).max())


def test_single_edges_are_another_graph() -> None:
    """The published numbers are only met with its doubled edges: the option matters, so the test above can fail."""
    case = CASES["cayley_gin1_mean_L7"]
    with np.load(FOLDER / "cayley_gin1_mean_L7.npz") as file:
        arrays = dict(file)
    options = {"blocks": 1, "hidden": case["hidden_dim"]}
    head = build_head("cayley", options, layers=7, dim=12, out=2).eval()
    head.encoder.load_state_dict(our_state(case, arrays))
    with torch.no_grad():
        ours = head.encode(torch.from_numpy(arrays["x"])).numpy()
    assert np.abs(ours - arrays["y"]).max() > 1e-2


def test_every_kind_is_here() -> None:
    assert {case["kind"] for case in CASES.values()} == {"gin", "deepset", "weighted", "dwatt"}
