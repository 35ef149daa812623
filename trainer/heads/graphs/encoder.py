"""Graph encoder: layers are nodes that exchange messages, then are pooled (heads `cayley` and `fc`).

    H₀ = Dropout(ReLU(X W_p + b_p))
    GIN, mlp_layers ≥ 1:  H ← Dropout(LN(MLP((1 + ε) H + A H)))
    GCN, mlp_layers = 0:  H ← Dropout(ReLU(LN(Â H W + b))),  Â = D^(-1/2) (A + I) D^(-1/2)

after which the real layers' nodes are pooled. Nodes beyond the layers are virtual: their input is zero, so they enter
as ReLU(b_p). No residual connections. Source: ILSE, arXiv 2603.22665, and its published code. Two differences are
by choice: edges count once (`doubled_edges` restores the published graph), and linear layers start from PyTorch's
defaults, also inside the GCN. `controls` has other graphs and orders, to see whether this one matters.

Three things are left out because they cannot change the result: products with zero inputs; nodes that no pooled node
can hear (breadth-first numbers make those needed a prefix); and, on the complete graph, all but one of the identical
sums that its nodes receive.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from trainer.heads.base import Encoder, EncoderHead, HeadSpec
from trainer.heads.dense import Dropout
from trainer.heads.graphs.cayley import cayley_adjacency, complete_adjacency, smallest_modulus
from trainer.heads.graphs.graph_controls import random_regular_adjacency, shuffled_layers
from trainer.heads.readout import SupervisionOptions


class GraphOptions(SupervisionOptions):
    """Options of the graph encoder; the head `fc` has just these."""

    hidden: int = Field(256, ge=1, description="width of a node, in values")
    blocks: int = Field(2, ge=1, le=8, description="message layers; published 1 or 2")
    mlp_layers: int = Field(1, ge=0, le=4, description="linear layers in a GIN block, published 1 or 2; 0 makes a GCN")
    pool: Literal["mean", "sum"] = Field("mean", description="how the real layers' nodes become one vector")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of values zeroed in training, from 0 to below 1")


class CayleyOptions(GraphOptions):
    """Options of the head `cayley`."""

    doubled_edges: bool = Field(
        False, description="count every edge twice (n = 2: four times) as the published code does, for comparison"
    )
    virtual_nodes: bool = Field(
        True, description="keep the graph's vertices beyond the layers, which enter as zeros and pass messages on"
    )
    learn_epsilon: bool = Field(True, description="learn how much a node counts itself in each GIN block, from 1 + 0")
    graph: Literal["cayley", "random_regular"] = Field(
        "cayley", description="a control: a random graph of as many nodes, each with four neighbours, instead"
    )
    order: Literal["depth", "shuffled"] = Field(
        "depth", description="a control: the layers on the same nodes in a random order instead"
    )
    graph_seed: int = Field(0, ge=0, description="draws that graph and that order, apart from the seed of the weights")


class Mixing(nn.Module):
    """The messages: every node's weighted sum over itself and its neighbours.

    Parameters
    ----------
    weights
        `[rows, nodes]`, the self weight included. Constant, so kept out of the state dict.
    learn_epsilon
        Add a learned ε, from 0, to every node's weight of itself.
    """

    weights: Tensor

    def __init__(self, weights: Float[Tensor, "rows nodes"], learn_epsilon: bool) -> None:
        super().__init__()
        self.rows = len(weights)
        self.epsilon = nn.Parameter(torch.zeros(())) if learn_epsilon else None
        alike = self.epsilon is None and bool((weights == weights[0]).all())
        self.register_buffer("weights", weights[:1].clone() if alike else weights, persistent=False)

    def forward(self, h: Float[Tensor, "batch nodes hidden"]) -> Float[Tensor, "batch rows hidden"]:
        """The sums of the first `self.rows` nodes, or one row where all nodes would receive the same."""
        if self.epsilon is None:
            return torch.bmm(self.weights.expand(h.shape[0], -1, -1), h)
        mixed: Tensor = _Mix.apply(self.weights, self.epsilon, h)[0]
        return mixed


class _Mix(torch.autograd.Function):
    """(W + ε I) h. Its own gradient by ε is one sum, where autograd would make a matrix of products an example."""

    @staticmethod
    def forward(
        weights: Float[Tensor, "rows nodes"], epsilon: Float[Tensor, ""], h: Float[Tensor, "batch nodes hidden"]
    ) -> tuple[Float[Tensor, "batch rows hidden"], Float[Tensor, "rows nodes"]]:
        weights = weights + epsilon * torch.eye(*weights.shape, dtype=weights.dtype, device=h.device)
        # Before it is repeated for every example. Under autocast the product may come in bfloat16 all the same.
        weights = weights.to(h.dtype)
        mixed = torch.bmm(weights.expand(h.shape[0], -1, -1), h)
        return mixed, weights.to(mixed.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        _, weights = output
        ctx.mark_non_differentiable(weights)
        ctx.save_for_backward(weights, inputs[2])
        ctx.epsilon_type = inputs[1].dtype

    @staticmethod
    def backward(
        ctx: Any, grad: Float[Tensor, "batch rows hidden"], _: Tensor | None
    ) -> tuple[None, Tensor | None, Tensor]:
        weights, h = ctx.saved_tensors
        # Products of whole rows at a time: no tensor of the states' size is made for them.
        by_epsilon = torch.linalg.vecdot(grad, h[:, : len(weights)].to(grad.dtype)).sum(dtype=ctx.epsilon_type)
        return None, by_epsilon, torch.bmm(weights.mT.expand(len(grad), -1, -1), grad).to(h.dtype)


class Block(nn.Module):
    """One message layer, a GIN or (with `mlp_layers` 0) a GCN, for the nodes that `mixing` has rows for."""

    def __init__(self, mixing: Mixing, options: GraphOptions) -> None:
        super().__init__()
        self.mixing = mixing
        hidden, norm = options.hidden, nn.LayerNorm(options.hidden)
        if options.mlp_layers == 0:
            body = [nn.Linear(hidden, hidden), norm, nn.ReLU()]
        else:
            pairs = ((nn.Linear(hidden, hidden), nn.ReLU()) for _ in range(options.mlp_layers))
            body = [module for pair in pairs for module in pair] + [norm]
        self.body = nn.Sequential(*body)
        self.dropout = Dropout(options.dropout)

    def forward(self, h: Float[Tensor, "batch nodes hidden"]) -> Float[Tensor, "batch rows hidden"]:
        """The nodes' next states. Nodes that share one sum part here, at their own dropout."""
        mixed = self.body(self.mixing(h))
        updated: Tensor = self.dropout(mixed.expand(-1, self.mixing.rows, -1))
        return updated


class GraphEncoder(Encoder):
    """Layers as the first nodes of a graph; see the module for the equations.

    Parameters
    ----------
    adjacency
        `[nodes, nodes]`, symmetric, edges may count more than once; the first `layers` nodes are real.
    layers, dim
        Rows of an example and their width.
    options
        Widths, depth, pooling and dropout.
    learn_epsilon
        Learn a GIN's ε, one number per block; else it is 0. Without meaning for a GCN.
    """

    def __init__(
        self,
        adjacency: Float[Tensor, "nodes nodes"],
        *,
        layers: int,
        dim: int,
        options: GraphOptions,
        learn_epsilon: bool,
    ) -> None:
        super().__init__()
        convolve = options.mlp_layers == 0
        weights = gcn_weights(adjacency) if convolve else adjacency + torch.eye(len(adjacency), device=adjacency.device)
        sizes = needed_nodes(adjacency, layers, options.blocks)
        self.width, self.state_widths = options.hidden, (options.hidden,) * options.blocks
        self.layers, self.pool = layers, options.pool
        self.virtual = sizes[0] - layers
        self.project = nn.Linear(dim, options.hidden)
        self.dropout = Dropout(options.dropout)
        self.blocks = nn.ModuleList(
            Block(Mixing(weights[:rows, :nodes].clone(), learn_epsilon and not convolve), options)
            for nodes, rows in pairwise(sizes)
        )

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch hidden"]:
        """The pooled nodes of the real layers."""
        h = self._nodes(x)
        for block in self.blocks:
            h = block(h)
        return self._pooled(h)

    def with_states(self, x: Float[Tensor, "batch layers dim"]) -> tuple[Tensor, list[Tensor]]:
        """The pooled nodes, and what pooling gives before each block."""
        h, states = self._nodes(x), []
        for block in self.blocks:
            states.append(self._pooled(h[:, : self.layers]))
            h = block(h)
        return self._pooled(h), states

    def _pooled(self, h: Float[Tensor, "batch layers hidden"]) -> Float[Tensor, "batch hidden"]:
        # No `mean`: of bfloat16 it makes a float32 copy first, where `sum` adds in float32 as it goes.
        return h.sum(1) / h.shape[1] if self.pool == "mean" else h.sum(1)

    def _nodes(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch nodes hidden"]:
        real = self.project(x)
        if self.virtual:
            # In the type of the others, which autocast may have made bfloat16: else all would be float32 again.
            virtual = self.project.bias.to(real.dtype).expand(x.shape[0], self.virtual, -1)
            real = torch.cat([real, virtual], dim=1)
        entered: Tensor = self.dropout(real.relu_())
        return entered


def gcn_weights(adjacency: Float[Tensor, "nodes nodes"]) -> Float[Tensor, "nodes nodes"]:
    """Â = D^(-1/2) (A + I) D^(-1/2), D the row sums of A + I (Kipf and Welling, arXiv 1609.02907).

    On a 4-regular graph all weights are 1/5; with doubled edges 2/9 for a neighbour and 1/9 for the node itself.
    """
    looped = adjacency + torch.eye(len(adjacency), device=adjacency.device)
    degrees = looped.sum(1)
    return looped / torch.sqrt(degrees[:, None] * degrees[None, :])


def needed_nodes(adjacency: Float[Tensor, "nodes nodes"], layers: int, blocks: int) -> list[int]:
    """How many of the first nodes the input and each block's output need, so that the last gives `layers`.

    A block hears a node and its neighbours. In breadth-first order the neighbours of a prefix are a prefix again;
    in any other order the prefix is only longer than it need be.
    """
    sizes = [layers]
    for _ in range(blocks):
        heard = adjacency[: sizes[0]].any(0).nonzero()
        sizes.insert(0, max(sizes[0], int(heard.max()) + 1 if len(heard) else 0))
    return sizes


def build_cayley(spec: HeadSpec[CayleyOptions]) -> EncoderHead:
    """Layers on the smallest Cayley graph that holds them, or on a control of its size; ε learned."""
    options = spec.options
    adjacency = cayley_adjacency(smallest_modulus(spec.layers), doubled=options.doubled_edges)
    if options.graph == "random_regular":
        adjacency = random_regular_adjacency(len(adjacency), options.graph_seed) * (1 + options.doubled_edges)
    if options.order == "shuffled":
        adjacency = shuffled_layers(adjacency, spec.layers, options.graph_seed)
    if not options.virtual_nodes:
        adjacency = adjacency[: spec.layers, : spec.layers]
    return _on_graph(spec, adjacency, options.learn_epsilon)


def build_fc(spec: HeadSpec[GraphOptions]) -> EncoderHead:
    """Layers on the complete graph, ε fixed at 0."""
    return _on_graph(spec, complete_adjacency(spec.layers), learn_epsilon=False)


def _on_graph(
    spec: HeadSpec[GraphOptions], adjacency: Float[Tensor, "nodes nodes"], learn_epsilon: bool
) -> EncoderHead:
    options = spec.options
    encoder = GraphEncoder(adjacency, layers=spec.layers, dim=spec.dim, options=options, learn_epsilon=learn_epsilon)
    return EncoderHead(spec, encoder, options.supervision, options.supervision_fades)
