"""The graph encoder's training steps on a CPU with AVX-512, with gradients of their own: the same numbers in less time.

What `trainer.heads.graphs.encoder` spells out, one operation after the other, goes through memory once for each of
them; there it is the definition, and the way on other devices, in other shapes and outside training. Here a bias and a
ReLU are part of the product (oneDNN), dropout and the ReLU's gradient change a tensor in its place, and weights are
turned to bfloat16 without autocast. Measured on an AMD EPYC (Zen 5, 2 cores): 5 % of a step of the head `cayley`, in
bfloat16 and in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ilse.core.machine.linear import pays, product
from trainer.heads.dense import above


def applies(x: Float[Tensor, "batch rows width"]) -> bool:
    """Whether such values, in training, are for these functions."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and pays()


def compute_type(x: Tensor) -> torch.dtype:
    """The type of products: what autocast asks for, or that of `x`."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def nodes(
    x: Float[Tensor, "batch layers dim"], project: nn.Linear, virtual: int, mask: Float[Tensor, "batch nodes hidden"]
) -> Float[Tensor, "batch nodes hidden"]:
    """The nodes that enter, mask · ReLU(X W_p + b_p), and `virtual` ones of input 0; in the type of `mask`."""
    entered: Tensor = _Nodes.apply(x, project.weight, project.bias, virtual, mask)
    return entered


def message(
    h: Float[Tensor, "batch nodes hidden"],
    weights: Float[Tensor, "rows nodes"],
    epsilon: Float[Tensor, ""],
    body: nn.Sequential,
    mask: Float[Tensor, "batch rows hidden"],
) -> Float[Tensor, "batch rows hidden"]:
    """A GIN block of one linear layer: mask · LN(ReLU((W + ε I) H W_1 + b_1)), in the type of `h`."""
    linear, _, norm = body
    assert isinstance(linear, nn.Linear)
    assert isinstance(norm, nn.LayerNorm)
    heard: Tensor = _Message.apply(h, weights, epsilon, linear.weight, linear.bias, norm.weight, norm.bias, norm, mask)
    return heard


class _Nodes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, virtual: int, mask: Tensor) -> Tensor:
        x, bias = x.to(mask.dtype), bias.to(mask.dtype)
        real = product(x, weight.to(mask.dtype), bias, "relu")
        ctx.save_for_backward(x, bias, real, mask)
        return torch.cat([real, bias.relu().expand(len(x), virtual, -1)], dim=1).mul_(mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, bias, real, mask = ctx.saved_tensors
        grad = grad * mask
        by_virtual = grad[:, x.shape[1] :].sum((0, 1), dtype=torch.float32) * (bias > 0)
        by_real = above(grad[:, : x.shape[1]], real, 0).flatten(0, 1)
        return None, _by_weight(by_real, x), by_real.sum(0, dtype=torch.float32) + by_virtual, None, None


class _Message(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        weights: Tensor,
        epsilon: Tensor,
        weight: Tensor,
        bias: Tensor,
        scale: Tensor,
        shift: Tensor,
        norm: nn.LayerNorm,
        mask: Tensor,
    ) -> Tensor:
        weights = (weights + epsilon * torch.eye(*weights.shape)).to(h.dtype)
        weight = weight.to(h.dtype)
        mixed = torch.bmm(weights.expand(len(h), -1, -1), h)
        active = product(mixed, weight, bias.to(h.dtype), "relu")
        normed, mean, spread = torch.native_layer_norm(active, norm.normalized_shape, scale, shift, norm.eps)
        ctx.save_for_backward(h, weights, mixed, weight, active, mean, spread, scale, shift, mask)
        ctx.shape = norm.normalized_shape
        return normed.mul_(mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, weights, mixed, weight, active, mean, spread, scale, shift, mask = ctx.saved_tensors
        by_active, by_scale, by_shift = torch.ops.aten.native_layer_norm_backward(
            grad * mask, active, ctx.shape, mean, spread, scale, shift, [True, True, True]
        )
        above.grad_input(by_active, active, 0, grad_input=by_active)
        rows = by_active.flatten(0, 1)
        by_mixed = product(by_active, weight.T) if h.dtype == torch.float32 else by_active @ weight
        by_epsilon = torch.linalg.vecdot(by_mixed, h[:, : len(weights)]).sum(dtype=torch.float32)
        by_h = torch.bmm(weights.mT.expand(len(h), -1, -1), by_mixed)
        by_bias = rows.sum(0, dtype=torch.float32)
        return by_h, None, by_epsilon, _by_weight(rows, mixed), by_bias, by_scale, by_shift, None, None


def _by_weight(grads: Float[Tensor, "rows out"], x: Float[Tensor, "batch nodes in"]) -> Float[Tensor, "out in"]:
    """The weight's gradient, in float32 as the weight is."""
    inputs = x.flatten(0, 1)
    if x.dtype == torch.float32:  # else torch gives the product to oneDNN by itself
        return product(grads.T, inputs.T)
    return (grads.T @ inputs).float()
