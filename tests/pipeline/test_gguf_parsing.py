"""A GGUF file that is parsed once a load, beside transformers' own three times."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

gguf = pytest.importorskip("gguf", reason="needs the extra 'extract'")
pytest.importorskip("transformers", reason="needs the extra 'extract'")

from pipeline.config import ModelParams  # noqa: E402
from pipeline.model import load  # noqa: E402
from pipeline.model.gguf_parsing import parsed_once  # noqa: E402

DIM, BLOCKS, INNER, HEADS = 32, 2, 64, 4
WORDS = ["<|endoftext|>", *(chr(code) for code in range(33, 127)), "Ġ", "he", "Ġt"]


def write_llama(path: Path, seed: int = 0) -> None:
    """A tiny model as llama.cpp writes them."""
    draw = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(DIM)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, *[1] * (len(WORDS) - 1)])
    writer.add_token_merges(["h e", "Ġ t"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    shapes = {"token_embd": (len(WORDS), DIM), "output_norm": (DIM,)}
    for block in range(BLOCKS):
        shapes |= {f"blk.{block}.{name}": (DIM, DIM) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        shapes |= {f"blk.{block}.{name}": (INNER, DIM) for name in ("ffn_gate", "ffn_up")}
        shapes |= {f"blk.{block}.ffn_down": (DIM, INNER)}
        shapes |= {f"blk.{block}.{name}": (DIM,) for name in ("attn_norm", "ffn_norm")}
    for name, shape in shapes.items():
        values = draw.standard_normal(shape).astype(np.float32)
        if len(shape) == 2 and shape[1] % 32 == 0:
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def loaded(path: Path) -> load.FrozenModel:
    params = ModelParams(path=path)
    return load._load(params, load.stamp(params), "float32", "cpu", False)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The files that were parsed."""
    found: list[Any] = []
    build = gguf.GGUFReader.__init__

    def told(self: Any, path: Any, *rest: Any) -> None:
        found.append(path)
        build(self, path, *rest)

    monkeypatch.setattr(gguf.GGUFReader, "__init__", told)
    return found


def test_the_model_is_the_one_that_transformers_reads_by_itself(
    tmp_path: Path, parsed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_llama(tmp_path / "tiny.gguf")
    ours, once = loaded(tmp_path / "tiny.gguf"), len(parsed)
    monkeypatch.setattr(load, "parsed_once", lambda params: nullcontext())
    theirs = loaded(tmp_path / "tiny.gguf")
    assert once == 1
    assert len(parsed) - once == 3, "else transformers does it by itself, and the module has no use"
    assert ours.facts == theirs.facts
    assert ours.model.config.to_dict() == theirs.model.config.to_dict()
    assert ours.tokenizer("the hat")["input_ids"] == theirs.tokenizer("the hat")["input_ids"]
    weights, same = ours.model.state_dict(), theirs.model.state_dict()
    assert weights.keys() == same.keys()
    assert all(torch.equal(weights[name], same[name]) for name in same)
    assert len({float(weight.sum()) for weight in same.values()}) == len(same), "weights tell tensors apart"


def test_another_file_in_its_place_is_read(tmp_path: Path) -> None:
    first, second = (tmp_path / name for name in ("tiny.gguf", "other.gguf"))
    write_llama(first)
    write_llama(second, seed=1)
    before = loaded(first).model.state_dict()
    second.replace(first)
    after = loaded(first).model.state_dict()
    assert not any(torch.equal(before[name], after[name]) for name in before)


def test_all_is_as_it_was_after_the_block(tmp_path: Path) -> None:
    params, theirs = ModelParams(path=tmp_path / "tiny.gguf"), (gguf.GGUFReader, gguf.get_tensor_name_map)
    with parsed_once(params):
        with parsed_once(params):
            assert gguf.GGUFReader is not theirs[0]
        assert gguf.GGUFReader is not theirs[0]
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == theirs
    with pytest.raises(FileNotFoundError), parsed_once(params):
        gguf.GGUFReader(tmp_path / "tiny.gguf")
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == theirs


def test_a_folder_is_none_of_it(tmp_path: Path) -> None:
    theirs = gguf.GGUFReader
    with parsed_once(ModelParams(path=tmp_path)):
        assert gguf.GGUFReader is theirs
