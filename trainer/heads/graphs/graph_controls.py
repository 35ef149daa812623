"""Controls for the Cayley graph: a random regular graph in its place, and layers on its nodes in a random order.

Both are drawn from a number alone and by `random.Random.random`, the one draw that Python promises never to change, so
that a saved head finds its graph again on any machine. (networkx draws such graphs too, but may draw others in another
version.)
"""

from __future__ import annotations

import random

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.heads.graphs.cayley import GRAPHS

DEGREE = 4
"""Degree of the Cayley graphs of SL(2, Z_n), n ≥ 3. (At n = 2 the graph is a cycle of six, which has no random twin.)
"""


def random_regular_adjacency(nodes: int, seed: int) -> Float[Tensor, "nodes nodes"]:
    """A simple connected graph in which each of 5 or more nodes has 4 neighbours, numbered breadth-first from node 0.

    The pairing model (Bollobás 1980): four stubs a node are paired at random, and a pairing with a loop, a double edge
    or two parts is drawn again, some 50 times; all labelled graphs of this kind are as likely.
    """
    draw = random.Random(f"random regular graph {seed}")
    while True:
        neighbours = _paired(_in_random_order(nodes * DEGREE, draw), nodes)
        order = _breadth_first(neighbours)
        if len(order) == nodes and all(len(of_node) == DEGREE for of_node in neighbours):
            break
    adjacency = torch.zeros(nodes, nodes, device=GRAPHS)
    for node, of_node in enumerate(neighbours):
        adjacency[node, list(of_node)] = 1
    return adjacency[order][:, order]


def shuffled_layers(adjacency: Float[Tensor, "nodes nodes"], layers: int, seed: int) -> Float[Tensor, "nodes nodes"]:
    """The graph with its first `layers` nodes, which carry the layers, renumbered at random."""
    order = _in_random_order(layers, random.Random(f"order of layers {seed}"))
    order += range(layers, len(adjacency))
    return adjacency[order][:, order]


def _in_random_order(count: int, draw: random.Random) -> list[int]:
    return sorted(range(count), key=lambda _: draw.random())


def _paired(stubs: list[int], nodes: int) -> list[set[int]]:
    """Neighbours of each node; loops and double edges are lost, which its degree then tells."""
    neighbours: list[set[int]] = [set() for _ in range(nodes)]
    for one, other in zip(stubs[::2], stubs[1::2], strict=True):
        a, b = one // DEGREE, other // DEGREE
        if a != b:
            neighbours[a].add(b)
            neighbours[b].add(a)
    return neighbours


def _breadth_first(neighbours: list[set[int]]) -> list[int]:
    order = [0]
    for node in order:
        order += sorted(neighbours[node] - set(order))
    return order
