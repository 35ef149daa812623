"""The layers of a model that get low-rank additions, by name."""

from __future__ import annotations

import re
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from ilse.core.errors import UserError, did_you_mean
from ilse.finetune.config import Layers
from pipeline.model.architecture import find_blocks

ATTENTION = re.compile("attn|attention", re.IGNORECASE)
LINEAR = (nn.Linear, Conv1D)
"""GPT-2 writes its linear layers as convolutions of width 1."""


def target_layers(model: Any, targets: Layers | list[str]) -> list[str]:
    """Names of layers, from their block on (`self_attn.q_proj`), for peft's `target_modules`.

    Raises `UserError` for a name that no linear layer ends in, and for a model without such layers.
    """
    names = linear_layers(find_blocks(model))
    if targets == "all-linear":
        return names
    if targets == "attention":
        return _attention(names, model.config.model_type)
    assert isinstance(targets, list)
    for target in targets:
        if not any(_ends_in(name, target) for name in names):
            raise _unknown(target, names)
    return [name for name in names if any(_ends_in(name, target) for target in targets)]


def linear_layers(blocks: nn.ModuleList) -> list[str]:
    """Names of all linear layers inside the blocks, each once, in the model's order."""
    found = (name for block in blocks for name, module in block.named_modules() if isinstance(module, LINEAR))
    return list(dict.fromkeys(found))


def _attention(names: list[str], architecture: str) -> list[str]:
    found = [name for name in names if ATTENTION.search(name)]
    if not found:
        raise UserError(
            f"model architecture '{architecture}'",
            expected="linear layers of attention",
            found=f"none among {', '.join(names)}",
            next_step="set lora.targets to all-linear, or to a list of these names",
        )
    return found


def _ends_in(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _unknown(target: str, names: list[str]) -> UserError:
    last = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    return UserError(
        "parameter lora.targets",
        expected=f"names of linear layers: {', '.join(names)}",
        found=target,
        next_step=did_you_mean(target, [*last, *names], "choose among these names, or set it to attention"),
    )
