"""Token states in a basis, where the model runs: a few values per token leave the device instead of the whole state."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from pipeline.store import Basis
from pipeline.store.basis import LIMIT


class Projection:
    """`Basis.project`, layer by layer on a device; the slow twin in NumPy is the basis' own.

    Parameters
    ----------
    basis
        Its layers are those whose token states are asked for, in their order.
    device
        Where the model's states are.
    """

    def __init__(self, basis: Basis, device: torch.device | str) -> None:
        self.width = basis.rank
        self._mean, self._scale, self._directions = (
            torch.tensor(values, device=device) for values in (basis.mean, basis.scale, basis.directions)
        )

    def __call__(self, place: int, states: Float[Tensor, "tokens dim"]) -> Float32[Tensor, "tokens rank"]:
        """The states of one layer, by its place in the basis. What is not finite gives NaN, which no cache takes."""
        states = states.float()
        values = (states - self._mean[place]).div_(self._scale[place]).clamp_(-LIMIT, LIMIT)
        values.masked_fill_(~torch.isfinite(states), torch.nan)
        return values @ self._directions[place].T
