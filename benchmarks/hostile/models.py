"""Model folders and GGUF files, opened by `ilse extract`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.hostile.judge import Case
from benchmarks.hostile.opening import ilse
from benchmarks.hostile.spoiling import (
    CODE,
    DEEP,
    HUGE,
    PICKLE,
    Craft,
    both,
    edited,
    linked_out,
    pipe,
    removed,
    written,
)
from benchmarks.hostile.weights import broken_weights, saved_by_torch

CONFIG, WEIGHTS, TOKENIZER = "model/config.json", "model/model.safetensors", "model/tokenizer.json"
INDEX = "model/model.safetensors.index.json"
EXTRACT = ilse("extract", "--out", "data/other.zarr", "--scratch", "data/other", "--figures", "data/other.json")
Change = Callable[[Any], object]
OWN_CODE = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoTokenizer": "own.Tokenizer"}


def cases() -> Iterator[Case]:
    """All of them."""
    for name, craft in broken_weights(WEIGHTS).items():
        if name not in LEGITIMATE:
            yield Case("model's weights", name, craft, EXTRACT)
    for name, craft in FOLDERS.items():
        yield Case("model folder", name, craft, EXTRACT)
    for name, changes in TOKENIZERS.items():
        yield Case("tokenizer that never ends", name, edited(TOKENIZER, changes), EXTRACT)
    for name, content in GGUF.items():
        yield Case("GGUF file", name, gguf(content), EXTRACT)


def normalised(*steps: Any, times: int = 1) -> Change:
    """A tokenizer with these steps of normalisation, so many times."""
    return lambda t: t.update(normalizer={"type": "Sequence", "normalizers": [*steps] * times})


def replaced_by(pattern: dict[str, str], content: str) -> dict[str, Any]:
    """A step of normalisation."""
    return {"type": "Replace", "pattern": pattern, "content": content}


def around(count: int, ids: int) -> Change:
    """A tokenizer that puts a special token before a text, `count` times, which stands for so many ids."""
    special = {"SpecialToken": {"id": "[UNK]", "type_id": 0}}
    told = {"id": "[UNK]", "ids": [0] * ids, "tokens": ["[UNK]"] * ids}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    post = {"type": "TemplateProcessing", "single": [special] * count + [text], "pair": [text]}
    return lambda t: t.update(post_processor={**post, "special_tokens": {"[UNK]": told}})


def split_by(pattern: str) -> Change:
    """A tokenizer that cuts words by a pattern."""
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return lambda t: t.update(pre_tokenizer=step)


def cut_at(tokens: int) -> Change:
    """A tokenizer with a limit of its own."""
    limit = {"direction": "Right", "max_length": tokens, "strategy": "LongestFirst", "stride": 0}
    return lambda t: t.update(truncation=limit)


def numbered(value: int) -> Change:
    """A tokenizer whose words have ids from there on."""
    return lambda t: t["model"].update(vocab={word: value + i for word, i in t["model"]["vocab"].items()})


TOKENIZERS: dict[str, Change] = {
    "a letter doubled 32 times": normalised(replaced_by({"String": "e"}, "ee"), times=32),
    "a pattern doubled 32 times": normalised(replaced_by({"Regex": "[a-z]"}, "ab"), times=32),
    "a letter replaced by a megabyte": normalised(replaced_by({"String": "e"}, "e" * 2**20)),
    "words put before it 5,000 times": normalised({"type": "Prepend", "prepend": "a" * 1000}, times=5000),
    "bytes as letters 32 times": normalised({"type": "ByteLevel"}, times=32),
    "a repetition in a repetition": split_by(r"(\w+\s?)+$"),
    "a repetition in a repetition, replaced": normalised(replaced_by({"Regex": "(.+)+x"}, "")),
    "200,000 tokens before a text": around(200_000, 1),
    "one token that stands for 200,000": around(1, 200_000),
    "cut at no token": cut_at(0),
    "cut at one token": cut_at(1),
    "ids near 2³²": numbered(2**32 - 100),
    "ids beyond 2³²": numbered(2**33),
    "no word": lambda t: t["model"].update(vocab={}),
}
LEGITIMATE = ("float64", "float16", "whole numbers", "a tensor more")
"""What models do hold: other types, and tensors that no architecture asks for."""


def with_code(**changes: Any) -> Craft:
    """A config that names Python code beside it."""
    return both(edited(CONFIG, lambda c: c.update(changes)), written("model/own.py", CODE.encode()))


def gguf(content: bytes) -> Craft:
    """Such a file as the model."""

    def craft() -> None:
        Path("model.gguf").write_bytes(content)
        params = yaml.safe_load(Path("params.yaml").read_text())
        params["extract"]["model"]["path"] = "model.gguf"
        Path("params.yaml").write_text(yaml.safe_dump(params))

    return craft


def sharded(name: str) -> Craft:
    """Weights that an index says are elsewhere."""

    def craft() -> None:
        Path(WEIGHTS).rename("../outside/model.safetensors")
        torch_names = ["embed_tokens.weight", "norm.weight"]
        index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(torch_names, name)}
        Path(INDEX).write_text(json.dumps(index))

    return craft


FOLDERS: dict[str, Craft] = {
    "an unknown architecture with code": with_code(model_type="own", auto_map=OWN_CODE),
    "a tokenizer with code": both(
        written("model/own.py", CODE.encode()),
        removed(TOKENIZER),
        edited(
            "model/tokenizer_config.json",
            lambda c: c.update(tokenizer_class="OwnTokenizer", auto_map={"AutoTokenizer": ["own.Tokenizer", None]}),
        ),
    ),
    "an architecture that is a path": edited(CONFIG, lambda c: c.update(model_type="../../outside/secret")),
    "no architecture": edited(CONFIG, lambda c: c.pop("model_type")),
    "weights as a pickle alone": both(removed(WEIGHTS), written("model/pytorch_model.bin", saved_by_torch())),
    "weights as a bare pickle alone": both(removed(WEIGHTS), written("model/pytorch_model.bin", PICKLE)),
    "an index of weights outside": sharded("../../outside/model.safetensors"),
    "an index of weights at an absolute place": sharded("/dev/zero"),
    "an index that is a list": both(removed(WEIGHTS), written(INDEX, b"[1]")),
    "an index 200,000 deep": both(removed(WEIGHTS), written(INDEX, DEEP)),
    "an adapter of another model": both(
        removed(WEIGHTS),
        written("model/adapter_config.json", b'{"base_model_name_or_path": "../outside", "peft_type": "LORA"}'),
        written("model/adapter_model.safetensors", (2).to_bytes(8, "little") + b"{}"),
    ),
    "an adapter beside the model": written(
        "model/adapter_config.json", b'{"base_model_name_or_path": "../outside", "peft_type": "LORA"}'
    ),
    "a config 200,000 deep": written(CONFIG, DEEP),
    "a config that is not UTF-8": written(CONFIG, b"\xff\xfe{}"),
    "a config that is a list": written(CONFIG, b"[1]"),
    "no config": removed(CONFIG),
    "rows of 2²⁰ values": edited(CONFIG, lambda c: c.update(hidden_size=2**20)),
    "rows of 10¹² values": edited(CONFIG, lambda c: c.update(hidden_size=HUGE)),
    "10⁹ blocks": edited(CONFIG, lambda c: c.update(num_hidden_layers=10**9)),
    "a vocabulary of 10¹²": edited(CONFIG, lambda c: c.update(vocab_size=HUGE)),
    "-1 blocks": edited(CONFIG, lambda c: c.update(num_hidden_layers=-1)),
    "sizes that are words": edited(CONFIG, lambda c: c.update(hidden_size="many")),
    "sizes that are lists": edited(CONFIG, lambda c: c.update(hidden_size=[1], num_attention_heads={})),
    "no block": edited(CONFIG, lambda c: c.update(num_hidden_layers=0)),
    "half a block": edited(CONFIG, lambda c: c.update(num_hidden_layers=0.5)),
    "true as the number of blocks": edited(CONFIG, lambda c: c.update(num_hidden_layers=True)),
    "hidden states that are a word": edited(CONFIG, lambda c: c.update(output_hidden_states="yes", use_cache=[1])),
    "an unknown quantisation": edited(CONFIG, lambda c: c.update(quantization_config={"quant_method": "os.system"})),
    "a quantisation that is a list": edited(CONFIG, lambda c: c.update(quantization_config=[1])),
    "no tokenizer": both(removed(TOKENIZER), removed("model/tokenizer_config.json")),
    "a tokenizer of the wrong kind": written(TOKENIZER, b'{"version": "1.0", "model": {"type": "os.system"}}'),
    "a tokenizer that is a pickle": written(TOKENIZER, PICKLE),
    "a tokenizer 200,000 deep": written(TOKENIZER, b'{"a":' * 200_000),
    "a tokenizer config 200,000 deep": written("model/tokenizer_config.json", DEEP),
    "a config that leads out of it": linked_out(CONFIG, content=True),
    "a tokenizer that leads out of it": linked_out(TOKENIZER, content=True),
    "a pipe beside its files": both(written("model/more.json", b"{}"), pipe("model/more.json")),
}
_MAGIC = b"GGUF" + (3).to_bytes(4, "little")
GGUF: dict[str, bytes] = {
    "no byte": b"",
    "another magic": b"GGML" + bytes(60),
    "the magic alone": b"GGUF",
    "an unknown version": b"GGUF" + (99).to_bytes(4, "little") + bytes(60),
    "2⁶⁰ tensors": _MAGIC + (2**60).to_bytes(8, "little") + (0).to_bytes(8, "little"),
    "2⁶⁰ keys": _MAGIC + (0).to_bytes(8, "little") + (2**60).to_bytes(8, "little"),
    "a key of 2⁶⁰ bytes": _MAGIC
    + (0).to_bytes(8, "little")
    + (1).to_bytes(8, "little")
    + (2**60).to_bytes(8, "little"),
    "no keys": _MAGIC + bytes(16),
    "a pickle": PICKLE,
    "what torch.save writes": saved_by_torch(),
}
