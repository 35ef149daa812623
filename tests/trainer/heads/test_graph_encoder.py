"""The graph encoder against a twin that walks nodes and edges one by one and leaves nothing out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from trainer.heads import build_head
from trainer.heads.graphs.cayley import cayley_adjacency, complete_adjacency, smallest_modulus
from trainer.heads.graphs.encoder import GraphEncoder, gcn_weights, needed_nodes

DIM, HIDDEN = 5, 8


class FixedMask(nn.Module):
    """Stands for a dropout whose draws are known for every node: 0 or 2 by node and coordinate."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        mask = torch.randint(0, 2, (48, HIDDEN), generator=torch.Generator().manual_seed(seed))
        self.register_buffer("mask", 2.0 * mask, persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        return h * self.mask[: h.shape[1]]


def graph_of(name: str, layers: int, doubled: bool) -> Tensor:
    return cayley_adjacency(smallest_modulus(layers), doubled) if name == "cayley" else complete_adjacency(layers)


def twin(encoder: GraphEncoder, adjacency: Tensor, x: Tensor, pool: str) -> Tensor:
    """One example at a time, all nodes of the graph, zero rows for the virtual ones, a sum over edges."""
    adjacency = adjacency.to(x)
    padded = torch.cat([x, x.new_zeros(len(x), len(adjacency) - x.shape[1], x.shape[2])], dim=1)
    pooled = []
    for example in padded:
        h = encoder.dropout(encoder.project(example).relu()[None])[0]
        for block in encoder.blocks:
            h = block.dropout(twin_block(block, adjacency, h)[None])[0]
        real = h[: x.shape[1]]
        pooled.append(real.mean(0) if pool == "mean" else real.sum(0))
    return torch.stack(pooled)


def twin_block(block: Any, adjacency: Tensor, h: Tensor) -> Tensor:
    *inner, last = block.body
    gcn = isinstance(last, nn.ReLU)
    epsilon = 0.0 if block.mixing.epsilon is None else block.mixing.epsilon
    degree = adjacency.sum(1) + 1
    nodes = []
    for node in range(len(h)):
        mixed = h[node] / degree[node] if gcn else (1 + epsilon) * h[node]
        for neighbour in adjacency[node].nonzero().flatten().tolist():
            edges = adjacency[node, neighbour]
            share = edges / (degree[node] * degree[neighbour]).sqrt() if gcn else edges
            mixed = mixed + share * h[neighbour]
        if gcn:
            linear, norm = inner
            nodes.append(layer_norm(linear(mixed), (HIDDEN,), norm.weight, norm.bias).relu())
        else:
            for linear in inner[::2]:
                mixed = linear(mixed).relu()
            nodes.append(layer_norm(mixed, (HIDDEN,), last.weight, last.bias))
    return torch.stack(nodes)


def make(name: str, layers: int, **options: Any) -> tuple[Any, Tensor]:
    torch.manual_seed(layers)
    head = build_head(name, {"hidden": HIDDEN, **options}, layers=layers, dim=DIM, out=3).double()
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.5)
    return head, torch.randn(2, layers, DIM, dtype=torch.float64)


@pytest.mark.parametrize("name", ["cayley", "fc"])
@pytest.mark.parametrize("layers", [1, 6, 7, 13])
@pytest.mark.parametrize(("blocks", "mlp_layers"), [(1, 0), (1, 2), (2, 0), (2, 1), (3, 1)])
def test_equals_the_slow_twin_and_so_do_gradients(name: str, layers: int, blocks: int, mlp_layers: int) -> None:
    """Dropout is held fixed but on, so that what is left out or shared is seen to be exact in training too."""
    pool = "sum" if layers == 7 else "mean"
    doubled = {"doubled_edges": layers == 13} if name == "cayley" else {}
    head, x = make(name, layers, blocks=blocks, mlp_layers=mlp_layers, pool=pool, **doubled)
    encoder = head.encoder
    encoder.dropout = FixedMask(0).double()
    for seed, block in enumerate(encoder.blocks, start=1):
        block.dropout = FixedMask(seed).double()
    fast = head.encode(x)
    slow = twin(encoder, graph_of(name, layers, doubled.get("doubled_edges", False)), x, pool)
    # The constant weights of a convolution are float32 (1/5, 2/9); everything else is float64.
    close = {"rtol": 1e-6, "atol": 1e-6} if mlp_layers == 0 else {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(fast, slow, **close)
    weights = torch.randn_like(fast)
    parameters = list(encoder.parameters())
    ours = torch.autograd.grad((fast * weights).sum(), parameters)
    theirs = torch.autograd.grad((slow * weights).sum(), parameters)
    torch.testing.assert_close(ours, theirs, **close)


def test_under_autocast_gradients_are_nearly_those_of_float32() -> None:
    """Its messages have a gradient of their own, which has to follow the types that autocast chose."""
    head, x = make("cayley", 7)
    head, x = head.float().eval(), x.float()

    def gradients(mixed: bool) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = head(x).float().square().sum()
        return list(torch.autograd.grad(loss, list(head.parameters())))

    for rough, exact in zip(gradients(mixed=True), gradients(mixed=False), strict=True):
        assert rough.dtype == torch.float32
        assert (rough - exact).norm() <= 0.05 * exact.norm()


def test_needed_nodes_are_those_within_reach() -> None:
    adjacency = cayley_adjacency(4)
    sizes = needed_nodes(adjacency, 25, 2)
    for size, heard in zip(sizes[1:], sizes[:-1], strict=True):
        neighbours = {j for i in range(size) for j in adjacency[i].nonzero().flatten().tolist()}
        assert neighbours | set(range(size)) == set(range(heard))
    assert sizes[-1] == 25
    assert needed_nodes(complete_adjacency(9), 9, 3) == [9, 9, 9, 9]


@pytest.mark.parametrize(("name", "mlp_layers"), [("cayley", 1), ("cayley", 0), ("fc", 2), ("fc", 0)])
def test_gradcheck(name: str, mlp_layers: int) -> None:
    head, x = make(name, 4, mlp_layers=mlp_layers, hidden=3, blocks=1)
    head.eval()
    names = [key for key, _ in head.named_parameters()]

    def outputs(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(head, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(outputs, (x.requires_grad_(), *head.parameters()))


@pytest.mark.parametrize("pool", ["mean", "sum"])
def test_fc_is_a_deep_set_in_eval_mode(pool: str) -> None:
    head, x = make("fc", 9, blocks=1, mlp_layers=2, pool=pool)
    head.eval()
    first, _, second, _, norm = head.encoder.blocks[0].body
    summed = head.encoder.project(x).relu().sum(1)
    deep_set = norm(second(first(summed).relu()).relu())
    torch.testing.assert_close(head.encode(x), deep_set if pool == "mean" else 9 * deep_set)


def test_order_of_layers_matters_to_cayley_alone() -> None:
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    for name, same in (("fc", True), ("cayley", False)):
        head, x = make(name, 9)
        head.eval()
        assert torch.allclose(head(x), head(x[:, order])) is same


def test_epsilon_is_learned_on_the_cayley_graph_only() -> None:
    cayley, _ = make("cayley", 7)
    fc, _ = make("fc", 7)
    assert [p.shape for key, p in cayley.named_parameters() if "epsilon" in key] == [(), ()]
    assert not [key for key in fc.state_dict() if "epsilon" in key]


def test_published_convolution_weighs_a_neighbour_twice() -> None:
    doubled = gcn_weights(cayley_adjacency(3, doubled=True))
    assert doubled[0, 0].item() == pytest.approx(1 / 9)
    assert doubled[0, 1].item() == pytest.approx(2 / 9)
    assert gcn_weights(cayley_adjacency(3))[0, :2].tolist() == pytest.approx([1 / 5, 1 / 5])


def test_virtual_nodes_are_dropped_apart() -> None:
    torch.manual_seed(0)
    head = build_head("cayley", {"dropout": 0.5, "hidden": 64}, layers=25, dim=DIM, out=3)
    entered: list[Tensor] = []
    head.encoder.blocks[0].register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    nn.init.constant_(head.encoder.project.bias, 1.0)
    head(torch.zeros(2, 25, DIM))
    virtual = entered[0][:, 25:].flatten(0, 1)
    assert len(virtual) >= 30
    assert len(virtual.unique(dim=0)) == len(virtual)


@pytest.mark.parametrize(("blocks", "mlp_layers"), [(1, 1), (2, 1), (2, 2), (2, 0)])
@pytest.mark.parametrize("name", ["cayley", "fc"])
def test_parameter_count_is_the_published_formula(name: str, blocks: int, mlp_layers: int) -> None:
    head = build_head(name, {"blocks": blocks, "mlp_layers": mlp_layers}, layers=25, dim=1024, out=77)
    epsilon = name == "cayley" and mlp_layers > 0
    # A convolution has one linear layer too, though it is called m = 0.
    encoder = 256 * (1024 + 1) + blocks * (max(mlp_layers, 1) * 65_792 + 512 + epsilon)
    assert sum(p.numel() for p in head.parameters()) == encoder + 257 * 77


def test_budget_of_pythia_410m() -> None:
    """Two blocks and 77 classes over Pythia-410M's 405,334,016 parameters: 0.102 %."""
    head = build_head("cayley", layers=25, dim=1024, out=77)
    assert 100 * sum(p.numel() for p in head.parameters()) / 405_334_016 == pytest.approx(0.102, abs=5e-4)
