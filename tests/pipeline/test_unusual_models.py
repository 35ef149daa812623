"""Model folders that are read in an unusual way, or refused by name: windows, parts, ids, settings, tokenizers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, BertConfig, T5Config
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from benchmarks.architectures.campaign import all_models
from benchmarks.architectures.models import build
from benchmarks.architectures.specs import KINDS, WINDOW
from ilse.core.errors import UserError
from pipeline.capture.reader import Reader, Request
from pipeline.capture.tokens import Tokens, tokenise
from pipeline.config import ModelParams
from pipeline.model.architecture import text_part
from pipeline.model.failures import named_failures
from pipeline.model.load import Compute, FrozenModel, load_model
from pipeline.model.positions import UNLIMITED, first_position, window
from pipeline.tokenizer.unknown import Unknown
from tests.pipeline.conftest import SHAPE, WORDS, build_tokenizer
from tests.pipeline.extractions import params_for, run

Tiny = Callable[[str], Path]
SPECS = {name: settings for specs in KINDS.values() for name, settings in specs.items()}


def load(folder: Path) -> FrozenModel:
    return load_model(ModelParams(path=folder), Compute("float32", "cpu", 1, 1024, False, "hooks"))


def write(folder: Path, name: str) -> Path:
    build(next(model for _, known, model in all_models() if known == name), folder)
    return folder


def change_config(folder: Path, **changes: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    AutoModel.from_config(BertConfig(**SHAPE)).save_pretrained(tmp_path / "bert")
    build_tokenizer().save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.mark.parametrize("name", ["roberta", "data2vec-text", "ibert", "xmod", "esm", "luke", "markuplm", "longformer"])
def test_positions_behind_the_padding_s_number_are_seen_and_not_known_by_name(name: str) -> None:
    """Tables of 79 rows of which the first two stand for no token."""
    model = text_part(AutoModel.from_config(CONFIG_MAPPING[name](**SPECS[name])).eval())
    assert (window(model, "cpu"), first_position(model, "cpu")) == (WINDOW, 2)


@pytest.mark.parametrize(
    ("name", "longest"),
    [
        *((name, WINDOW) for name in ("bert", "opt", "bart", "mpt", "llama", "ctrl", "nystromformer", "rwkv")),
        *((name, UNLIMITED) for name in ("t5", "bloom", "xlnet")),
    ],
)
def test_the_window_is_what_configuration_and_tables_bear(name: str, longest: int) -> None:
    model = text_part(AutoModel.from_config(CONFIG_MAPPING[name](**SPECS[name])).eval())
    assert window(model, "cpu") == longest


def test_a_padding_id_beyond_the_embedding_is_not_looked_up(bert: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[MORE]"})
    vocabulary = tokenizer.pad_token_id
    AutoModel.from_config(BertConfig(**{**SHAPE, "vocab_size": vocabulary})).save_pretrained(bert)
    tokenizer.save_pretrained(bert)
    frozen = load(bert)
    assert frozen.tokenizer.pad_token_id == frozen.facts.vocabulary == vocabulary
    reader = Reader(frozen, Request((0, 3), ("mean",)))
    tokens = tokenise(frozen.tokenizer, ["film", "the film wins"], ["a", "b"], "{text}", 8, vocabulary)
    assert reader.pad < vocabulary
    assert all(rows.pooled["mean"].isfinite().all() for _, rows in reader.read_all(tokens, 64))


def test_an_id_beyond_the_embedding_is_refused_with_text_token_and_id(
    bert: Path, texts_table: Callable[..., Path], tmp_path: Path
) -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["zebra"])
    AutoModel.from_config(BertConfig(**{**SHAPE, "vocab_size": len(tokenizer) - 1})).save_pretrained(bert)
    tokenizer.save_pretrained(bert)
    with pytest.raises(UserError, match=r"text 'the zebra'(.|\n)*below 31(.|\n)*'zebra' with the id 31(.|\n)*resize_"):
        run(params_for(bert), texts_table(0, ["the film", "the zebra"]), tmp_path)


def test_padding_that_the_vocabulary_does_not_have_is_named(bert: Path) -> None:
    with pytest.raises(UserError, match=r"pad_token_id in config.json below its vocab_size, 64(.|\n)*64"):
        load(change_config(bert, pad_token_id=64))


@pytest.mark.parametrize(
    "changes",
    [
        {"return_dict": False},
        {"torchscript": True},
        {"output_hidden_states": True},
        {"output_hidden_states": "yes"},
        {"output_attentions": True},
        {"chunk_size_feed_forward": 4},
    ],
    ids=str,
)
def test_settings_of_what_a_forward_pass_hands_back_change_nothing(bert: Path, changes: dict[str, Any]) -> None:
    other = change_config(shutil.copytree(bert, bert.parent / "other"), **changes)
    rows = []
    for folder in (bert, other):
        frozen = load(folder)
        tokens = tokenise(frozen.tokenizer, ["film", "the film wins"], ["a", "b"], "{text}", 8)
        reader = Reader(frozen, Request((0, 1, 2, 3), ("mean",)))
        rows.append(torch.cat([found.pooled["mean"] for _, found in reader.read_all(tokens, 64)]))
    assert torch.equal(*rows)


@pytest.mark.parametrize(
    ("name", "found"), [("vit", "pixel_values"), ("whisper", "input_features"), ("canine", r"8 of \[\(1, 16, 32\)")]
)
def test_a_model_that_reads_no_text_is_refused_by_name(tmp_path: Path, name: str, found: str) -> None:
    with pytest.raises(UserError, match=rf"model architecture '{name}'(.|\n)*{found}"):
        load(write(tmp_path / name, name))


def test_a_model_without_blocks_is_refused(bert: Path) -> None:
    with pytest.raises(UserError, match=r"'bert'(.|\n)*at least one block(.|\n)*0 in its configuration"):
        load(change_config(bert, num_hidden_layers=0))


@pytest.mark.parametrize(("name", "found"), [("squeezebert", "no state of layer 0"), ("reformer", r"\(1, \d+, 64\)")])
def test_blocks_that_hooks_miss_are_refused_with_the_way_out(tmp_path: Path, name: str, found: str) -> None:
    frozen = load(write(tmp_path / name, name))
    request = Request(tuple(range(len(frozen.facts.layers))), ("mean",))
    with pytest.raises(UserError, match=rf"'{name}'(.|\n)*{found}(.|\n)*extract.capture to hidden_states"):
        Reader(frozen, request)
    Reader(frozen, request, "hidden_states")


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory")]
)
def test_lack_of_memory_is_no_fault_of_the_architecture(error: Exception) -> None:
    with pytest.raises(type(error)), named_failures("bert", "none"):
        raise error


@pytest.mark.parametrize("names", [("tokenizer*", "special*"), ("tokenizer.json",)], ids=["all", "the vocabulary"])
@pytest.mark.parametrize("architecture", ["bert", "t5"])
def test_a_folder_without_a_vocabulary_is_refused(tmp_path: Path, architecture: str, names: tuple[str, ...]) -> None:
    """Transformers makes up a tokenizer of special tokens alone."""
    folder = tmp_path / architecture
    config = BertConfig(**SHAPE) if architecture == "bert" else T5Config(vocab_size=128, d_model=32, num_layers=1)
    AutoModel.from_config(config).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    for name in names:
        for file in folder.glob(name):
            file.unlink()
    if (folder / "tokenizer_config.json").exists():
        kind = "BertTokenizer" if architecture == "bert" else "T5Tokenizer"
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    with pytest.raises(UserError, match=rf"tokenizer of model {architecture}(.|\n)*files of a tokenizer"):
        load(folder)


def tokens_of(texts: list[str]) -> Tokens:
    return tokenise(build_tokenizer(), texts, texts, "{text}", 64)


def test_texts_of_which_most_tokens_are_unknown_are_refused_with_their_share() -> None:
    texts = [f"{WORDS[i]} quite another language here now" for i in range(16)]
    with pytest.raises(UserError, match=r"83 % of the texts' tokens are \[UNK\](.|\n)*'the quite another"):
        Unknown(build_tokenizer()).see(texts, tokens_of(texts))


@pytest.mark.parametrize(
    "texts",
    [
        ["an odd one " * 40],  # a single text
        [f"the film wins 1 2 {odd}" for odd in "鿃鿄鿅鿆鿇鿈鿉鿊鿋鿌鿍鿎"],  # a rare character each
        [" ".join(WORDS)] * 20 + ["quite another language"] * 30,
        ["unknown words"] * 8,  # too few tokens to tell
    ],
    ids=["one", "rare", "some", "few"],
)
def test_texts_of_a_tokenizer_s_own_language_are_never_refused(texts: list[str]) -> None:
    Unknown(build_tokenizer()).see(texts, tokens_of(texts))


def test_unknown_tokens_are_counted_over_calls_and_settled_once() -> None:
    odd, known = ["quite another language here"], [" ".join(WORDS)]
    settled, counting = Unknown(build_tokenizer()), Unknown(build_tokenizer())
    for _ in range(8):
        settled.see(known, tokens_of(known))
    for _ in range(64):
        settled.see(odd, tokens_of(odd))
    for _ in range(15):
        counting.see(odd, tokens_of(odd))
    with pytest.raises(UserError, match="100 %"):
        counting.see(odd, tokens_of(odd))


def test_a_tokenizer_without_an_unknown_token_knows_everything() -> None:
    tokenizer = build_tokenizer()
    tokens = tokens_of(["quite another language here"] * 30)
    tokenizer.unk_token = None
    Unknown(tokenizer).see(["quite another language here"] * 30, tokens)


def test_an_extraction_of_unknown_words_is_refused_before_it_computes(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path
) -> None:
    texts = texts_table(0, [f"quite another language {i}" for i in range(40)])
    with pytest.raises(UserError, match=r"tokenizer of the model(.|\n)*\[UNK\]"):
        run(params_for(llama), texts, tmp_path)
    assert not (tmp_path / "cache.zarr").exists()


def test_the_form_of_answers_is_ours_in_every_part_of_a_configuration(tmp_path: Path) -> None:
    folder = write(tmp_path / "t5gemma", "t5gemma")
    change_config(folder, return_dict=False)
    assert AutoConfig.from_pretrained(folder).return_dict is False
    assert load(folder).facts.layers[-1] == "final"
