"""A head's parameters as one vector, and their gradients as another.

Clipping and the optimizer go from tensor to tensor: for a head of fifteen that takes longer than their arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FlatParameters:
    """The trainable parameters of a module, which is on its device and stays there while they are trained.

    They become views of the vector. Gradients stay the module's own until they are gathered after a backward pass.

    Attributes
    ----------
    vector
        All of them, [parameters]: what an optimizer is given.
    """

    def __init__(self, module: nn.Module) -> None:
        self._own = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._sizes = [parameter.numel() for parameter in self._own]
        self.vector = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in self._own]))
        for parameter, values in zip(self._own, self.vector.detach().split(self._sizes), strict=True):
            parameter.data = values.view_as(parameter)

    def zero_gradients(self) -> None:
        """Sets all gradients to zero, before a backward pass."""
        for parameter in self._own:
            parameter.grad = None

    def gather_gradients(self, candidates: int, largest: float) -> None:
        """Puts the gradients together, 0 where there is none, and clips them; see `clip`."""
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._own]
        gathered = torch.cat([gradient.flatten() for gradient in found])
        clip([gathered] if candidates == 1 else gathered.split(self._sizes), candidates, largest)
        self.vector.grad = gathered


def clip(gradients: list[Tensor] | tuple[Tensor, ...], candidates: int, largest: float) -> None:
    """Scales each candidate's gradient down to the norm `largest`; 0 leaves all as they are.

    In `gradients` each candidate has an equal share of every tensor, one after the other. By candidate, because a joint
    norm would couple `LayerProbes` that are trained as if alone.
    """
    if largest == 0:
        return
    parts = [gradient.view(candidates, -1) for gradient in gradients]
    norms = torch.stack([torch.linalg.vector_norm(part, dim=1) for part in parts]).norm(dim=0)
    scale = (largest / (norms + 1e-6)).clamp(max=1)  # 1e-6 as torch.nn.utils.clip_grad_norm_ has it
    for part in parts:
        part.mul_(scale[:, None])
