"""Tiny models with a real tokenizer, built from their configurations, tables of texts, and a bucket to write to."""

from __future__ import annotations

import hashlib
import itertools
import os
import urllib.request
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
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    ModernBertConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    RobertaConfig,
    T5Config,
)

from pipeline.store import Location
from tests import s3
from tests.s3 import KEY, SECRET, TOKEN

_buckets = itertools.count()

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

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
FEW_KEYS = {**SHAPE, "num_key_value_heads": 2, "head_dim": 8}
# Ids inside the small vocabulary, where an architecture's own are not.
SPECIAL = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}

TINY: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SHAPE, num_key_value_heads=2),
    "qwen3": lambda: Qwen3Config(**FEW_KEYS),
    "gemma2": lambda: Gemma2Config(**FEW_KEYS, sliding_window=8),
    "gemma3_text": lambda: Gemma3TextConfig(**FEW_KEYS, sliding_window=8, sliding_window_pattern=2),
    "gpt_neox": lambda: GPTNeoXConfig(**SHAPE),
    "gpt2": lambda: GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=64, **SPECIAL),
    "mistral": lambda: MistralConfig(**FEW_KEYS, sliding_window=8),  # shorter than the texts
    "opt": lambda: OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
    ),
    "mamba": lambda: MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=3, state_size=4),
    "bert": lambda: BertConfig(**SHAPE),
    "roberta": lambda: RobertaConfig(**{**SHAPE, "max_position_embeddings": 66}),
    "modernbert": lambda: ModernBertConfig(
        **SHAPE, **SPECIAL, cls_token_id=2, sep_token_id=3, global_attn_every_n_layers=2, local_attention=8
    ),
    "t5": lambda: T5Config(vocab_size=VOCABULARY, d_model=32, d_ff=64, num_layers=3, num_heads=4, d_kv=8),
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


@pytest.fixture
def llama(tiny_model: Callable[[str], Path]) -> Path:
    return tiny_model("llama")


server = pytest.fixture(scope="module")(s3.server)


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Location:
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    name = f"locations-{next(_buckets)}"
    urllib.request.urlopen(urllib.request.Request(f"{server}/{name}", method="PUT"))
    return Location(f"s3://{name}/some/cache.zarr")
