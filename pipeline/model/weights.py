"""Frees the weights of blocks that no forward pass reaches, and reads them again when one does."""

from __future__ import annotations

from torch import nn

from pipeline.model.architecture import find_blocks
from pipeline.model.load import FrozenModel


def drop_blocks(frozen: FrozenModel, keep: int) -> None:
    """Frees the weights of all blocks but the first `keep`; those that another part shares stay."""
    blocks = find_blocks(frozen.model)
    behind = {module for block in blocks[keep:] for module in block.modules()}
    ahead = {module for block in blocks[:keep] for module in block.modules()}
    kept = [module for module in frozen.model.modules() if module in ahead or module not in behind]
    shared = {id(weight) for module in kept for weight in module.parameters(recurse=False)}
    for block in blocks[keep:]:
        plain = all(type(weight) is nn.Parameter and id(weight) not in shared for weight in block.parameters())
        if plain:  # quantised weights have types of their own, which do not move
            block.to("meta")


def restore_blocks(frozen: FrozenModel, needed: int) -> None:
    """Reads the model again if one of the first `needed` blocks was dropped for an earlier request."""
    blocks = find_blocks(frozen.model)
    if any(weight.is_meta for block in blocks[:needed] for weight in block.parameters()):
        for place, block in enumerate(find_blocks(frozen.again())):
            blocks[place] = block
