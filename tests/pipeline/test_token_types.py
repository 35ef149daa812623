"""Token types that a tokenizer gives reach the model, and name another cache than the rows without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import AutoModel, BertConfig, GPT2Config, LlamaConfig, PreTrainedTokenizerFast, XLNetConfig

from ilse.core.errors import UserError
from ilse.finetune.adapter import adapted
from ilse.finetune.batches import in_order
from ilse.finetune.config import LoraParams
from pipeline.capture.early_exit import LeavingReader
from pipeline.capture.reader import Reader, Request
from pipeline.capture.tokens import Tokens, tokenise
from pipeline.config import ModelParams
from pipeline.model.identity import tokenizer_identity
from pipeline.model.load import Compute, FrozenModel, load_model
from tests.pipeline.conftest import SHAPE, SPECIAL, VOCABULARY, build_tokenizer, sentence

BERT = BertConfig(**SHAPE, initializer_range=0.3)
XLNET = XLNetConfig(
    vocab_size=VOCABULARY, d_model=32, n_layer=3, n_head=4, d_inner=64, pad_token_id=1, initializer_range=0.4
)
GPT2 = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=64, **SPECIAL)
TEXTS = [sentence(i) for i in range(12)]


def save(folder: Path, config: Any, template: str) -> Path:
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    plain = build_tokenizer().backend_tokenizer
    plain.post_processor = TemplateProcessing(single=template, special_tokens=[("the", 2), ("of", 3)])
    names = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="[UNK]", pad_token="[PAD]", model_input_names=names
    ).save_pretrained(folder)
    return folder


def load(folder: Path) -> FrozenModel:
    return load_model(ModelParams(path=folder), Compute("float32", "cpu", 1, 1024, False, "hooks"))


def tokens_of(frozen: FrozenModel) -> Tokens:
    return tokenise(frozen.tokenizer, TEXTS, [str(i) for i in range(len(TEXTS))], "{text}", 64)


def alone(frozen: FrozenModel, folder: Path) -> Tensor:
    """Rows [texts, layers, dim] of what transformers makes of each text, all that the tokenizer gives included."""
    model = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        states = [
            model(**frozen.tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
            for text in TEXTS
        ]
    return torch.stack([torch.stack([state[0].mean(0) for state in of_text]) for of_text in states])


@pytest.mark.parametrize(
    ("config", "template", "method"),
    [
        (BERT, "the:1 $A:0 of:0", "hooks"),
        (BERT, "the:0 $A:1 of:1", "hidden_states"),
        (GPT2, "$A:2 of:4", "hooks"),
        (XLNET, "$A:0 of:0 the:2", "hidden_states"),
    ],
)
def test_rows_are_those_of_all_that_the_tokenizer_gives(
    config: Any, template: str, method: str, tmp_path: Path
) -> None:
    frozen = load(save(tmp_path / "model", config, template))
    reader = Reader(frozen, Request((0, 1, 2, 3), ("mean",)), method)
    found = torch.empty(len(TEXTS), 4, 32)
    for positions, rows in reader.read_all(tokens_of(frozen), 128):
        found[positions] = rows.pooled["mean"]
    torch.testing.assert_close(found, alone(frozen, tmp_path / "model"), rtol=1e-4, atol=1e-4)


def test_texts_that_leave_early_have_their_types(tmp_path: Path) -> None:
    frozen = load(save(tmp_path / "model", BERT, "the:1 $A:0 of:0"))
    leaving = LeavingReader(frozen, Reader(frozen, Request((0, 1, 2, 3), ("mean",))))
    assert leaving.works
    found = torch.empty(len(TEXTS), 4, 32)

    def decide(place: int, positions: Tensor, rows: Tensor) -> Tensor:
        found[positions, place] = rows
        return positions % 3 >= place

    leaving.read_all(tokens_of(frozen), 128, decide)
    expected = alone(frozen, tmp_path / "model")
    for text in range(len(TEXTS)):
        seen = min(4, text % 3 + 2)
        torch.testing.assert_close(found[text, :seen], expected[text, :seen], rtol=1e-4, atol=1e-4)


def test_fine_tuning_sees_types(tmp_path: Path) -> None:
    frozen = load(save(tmp_path / "model", BERT, "the:1 $A:0 of:0"))
    (batch,) = in_order(tokens_of(frozen), len(TEXTS), 1)
    with adapted(frozen, LoraParams(), 2, 0) as model, torch.inference_mode():
        expected = model.head(alone(frozen, tmp_path / "model")[batch.positions, -1])
        torch.testing.assert_close(model.eval()(batch), expected, rtol=1e-4, atol=1e-4)


def test_padding_has_the_tokenizer_s_type(tmp_path: Path) -> None:
    frozen = load(save(tmp_path / "model", XLNET, "$A:0 of:0 the:2"))
    frozen.tokenizer._pad_token_type_id = 3  # as that of XLNet has it
    reader = Reader(frozen, Request((3,), ("mean",)), "hidden_states")
    for batch in reader.batches(tokens_of(frozen), 64):
        assert batch.types is not None
        assert not batch.packed
        assert set(batch.types[batch.mask == 0].tolist()) <= {3}
        assert batch.types[batch.mask == 1].sum() == 2 * len(batch.positions)


@pytest.mark.parametrize(
    ("config", "template", "marked"),
    [
        (BERT, "the:1 $A:0", True),
        (BERT, "the:0 $A:0", False),
        (LlamaConfig(**SHAPE, num_key_value_heads=2), "the:1 $A:0", False),  # takes none
    ],
)
def test_only_where_types_count_the_cache_is_another_one(
    config: Any, template: str, marked: bool, tmp_path: Path
) -> None:
    frozen = load(save(tmp_path / "model", config, template))
    assert (frozen.facts.tokenizer != tokenizer_identity(frozen.tokenizer)) == marked
    assert frozen.facts.tokenizer.endswith(", with token types") == marked


def test_types_that_the_model_does_not_know_are_refused(tmp_path: Path) -> None:
    frozen = load(save(tmp_path / "model", BERT, "the:5 $A:0"))
    reader = Reader(frozen, Request((3,), ("mean",)))
    with pytest.raises(UserError, match=r"'bert'(.|\n)*token types below 2(.|\n)*5, from its tokenizer"):
        list(reader.batches(tokens_of(frozen), 64))
