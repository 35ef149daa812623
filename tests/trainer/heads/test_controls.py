"""The controls for the Cayley graph: what they keep of it, what they change, and that a number gives them again."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest
import torch

from tests.trainer.heads.test_graph_encoder import make, twin
from trainer.heads import build_head, head_config
from trainer.heads.graphs.cayley import cayley_adjacency, smallest_modulus
from trainer.heads.graphs.encoder import needed_nodes
from trainer.heads.graphs.graph_controls import random_regular_adjacency, shuffled_layers

FIRST_EDGES = [
    [0, 1], [0, 2], [0, 3], [0, 4], [1, 5], [1, 6], [1, 7], [2, 8], [2, 9], [2, 10], [3, 5], [3, 11], [6, 8], [9, 11],
]  # fmt: skip
"""Between the first 12 of 24 nodes of graph 0, drawn once: saved heads must find it again."""


def distances(adjacency: torch.Tensor) -> list[int]:
    """Of every node from node 0, one edge after the other; -1 for one that is not reached."""
    found = [0, *[-1] * (len(adjacency) - 1)]
    for steps in range(len(adjacency)):
        for a, b in adjacency.nonzero().tolist():
            if found[a] == steps and found[b] < 0:
                found[b] = steps + 1
    return found


@pytest.mark.parametrize("nodes", [6, 24, 48, 120])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_random_graph_is_regular_connected_and_numbered_outwards(nodes: int, seed: int) -> None:
    adjacency = random_regular_adjacency(nodes, seed)
    assert adjacency.shape == (nodes, nodes)
    assert set(adjacency.unique().tolist()) == {0.0, 1.0}
    assert (adjacency.sum(1) == 4).all()
    assert torch.equal(adjacency, adjacency.T)
    assert not adjacency.diagonal().any()
    found = distances(adjacency)
    assert found == sorted(found)
    assert found[1] == 1
    assert min(found[1:]) > 0, "every node is reached"


def test_the_seed_alone_draws_a_graph() -> None:
    drawn = [random_regular_adjacency(24, seed) for seed in range(6)]
    assert torch.equal(drawn[3], random_regular_adjacency(24, 3))
    assert not any(torch.equal(one, other) for one, other in combinations(drawn, 2))
    assert drawn[0][:12, :12].triu().nonzero().tolist() == FIRST_EDGES


def test_shuffling_moves_layers_among_the_same_nodes() -> None:
    adjacency = cayley_adjacency(4)
    shuffled = shuffled_layers(adjacency, 31, seed=1)
    moved = [sorted(graph.sum(1).tolist()) for graph in (adjacency[:31, :31], shuffled[:31, :31])]
    assert moved[0] == moved[1]
    assert torch.equal(shuffled[31:, 31:], adjacency[31:, 31:])
    assert not torch.equal(shuffled, adjacency)
    assert needed_nodes(shuffled, 31, 2) == needed_nodes(adjacency, 31, 2)
    assert torch.equal(shuffled, shuffled_layers(adjacency, 31, seed=1))
    assert not torch.equal(shuffled, shuffled_layers(adjacency, 31, seed=2))


CONTROLS: list[dict[str, Any]] = [
    {"graph": "random_regular", "graph_seed": 2},
    {"order": "shuffled", "graph_seed": 1},
    {"graph": "random_regular", "order": "shuffled", "graph_seed": 3, "doubled_edges": True},
]


@pytest.mark.parametrize("options", CONTROLS)
@pytest.mark.parametrize("mlp_layers", [0, 1])
def test_equals_the_slow_twin(options: dict[str, Any], mlp_layers: int) -> None:
    """All nodes of the graph, walked edge by edge."""
    layers, seed = 13, options["graph_seed"]
    head, x = make("cayley", layers, mlp_layers=mlp_layers, **options)
    head.eval()
    graph = cayley_adjacency(smallest_modulus(layers))
    if options.get("graph") == "random_regular":
        graph = random_regular_adjacency(24, seed)
    if options.get("order") == "shuffled":
        graph = shuffled_layers(graph, layers, seed)
    if options.get("doubled_edges"):
        graph = 2 * graph
    torch.testing.assert_close(head.encode(x), twin(head.encoder, graph, x, "mean"), rtol=1e-6, atol=1e-6)


def test_a_shuffled_order_is_the_graph_for_layers_that_come_in_another_order() -> None:
    """The layer → node map itself: what the shuffled head sees at node ℓ, the plain one sees at node `order`[ℓ]."""
    plain, x = make("cayley", 13)
    shuffled = build_head("cayley", {"hidden": 8, "order": "shuffled", "graph_seed": 5}, layers=13, dim=5, out=3)
    shuffled.double().load_state_dict(plain.state_dict())
    numbered = torch.arange(24.0).diag()  # its diagonal, permuted alike, tells the order
    order = shuffled_layers(numbered, 13, seed=5).diagonal().long()[:13]
    assert sorted(order.tolist()) == list(range(13))
    moved = torch.empty_like(x)
    moved[:, order] = x
    torch.testing.assert_close(shuffled.eval()(x), plain.eval()(moved))
    assert not torch.allclose(shuffled(x), plain(x))


@pytest.mark.parametrize("options", CONTROLS)
def test_the_options_alone_give_the_graph_again(options: dict[str, Any]) -> None:
    head = build_head("cayley", options, layers=13, dim=5, out=3).eval()
    again = build_head(**json.loads(json.dumps(head_config(head)))).eval()
    again.load_state_dict(head.state_dict())
    x = torch.randn(2, 13, 5)
    assert torch.equal(again(x), head(x))
    assert sum(p.numel() for p in head.parameters()) == sum(
        p.numel() for p in build_head("cayley", layers=13, dim=5, out=3).parameters()
    ), "a control has as many parameters"
