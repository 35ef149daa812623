"""Frees the weights of blocks that nobody's forward pass reaches, and reads them again when one does."""

from __future__ import annotations

from torch import nn

from ilse.core.errors import UserError
from pipeline.model.architecture import find_blocks
from pipeline.model.load import FrozenModel


def drop_blocks(frozen: FrozenModel) -> None:
    """Frees the weights of the blocks after those that `frozen.passes` run; those that another part shares stay."""
    blocks = find_blocks(frozen.model)
    keep = max(one.blocks_run for one in frozen.passes)
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
    try:
        blocks = find_blocks(frozen.model)
    except UserError:  # nothing was dropped of a model whose blocks are not found
        return
    if any(weight.is_meta for block in blocks[:needed] for weight in block.parameters()):
        frozen.pristine.restore()
        for place, block in enumerate(find_blocks(frozen.again())):
            blocks[place] = block
        frozen.pristine.renew()
