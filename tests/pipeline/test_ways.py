"""A text's rows are its own, whatever stands beside it: models that feel padding, neighbours or what was read before.

Each of these was once batched in a way that changed its rows, by hundredths to more than their norm.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModel,
    BertConfig,
    BigBirdConfig,
    FNetConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    LongformerConfig,
    NystromformerConfig,
    Phi3Config,
)

from ilse.core.errors import UserError
from pipeline.capture.reader import Reader, Request
from pipeline.capture.tokens import Tokens
from pipeline.capture.ways import Way
from pipeline.config import ModelParams
from pipeline.model.identity import tokenizer_identity
from pipeline.model.load import Compute, FrozenModel, load_model
from tests.pipeline.conftest import FEW_KEYS, SHAPE, VOCABULARY, build_tokenizer

WINDOW = 96
LONG = {**SHAPE, "max_position_embeddings": WINDOW, "pad_token_id": 1, "initializer_range": 0.3}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 24,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 8.0, 32.0, 64.0],
}
FEELING: dict[str, tuple[Callable[[], Any], list[Way]]] = {
    "fnet": (lambda: FNetConfig(**LONG), [Way.EXACT]),
    "gemma": (lambda: GemmaConfig(**{**FEW_KEYS, **LONG}, use_bidirectional_attention=True), [Way.EXACT]),
    "gemma2": (
        lambda: Gemma2Config(**{**FEW_KEYS, **LONG}, sliding_window=8, use_bidirectional_attention=True),
        [Way.PACKED],
    ),
    "gemma3": (
        lambda: Gemma3TextConfig(**{**FEW_KEYS, **LONG}, sliding_window=8, use_bidirectional_attention=True),
        [Way.MASKED],
    ),
    "longrope": (
        lambda: Phi3Config(
            **LONG,
            num_key_value_heads=2,
            original_max_position_embeddings=24,
            rope_parameters=LONG_ROPE,
            rope_scaling=None,
            bos_token_id=2,
            eos_token_id=3,
        ),
        [Way.PADDED, Way.PACKED],
    ),
    "nystromformer": (
        lambda: NystromformerConfig(**LONG, num_landmarks=8, segment_means_seq_len=8),
        [Way.EXACT] * 2,
    ),
    "bigbird": (
        lambda: BigBirdConfig(**LONG, attention_type="block_sparse", block_size=8, num_random_blocks=1),
        [Way.MASKED, Way.MASKED, Way.EXACT],
    ),
    "longformer": (lambda: LongformerConfig(**LONG, attention_window=[4] * 3), [Way.MASKED]),
    "longformer_wide": (lambda: LongformerConfig(**LONG, attention_window=[12] * 3), [Way.MASKED]),
}
# Their rows were right before, so that their caches are what they were.
PLAIN = {"gemma2", "gemma3"}


def save(folder: Path, config: Any) -> Path:
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def load(folder: Path, compute_type: str = "float32") -> FrozenModel:
    return load_model(ModelParams(path=folder), Compute(compute_type, "cpu", 1, 1024, False, "hooks"))


def tokens_of(lengths: list[int]) -> Tokens:
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(4, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
    return Tokens(ids, [[True] * length for length in lengths], [False] * len(lengths))


def fresh(folder: Path, ids: list[int]) -> Tensor:
    """Rows [layers, dim] of a text that a model reads alone, the first it ever reads."""
    model, row = AutoModel.from_pretrained(folder).eval(), torch.tensor([ids])
    with torch.inference_mode():
        states = model(input_ids=row, attention_mask=torch.ones_like(row), output_hidden_states=True).hidden_states
    return torch.stack([state[0, : len(ids)].mean(0) for state in states])


def read(reader: Reader, tokens: Tokens, batch_tokens: int = 256) -> Tensor:
    rows = torch.empty(len(tokens.ids), 4, 32)
    for positions, found in reader.read_all(tokens, batch_tokens):
        rows[positions] = found.pooled["mean"]
    return rows


@pytest.mark.parametrize("name", list(FEELING))
def test_a_text_s_rows_are_its_own_beside_any_other(name: str, tmp_path: Path) -> None:
    config, ways = FEELING[name]
    folder = save(tmp_path / name, config())
    frozen = load(folder)
    plain = tokenizer_identity(frozen.tokenizer)
    assert frozen.facts.tokenizer in ({plain} if name in PLAIN else {f"{plain}, kept from padding"})
    reader = Reader(frozen, Request((0, 1, 2, 3), ("mean",)))
    assert [zone.way for zone in reader.zones] == ways
    window = reader.zones[-1].longest
    tokens = tokens_of([3, 5, 5, 9, 17, 23, 24, 25, 33, 55, 57, 57, 70, 83, window - 1, window])
    expected = torch.stack([fresh(folder, ids) for ids in tokens.ids])
    for _ in range(2):  # the second time behind texts of all lengths
        found = read(reader, tokens)
        error = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
        assert error.max() < 1e-4
    assert not any(batch.ids.shape[1] > window for batch in reader.batches(tokens, 256))


def test_low_precision_does_not_hide_other_scales(tmp_path: Path) -> None:
    frozen = load(save(tmp_path / "phi", FEELING["longrope"][0]()), "bfloat16")
    zones = Reader(frozen, Request((0, 1, 2, 3), ("mean",))).zones
    assert [zone.longest for zone in zones] == [24, WINDOW]


def test_a_switch_too_long_to_be_tried_parts_texts_that_are_read_alone(tmp_path: Path) -> None:
    """A model of 4,096 tokens behind which positions are scaled otherwise; such texts cost too much at load."""
    rope = {**LONG_ROPE, "original_max_position_embeddings": 4096}
    sizes = {**LONG, "max_position_embeddings": 131072, "bos_token_id": 2, "eos_token_id": 3}
    config = Phi3Config(
        **sizes,
        num_key_value_heads=2,
        original_max_position_embeddings=4096,
        rope_parameters=rope,
        rope_scaling=None,
    )
    reader = Reader(load(save(tmp_path / "phi", config)), Request((0, 1, 2, 3), ("mean",)))
    assert [(zone.longest, zone.way) for zone in reader.zones] == [(4096, Way.PACKED), (131072, Way.ALONE)]
    shapes = [tuple(batch.ids.shape) for batch in reader.batches(tokens_of([4097, 5000, 5000, 10]), 100_000)]
    assert shapes[:3] == [(1, 5000), (1, 5000), (1, 4097)]


def test_scales_that_grow_with_the_longest_text_met_are_taken_back(tmp_path: Path) -> None:
    """Dynamic scaling keeps the longest text's frequencies: a later, shorter one's rows depended on it."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 24}
    config = LlamaConfig(**{**LONG, "max_position_embeddings": 24}, num_key_value_heads=2, rope_parameters=rope)
    frozen = load(save(tmp_path / "llama", config))
    tokens = tokens_of([3, 9, 17, 22, 23, 24])
    found = read(Reader(frozen, Request((0, 1, 2, 3), ("mean",))), tokens)
    expected = torch.stack([fresh(tmp_path / "llama", ids) for ids in tokens.ids])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("window", "longest"), [(77, 77), (35, 35), (64, 64)])
def test_no_row_is_wider_than_the_window(window: int, longest: int, tmp_path: Path) -> None:
    folder = save(tmp_path / "bert", BertConfig(**{**LONG, "max_position_embeddings": window}))
    reader = Reader(load(folder), Request((0, 1, 2, 3), ("mean",)))
    tokens = tokens_of([longest, longest - 1, longest - 2, 4])
    expected = torch.stack([fresh(folder, ids) for ids in tokens.ids])
    torch.testing.assert_close(read(reader, tokens), expected, rtol=0, atol=1e-5)


def test_a_model_that_reads_texts_of_one_length_alone_is_refused_by_name(tmp_path: Path) -> None:
    config = NystromformerConfig(**LONG, num_landmarks=8, segment_means_seq_len=64)
    with pytest.raises(UserError, match=r"'nystromformer'(.|\n)*over token ids alone(.|\n)*RuntimeError"):
        load(save(tmp_path / "nystromformer", config))
