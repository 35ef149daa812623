"""The basis of a cache's token states, in the artifact of a head that reads them: what a new text needs to become rows.

It stands among the weights, as `basis.mean` and so on, whole as the cache has it: so its checksum is the one that the
capture names.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ilse.core.errors import UserError
from pipeline.store import Basis, CaptureSpec

PREFIX = "basis."


def basis_tensors(basis: Basis | None) -> dict[str, Tensor]:
    """The parts of the basis by name, as stored among the weights; empty without a basis."""
    return {} if basis is None else {PREFIX + name: torch.tensor(value) for name, value in basis.arrays().items()}


def basis_shapes(capture: CaptureSpec) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the basis that a capture's token states are in."""
    assert capture.tokens is not None
    layers, rank, dim = len(capture.tokens.layers), capture.token_width, capture.dim
    shapes = {"mean": (layers, dim), "scale": (layers, dim), "directions": (layers, rank, dim), "share": (layers,)}
    return {PREFIX + name: shape for name, shape in shapes.items()}


def basis_in(weights: Mapping[str, Tensor], capture: CaptureSpec) -> Basis:
    """The capture's own basis, from an artifact's weights. Raises `UserError` for another one."""
    assert capture.tokens is not None
    found = {name.removeprefix(PREFIX): value.numpy() for name, value in weights.items() if name.startswith(PREFIX)}
    basis, wanted = Basis.from_arrays(found), str(capture.tokens.basis)
    if basis.sha256 != wanted:
        expected = f"the basis of its capture's token states, with SHA-256 {wanted[:16]}"
        raise UserError(
            "basis", expected=expected, found=f"one with {basis.sha256[:16]}", next_step="take the head's own"
        )
    return basis
