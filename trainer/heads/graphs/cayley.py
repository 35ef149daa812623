"""The layer graphs: the Cayley graph of SL(2, Z_n), and the complete graph.

Vertices of the Cayley graph are the 2 × 2 matrices modulo n with determinant 1; an edge joins g and g·s for each s of
four generators, a set closed under inverses. Vertices are numbered breadth-first from the identity, so the first L of
them, which carry the L layers in depth order, are a ball. Source: ILSE, arXiv 2603.22665, and its published code.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ilse.core.errors import UserError

Matrix = tuple[int, int, int, int]

IDENTITY: Matrix = (1, 0, 0, 1)
GENERATORS: tuple[Matrix, ...] = ((1, 1, 0, 1), (1, -1, 0, 1), (1, 0, 1, 1), (1, 0, -1, 1))
"""Row by row: [1 1; 0 1], its inverse, [1 0; 1 1], its inverse. The order fixes the vertices' numbers."""

MODULI = range(2, 11)
GRAPHS = "cpu"
"""Device on which graphs are made: they are read while a head is built, even if its weights are on `meta`."""


def group_order(n: int) -> int:
    """The number of vertices: |SL(2, Z_n)| = n³ ∏ (1 − p⁻²) over the primes p that divide n."""
    order = n**3
    for p in range(2, n + 1):
        if n % p == 0 and all(p % q for q in range(2, p)):
            order = order // p**2 * (p**2 - 1)
    return order


def smallest_modulus(layers: int) -> int:
    """The smallest n from 2 to 10 whose graph has a vertex for each of `layers`; `UserError` beyond 720 layers."""
    for n in MODULI:
        if group_order(n) >= layers:
            return n
    raise UserError(
        "head 'cayley'",
        expected=f"at most {group_order(MODULI[-1])} layers, the vertices at n = {MODULI[-1]}",
        found=f"{layers} layers",
        next_step="use the head 'set' or 'fc', which take any number of layers",
    )


def cayley_adjacency(n: int, doubled: bool = False) -> Float[Tensor, "nodes nodes"]:
    """Edges of Cay(SL(2, Z_n)) as a symmetric 0/1 matrix: 4-regular, at n = 2 a cycle of six.

    With `doubled`, edges count as in the published code, which adds both directions of every generator though the
    generators hold their own inverses: each stands twice, at n = 2 (where generators coincide) four times.
    """
    numbers = _breadth_first(n)
    adjacency = torch.zeros(len(numbers), len(numbers), device=GRAPHS)
    for vertex, number in numbers.items():
        for generator in GENERATORS:
            neighbour = numbers[_times(vertex, generator, n)]
            adjacency[number, neighbour] += 1
            adjacency[neighbour, number] += 1
    return adjacency if doubled else adjacency.clamp(max=1)


def complete_adjacency(layers: int) -> Float[Tensor, "layers layers"]:
    """Every layer joined to every other, without self-loops."""
    return 1 - torch.eye(layers, device=GRAPHS)


def _breadth_first(n: int) -> dict[Matrix, int]:
    numbers = {IDENTITY: 0}
    queue = [IDENTITY]
    for vertex in queue:
        for generator in GENERATORS:
            neighbour = _times(vertex, generator, n)
            if neighbour not in numbers:
                numbers[neighbour] = len(numbers)
                queue.append(neighbour)
    return numbers


def _times(g: Matrix, s: Matrix, n: int) -> Matrix:
    a, b, c, d = g
    e, f, h, i = s
    return (a * e + b * h) % n, (a * f + b * i) % n, (c * e + d * h) % n, (c * f + d * i) % n
