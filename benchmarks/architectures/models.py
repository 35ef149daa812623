"""Tiny models on disk as users have them: a configuration, random weights and a tokenizer."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from benchmarks.architectures.specs import VOCABULARY, Settings


@dataclass(frozen=True)
class Model:
    """An architecture by its name in transformers, what its configuration says, and the class that was saved."""

    architecture: str
    settings: Settings
    saved: str = ""


def build(model: Model, folder: Path) -> None:
    """Writes it; weights are drawn by the authors' own code, from one seed."""
    config = CONFIG_MAPPING[model.architecture](**model.settings)
    kind = getattr(transformers, model.saved) if model.saved else None
    if kind is None and not config.architectures:
        config.architectures = []
    torch.manual_seed(0)
    with contextlib.redirect_stderr(io.StringIO()):
        made = AutoModel.from_config(config) if kind is None else kind(config)
        made.save_pretrained(folder)
        tokenizer("<unk>" if getattr(config, "pad_token_id", None) == 1 else "<pad>").save_pretrained(folder)


def reference(folder: Path) -> Any:
    """The part that reads text, read by transformers alone."""
    config = AutoConfig.from_pretrained(folder)
    saved = getattr(transformers, (config.architectures or [""])[0], AutoModel)
    with contextlib.redirect_stderr(io.StringIO()):
        model = saved.from_pretrained(folder).eval()
    if config.is_encoder_decoder and not type(model).__name__.endswith("EncoderModel"):
        model = model.get_encoder()
    elif hasattr(config, "text_config"):
        model = model.get_decoder() if not hasattr(model, "text_model") else model.text_model
    return model


def tokenizer(pad: str) -> PreTrainedTokenizerFast:
    """A word a token, between <s> and </s>."""
    special = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    words = [f"w{i}" for i in range(VOCABULARY - len(special))]
    ids = {token: i for i, token in enumerate([*special, *words])}
    made = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(token, ids[token]) for token in ("<s>", "</s>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", pad_token=pad, bos_token="<s>", eos_token="</s>"
    )
