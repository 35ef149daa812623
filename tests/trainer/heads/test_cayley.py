"""The layer graphs against the table of their sizes, degrees, diameters and spectral gaps."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from ilse.core.errors import UserError
from trainer.heads.graphs.cayley import cayley_adjacency, complete_adjacency, group_order, smallest_modulus

# n: vertices, degree, diameter, spectral gap d - lambda_2 (to two decimals), measured once apart from this code.
TABLE = {
    2: (6, 2, 3, 1.00),
    3: (24, 4, 4, 1.27),
    4: (48, 4, 6, 1.17),
    5: (120, 4, 6, 0.76),
    6: (144, 4, 6, 0.95),
    7: (336, 4, 7, 0.59),
    8: (384, 4, 8, 0.59),
    9: (648, 4, 8, 0.49),
    10: (720, 4, 10, 0.38),
}


def diameter(adjacency: torch.Tensor) -> int:
    """Steps until everything is reached from vertex 0; the graph looks the same from all its vertices."""
    reached = torch.zeros(len(adjacency))
    reached[0] = 1
    for steps in range(len(adjacency)):
        if reached.all():
            return steps
        reached = ((reached + adjacency @ reached) > 0).float()
    raise AssertionError("not connected")


@pytest.mark.parametrize("n", TABLE)
def test_table(n: int) -> None:
    adjacency = cayley_adjacency(n)
    vertices, degree, longest, gap = TABLE[n]
    assert adjacency.shape == (vertices, vertices)
    assert set(adjacency.unique().tolist()) == {0.0, 1.0}
    assert (adjacency.sum(1) == degree).all()
    assert torch.equal(adjacency, adjacency.T)
    assert not adjacency.diagonal().any()
    assert diameter(adjacency) == longest
    second = torch.linalg.eigvalsh(adjacency.double())[-2].item()
    assert degree - second == pytest.approx(gap, abs=0.006)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_vertices_are_all_matrices_of_determinant_one(n: int) -> None:
    count = sum((a * d - b * c) % n == 1 for a, b, c, d in product(range(n), repeat=4))
    assert len(cayley_adjacency(n)) == count == group_order(n)


@pytest.mark.parametrize(("n", "times"), [(2, 4), (3, 2), (4, 2)])
def test_published_edges_stand_more_than_once(n: int, times: int) -> None:
    assert torch.equal(cayley_adjacency(n, doubled=True), times * cayley_adjacency(n))


def test_two_makes_a_cycle_of_six_numbered_from_both_sides() -> None:
    edges = cayley_adjacency(2).triu().nonzero().tolist()
    assert edges == [[0, 1], [0, 2], [1, 3], [2, 4], [3, 5], [4, 5]]


def test_numbers_go_outwards() -> None:
    adjacency = cayley_adjacency(4)
    assert adjacency[0].nonzero().flatten().tolist() == [1, 2, 3, 4]
    distance = {0: 0}
    for vertex in range(1, 48):
        distance[vertex] = 1 + min(distance[u] for u in adjacency[vertex].nonzero().flatten().tolist() if u in distance)
    assert list(distance.values()) == sorted(distance.values())


@pytest.mark.parametrize(("layers", "n"), [(1, 2), (6, 2), (7, 3), (23, 3), (25, 4), (33, 4), (49, 5), (720, 10)])
def test_smallest_modulus(layers: int, n: int) -> None:
    assert smallest_modulus(layers) == n


def test_too_many_layers_are_refused() -> None:
    with pytest.raises(UserError, match=r"at most 720 layers.*\n.*721 layers\n.*'set' or 'fc'"):
        smallest_modulus(721)


def test_complete_graph() -> None:
    assert complete_adjacency(3).tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
