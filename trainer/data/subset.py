"""Smaller training sets: k examples of every label or a share of all, drawn by a seed: the same for every head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from ilse.core.errors import UserError


def draw_shots(y: Int[Tensor, " rows"], k: int, seed: int, labels: Sequence[str]) -> Int[Tensor, " chosen"]:
    """Positions of `k` examples of each label in `y`, in ascending order; labels without an example are left out.

    Raises `UserError` for a label that has fewer than `k`.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    chosen = []
    for label in y.unique():
        places = order[y[order] == label]
        if len(places) < k:
            name = labels[int(label)]
            raise UserError(
                f"parameter train.shots, label '{name}'",
                expected=f"at least {k} training examples",
                found=str(len(places)),
                next_step=f"set train.shots to {len(places)} or fewer, or give more examples of '{name}'",
            )
        chosen.append(places[:k])
    return torch.cat(chosen).sort().values


def draw_share(y: Shaped[Tensor, "rows ..."], share: float, seed: int) -> Int[Tensor, " chosen"]:
    """Positions of `share` of all examples, at least one, in ascending order; a larger share holds the smaller one."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(len(y), generator=generator)[: max(1, round(share * len(y)))].sort().values
