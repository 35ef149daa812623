"""A tiny random model with a real tokenizer, and any number of made-up texts, for the benchmarks."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ilse.core.tables import TEXT, TEXT_ID

WORDS = ("tiny", "the", "of", "market", "film", "game", "vote", "wins", "falls", "rises", "new", "law", "cup")
ROW_GROUP = 8_192


def tiny_model(folder: Path, layers: int = 2, dim: int = 32) -> Path:
    """A Llama of random weights in Hugging Face's layout."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModel, LlamaConfig, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=dim,
        intermediate_size=2 * dim,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    AutoModel.from_config(config).save_pretrained(folder)
    vocabulary = {word: i for i, word in enumerate(["[UNK]", "[PAD]", *WORDS, *"0123456789"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    return folder


def tiny_texts(count: int, out: Path, seed: int = 0) -> Path:
    """A texts.parquet of `count` distinct made-up texts, written row group by row group."""
    draw = random.Random(seed)
    schema = pa.schema([(TEXT_ID, pa.string()), (TEXT, pa.string())])
    with pq.ParquetWriter(out, schema) as writer:
        for start in range(0, count, ROW_GROUP):
            numbers = range(start, min(count, start + ROW_GROUP))
            texts = [" ".join([*draw.choices(WORDS, k=draw.randint(2, 8)), *str(number)]) for number in numbers]
            ids = [hashlib.sha256(text.encode()).hexdigest()[:32] for text in texts]
            writer.write_table(pa.table([ids, texts], schema=schema))
    return out
