"""A model's configuration for capture, without options that would change the form of its outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import AutoConfig

from ilse.core.errors import UserError
from pipeline.config import ModelParams
from pipeline.model.origin import find_source, named_errors

# What a forward pass hands back, in what form, and in how many pieces it is computed; never what it computes.
FORMS = {"return_dict": True, "output_hidden_states": False, "output_attentions": False, "chunk_size_feed_forward": 0}


def read_config(params: ModelParams) -> Any:
    """The configuration that transformers reads, with our own choice of what a forward pass hands back.

    Raises `UserError` where there is none, or one that no model can be made of.
    """
    source, arguments = find_source(params)
    with named_errors(params):
        config = AutoConfig.from_pretrained(source, **arguments)
        for part in _parts(config):
            for name, value in FORMS.items():
                setattr(part, name, value)
            _require_padding(params, part)
    return config


def _parts(config: Any) -> Iterator[Any]:
    """The configuration and those inside it, of a text encoder or a decoder for instance."""
    yield config
    for name in getattr(config, "sub_configs", {}):
        part = getattr(config, name, None)
        if part is not None and hasattr(part, "sub_configs"):
            yield from _parts(part)


def _require_padding(params: ModelParams, config: Any) -> None:
    pad, size = getattr(config, "pad_token_id", None), getattr(config, "vocab_size", None)
    if isinstance(pad, int) and isinstance(size, int) and pad >= size:
        raise UserError(
            f"model {params.name}",
            expected=f"a pad_token_id in config.json below its vocab_size, {size:,}",
            found=f"{pad:,}",
            next_step="set pad_token_id in config.json to null, or to the padding that the model was trained with",
        )
