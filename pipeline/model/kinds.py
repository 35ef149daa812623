"""The transformers class that reads a model's files: that of the whole architecture, or of the part that they hold."""

from __future__ import annotations

import sys
from typing import Any

from transformers import MODEL_MAPPING, AutoModel, PreTrainedModel


def kinds(config: Any) -> list[Any]:
    """Classes to read the files with, the likeliest first: `AutoModel`, and the class that the files were saved from.

    Files may hold a part of an architecture alone, such as T5's encoder or DPR's encoder of contexts; `AutoModel` would
    draw the rest at random. Where both are possible, it reads what a model with a head on top was saved from.
    """
    whole = _whole(config)
    saved = _saved_from(config, whole)
    if saved is None:
        return [AutoModel]
    encoder = saved.__name__ == whole.__name__.removesuffix("Model") + "EncoderModel"
    return [saved] if encoder else [AutoModel, saved]


def outline(kind: Any, config: Any, trusted: bool, **arguments: Any) -> Any:
    """A model of this class as its configuration has it; its weights are drawn, not read."""
    if kind is AutoModel:
        return AutoModel.from_config(config, trust_remote_code=trusted, **arguments)
    return kind._from_config(config, **arguments)


def _whole(config: Any) -> Any:
    """The class behind `AutoModel` for a configuration; None if the library does not know it."""
    found = MODEL_MAPPING.get(type(config), None)
    return found[0] if isinstance(found, tuple | list) else found


def _saved_from(config: Any, whole: Any) -> Any:
    """The class of the same architecture that the configuration names, where it is another one."""
    if whole is None or not config.architectures:
        return None
    found = getattr(sys.modules[whole.__module__], str(config.architectures[0]), None)
    if not isinstance(found, type) or not issubclass(found, PreTrainedModel) or found.config_class is None:
        return None
    return found if isinstance(config, found.config_class) and found is not whole else None
