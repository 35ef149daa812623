"""Linear, ReLU and Dropout, the building block of nonlinear heads; and a linear map for each layer."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

_above = torch.ops.aten.threshold_backward
"""ReLU's gradient in one pass: the first argument where the second is above a threshold, else 0."""

STEPS = 256
"""Values of the random byte that decides one element."""


class Dropout(nn.Module):
    """Inverted dropout whose random bits cost a twentieth of torch's on a CPU.

    torch draws a Bernoulli number for each element, which took a third of a graph head's step. Here one 64-bit draw
    decides eight elements, so each pass drops a multiple of 1/256: the one below or above `rate`, drawn so that on
    average it is `rate` (or 255/256, where that is less). Kept elements are scaled by what the pass drops, which leaves
    the mean exact. On a CPU the draws are those of NumPy's SFC64, four times as fast as torch's Mersenne twister, from
    a seed that torch draws for each pass: torch's state alone decides what comes.
    Identity in eval mode and at rate 0.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """`x` with elements zeroed at random, independently of each other."""
        if not self.training or self.rate == 0:
            return x
        return x * self._mask(x)

    def _mask(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """0 for what a pass drops, and elsewhere what makes up for it."""
        dropped = min(int(STEPS * self.rate + float(torch.rand(()))), STEPS - 1)
        kept = x.new_full((), STEPS / (STEPS - dropped)).expand(x.shape)
        if dropped == 0:
            return kept
        draws = _words(-(-x.numel() // 8), x.device).view(torch.int8)[: x.numel()].view(x.shape)
        # A comparison would make booleans, whose conversion takes longer than all the rest; that of bytes is quick, and
        # exact.
        drawn: Tensor = _above(kept, draws.to(x.dtype), dropped - STEPS // 2 - 1)
        return drawn

    def extra_repr(self) -> str:
        """The rate, for printing."""
        return f"rate={self.rate:.4g}"


def _words(count: int, device: torch.device) -> Int[Tensor, " count"]:
    """Uniform 64-bit numbers."""
    if device.type == "cpu":
        seed = int(torch.empty((), dtype=torch.int64).random_())
        return torch.from_numpy(np.random.SFC64(seed).random_raw(count).view(np.int64))
    # No upper end: torch's default range would leave the sign bit of every word at 0.
    return torch.empty(count, dtype=torch.int64, device=device).random_(-(2**63), None)


def dense_stack(width: int, hidden: int, depth: int, dropout: float) -> nn.Sequential:
    """`depth` × (Linear, ReLU, Dropout), from `width` to `hidden`; the identity at depth 0."""
    modules: list[nn.Module] = []
    for index in range(depth):
        modules += [nn.Linear(hidden if index else width, hidden), nn.ReLU(), Dropout(dropout)]
    return nn.Sequential(*modules)


class LayerLinear(nn.Module):
    """A linear map of its own for every layer, all in one product; each starts as `nn.Linear` does: U(±1/√width)."""

    def __init__(self, layers: int, width: int, out: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(layers, out, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(layers, out).uniform_(-bound, bound))

    def forward(self, x: Float[Tensor, "batch layers width"]) -> Float[Tensor, "batch layers out"]:
        """W_ℓ z_ℓ + b_ℓ."""
        return torch.baddbmm(self.bias[:, None], x.transpose(0, 1), self.weight.mT).transpose(0, 1)
