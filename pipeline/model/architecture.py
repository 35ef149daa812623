"""Differences between model architectures, read off the model itself wherever possible."""

from __future__ import annotations

import inspect
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from ilse.core.errors import UserError


def text_part(model: Any) -> Any:
    """The part of a model that reads text: an encoder-decoder's encoder, the language model beside a vision tower."""
    if model.config.is_encoder_decoder:
        return model.get_encoder()
    if model.config.get_text_config() is not model.config:
        return model.get_decoder()
    inside = getattr(model, model.base_model_prefix or "-", None)
    while isinstance(inside, PreTrainedModel):  # DPR: a projection around a BERT, and no token states of its own
        model, inside = inside, getattr(inside, inside.base_model_prefix or "-", None)
    return model


def depth(config: Any) -> int:
    """How many blocks the configuration names."""
    return int(config.get_text_config().num_hidden_layers)


def width(config: Any) -> int:
    """Numbers of a token's state."""
    return int(config.get_text_config().hidden_size)


def vocabulary(model: Any) -> int:
    """Token ids that the model has a row for; where it keeps no table of them, those that its configuration names."""
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:
        table = None
    weight = getattr(table, "weight", None)
    return int(weight.shape[0]) if weight is not None else int(model.config.get_text_config().vocab_size)


def own_padding(config: Any) -> int | None:
    """The id of padding that the configuration names, if it names one."""
    return getattr(config.get_text_config(), "pad_token_id", None)


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


def routed(config: Any) -> bool:
    """Whether the configuration names several experts, to one of which a token goes."""
    named = config.get_text_config().to_dict().items()
    return any("experts" in str(name) and isinstance(value, int) and value > 1 for name, value in named)


def accepts(model: Any, argument: str) -> bool:
    """Whether the model's forward pass takes this argument."""
    return argument in inspect.signature(model.forward).parameters


def model_inputs(
    model: Any,
    ids: Int[Tensor, "batch tokens"],
    mask: Int[Tensor, "batch tokens"] | None,
    types: Int[Tensor, "batch tokens"] | None = None,
) -> dict[str, Any]:
    """Arguments of the forward pass: no cache, and positions that start at the first token under left padding.

    They start at the number that the model itself gives a text's first token: 0, or 2 for RoBERTa and its like.
    `mask` is 1 for tokens and 0 for padding; None for a model that does without, under right padding. `types` are the
    tokens' types, where they are not all 0; a model that takes none gets none.
    """
    inputs: dict[str, Any] = {"input_ids": ids}
    if types is not None and accepts(model, "token_type_ids"):
        inputs["token_type_ids"] = types
    if accepts(model, "use_cache"):
        inputs["use_cache"] = False
    if mask is None:
        return inputs
    inputs["attention_mask"] = mask
    left_padded = not bool(mask[:, 0].all())
    if left_padded and accepts(model, "position_ids"):
        from pipeline.model.positions import first_position  # which builds on this module

        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0) + first_position(model, str(mask.device))
    return inputs


def unknown(model_type: str, found: str) -> UserError:
    """The error for an architecture that hooks cannot read, or would read wrongly."""
    return UserError(
        f"model architecture '{model_type}'",
        expected="blocks that hooks can read, with the states that output_hidden_states gives",
        found=found,
        next_step="set extract.capture to hidden_states: slower, and it holds all layers at a time",
    )
