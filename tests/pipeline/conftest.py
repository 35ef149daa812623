"""Tiny models with a real tokenizer, built from their configurations, and tables of texts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    AutoModel,
    BertConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

WORDS = [
    "the",
    "of",
    "market",
    "film",
    "game",
    "vote",
    "phone",
    "wins",
    "falls",
    "rises",
    "new",
    "minister",
    "club",
    "star",
    "profit",
    "chip",
    "law",
    "song",
    "cup",
]
VOCABULARY = 64

TINY: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    ),
    "gpt_neox": lambda: GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
    ),
    "gpt2": lambda: GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "bert": lambda: BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
    ),
}


def sentence(number: int) -> str:
    """A sentence of 1 to 12 words that follows from its number."""
    digest = hashlib.sha256(str(number).encode()).digest()
    return " ".join(WORDS[byte % len(WORDS)] for byte in digest[: 1 + digest[31] % 12])


def build_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = ["[UNK]", "[PAD]", *WORDS, *"0123456789"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny random model of the named architecture, as Hugging Face lays it out."""
    root = tmp_path_factory.mktemp("models")

    def build(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            torch.manual_seed(0)
            AutoModel.from_config(TINY[name]()).save_pretrained(folder)
            build_tokenizer().save_pretrained(folder)
        return folder

    return build


@pytest.fixture
def texts_table(tmp_path: Path) -> Callable[..., Path]:
    """A texts.parquet of distinct sentences."""

    def build(count: int, texts: list[str] | None = None) -> Path:
        distinct = texts or [f"{sentence(i)} {' '.join(str(i))}" for i in range(count)]
        ids = [hashlib.sha256(text.encode()).hexdigest()[:32] for text in distinct]
        path = tmp_path / "texts.parquet"
        pl.DataFrame({"text_id": ids, "text": distinct}).write_parquet(path)
        return path

    return build
