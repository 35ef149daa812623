"""What differs from one model architecture to the next, read off the model itself wherever it can be."""

from __future__ import annotations

import inspect
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

from ilse.errors import UserError

# These derive positions from the padding by themselves, and count them from another start.
OWN_POSITIONS = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "roberta-prelayernorm", "longformer"}


def text_part(model: Any) -> Any:
    """The part of a model that reads text: an encoder-decoder's encoder, the language model beside a vision tower."""
    if model.config.is_encoder_decoder:
        return model.get_encoder()
    if model.config.get_text_config() is not model.config:
        return model.get_decoder()
    return model


def depth(config: Any) -> int:
    """How many blocks the configuration names."""
    return int(config.get_text_config().num_hidden_layers)


def width(config: Any) -> int:
    """Numbers of a token's state."""
    return int(config.get_text_config().hidden_size)


def window(config: Any) -> int:
    """Longest text in tokens; without a limit in the configuration, the largest 32-bit number."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not positions or positions < 0:
        return 2**31 - 1
    # RoBERTa and its like count positions from behind their padding's number.
    unused = config.pad_token_id + 1 if config.model_type in OWN_POSITIONS else 0
    return int(positions) - unused


def find_blocks(model: Any) -> nn.ModuleList:
    """The list of the model's blocks: the outermost with as many entries as its configuration has layers.

    Raises `UserError` where there is none, or more than one.
    """
    blocks = depth(model.config)
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == blocks]
    outermost = [m for m in lists if not any(m is not other and m in set(other.modules()) for other in lists)]
    if len(outermost) != 1:
        raise unknown(model.config.model_type, f"{len(outermost)} lists of {blocks} blocks")
    return outermost[0]


def accepts(model: Any, argument: str) -> bool:
    """Whether the model's forward pass takes this argument."""
    return argument in inspect.signature(model.forward).parameters


def model_inputs(
    model: Any, ids: Int[Tensor, "batch tokens"], mask: Int[Tensor, "batch tokens"] | None
) -> dict[str, Any]:
    """Arguments of the forward pass: no cache, and positions that start at the first token under left padding.

    `mask` is 1 for tokens and 0 for padding; None for a model that does without, under right padding.
    """
    inputs: dict[str, Any] = {"input_ids": ids}
    if accepts(model, "use_cache"):
        inputs["use_cache"] = False
    if mask is None:
        return inputs
    inputs["attention_mask"] = mask
    left_padded = not bool(mask[:, 0].all())
    if left_padded and accepts(model, "position_ids") and model.config.model_type not in OWN_POSITIONS:
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return inputs


def unknown(model_type: str, found: str) -> UserError:
    """The error for an architecture that hooks cannot read, or would read wrongly."""
    return UserError(
        f"model architecture '{model_type}'",
        expected="blocks that hooks can read, with the states that output_hidden_states gives",
        found=found,
        next_step="set extract.capture to hidden_states: slower, and it holds all layers at a time",
    )
