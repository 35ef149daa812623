"""Tolerance between our states and Hugging Face's: rounding and nothing more."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# How far a token's state may be from what Hugging Face gives, as a part of its norm: of a text alone, which is the same
# computation and normally equal to the last bit.
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2, "float16": 1e-2}
# And of a text in a batch, where another shape rounds in other places: SmolLM2-135M in bfloat16 differs by 0.018.
BATCHED = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
# And of compiled blocks: fused operations round in other places too. Measured on SmolLM2-135M in bfloat16: 0.02, a
# layer from the next 0.17 at least.
COMPILED = {"float32": 1e-3, "bfloat16": 1e-1, "float16": 1e-1}
# Which part of a text's tokens has to be within it: in low precision a few go other ways.
WITHIN = {"float32": 1.0, "bfloat16": 0.5, "float16": 0.5}
# And in a mixture of experts, where rounding sends a token to another expert now and then.
WITHIN_ROUTED = {"float32": 0.9, "bfloat16": 0.5, "float16": 0.5}


def error_of(
    found: Float[Tensor, "layers tokens dim"],
    expected: Float[Tensor, "layers tokens dim"],
    compute_type: str,
    routed: bool,
) -> float:
    """How far the tokens' states are from those expected, as a part of their norms; in the worst layer.

    Of a model that is `routed`, a mixture of experts, and in low precision it is how far most of them are.
    """
    errors = (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-12)
    part = (WITHIN_ROUTED if routed else WITHIN)[compute_type]
    worst = errors.quantile(part, dim=1, interpolation="lower").max()
    return float(worst.nan_to_num(torch.inf))
