"""What is loaded, what is said of it, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, BartConfig, ByT5Tokenizer, Gemma3Config, T5Config, dynamic_module_utils

from ilse.core.errors import UserError
from ilse.core.machine.linear import OneDnnLinear, available
from pipeline.capture.reader import Reader, Request
from pipeline.capture.tokens import tokenise
from pipeline.config import ModelParams
from pipeline.model.architecture import find_blocks
from pipeline.model.identity import model_identity
from pipeline.model.load import MODELS, Compute, FrozenModel, load_model
from tests.pipeline.conftest import SHAPE, TINY, VOCABULARY, build_tokenizer

Tiny = Callable[[str], Path]
ROOT = Path(__file__).parents[2]


def load(folder: Path, compute_type: str = "float32", trust: bool = False) -> FrozenModel:
    params = ModelParams(path=folder, trust_remote_code=trust)
    return load_model(params, Compute(compute_type, "cpu", 1, 1024, False, "hooks"))


def save(folder: Path, config: Any) -> Path:
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_the_facts_say_what_the_model_is(tiny_model: Tiny) -> None:
    folder = tiny_model("llama")
    facts = load(folder, "bfloat16").facts
    # Per block: queries and outputs 32×32, keys and values 32×16, three matrices 32×64 of the feed-forward part.
    weights = 3 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    norms = 3 * 2 * 32 + 32
    assert facts.flops_per_token == 2 * weights
    assert facts.parameters == weights + norms + VOCABULARY * 32
    assert facts.bytes == 2 * facts.parameters
    assert facts.stored_bytes == (folder / "model.safetensors").stat().st_size
    assert (facts.architecture, facts.dim, facts.window) == ("llama", 32, 64)
    assert facts.layers == ("embedding", "block 1", "block 2", "final")
    assert (facts.compute_type, facts.device, facts.quantised, facts.compiled) == ("bfloat16", "cpu", "", False)


def states_of(frozen: FrozenModel) -> torch.Tensor:
    return frozen.witness.texts[0].states


def test_weights_drawn_anew_are_another_model(tiny_model: Tiny) -> None:
    """The control: equal by the seed, other rows than the trained model's, and never taken for it."""
    folder = tiny_model("llama")

    def draw(untrained: int | None) -> FrozenModel:
        MODELS.forget()
        params = ModelParams(path=folder, untrained=untrained)
        return load_model(params, Compute("float32", "cpu", 1, 1024, False, "hooks"))

    trained, first, again, other = draw(None), draw(3), draw(3), draw(4)
    assert torch.equal(states_of(first), states_of(again))
    assert not torch.allclose(states_of(first), states_of(other))
    assert not torch.allclose(states_of(first), states_of(trained))
    assert first.facts.identity == trained.facts.identity | {"untrained": "3"}
    assert first.facts.name == f"{folder.name}, untrained"
    assert first.facts.parameters == trained.facts.parameters
    assert not any(weight.requires_grad for weight in first.model.parameters())


@pytest.mark.parametrize("name", list(TINY))
def test_every_architecture_s_layers_and_window_are_known(tiny_model: Tiny, name: str) -> None:
    facts = load(tiny_model(name)).facts
    assert len(facts.layers) == 4
    assert facts.layers[-1] == "final"
    assert facts.dim == 32
    assert facts.window == (2**31 - 1 if name in ("mamba", "t5") else 64)  # RoBERTa: 66 positions, two unused


def test_a_model_is_loaded_once_whatever_the_batches_are(tiny_model: Tiny) -> None:
    params = ModelParams(path=tiny_model("llama"))
    first = load_model(params, Compute("float32", "cpu", 1, 1024, False, "hooks"))
    assert load_model(params, Compute("float32", "cpu", 2, 64, False, "hidden_states")) is first
    assert load_model(params, Compute("bfloat16", "cpu", 1, 1024, False, "hooks")) is not first


@pytest.mark.skipif(not available(), reason="no x86 CPU")
@pytest.mark.parametrize(("capability", "layer"), [("AVX512", OneDnnLinear), ("AVX2", torch.nn.Linear)])
def test_float32_goes_through_onednn_where_that_pays_and_bfloat16_stays(
    tiny_model: Tiny, capability: str, layer: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    MODELS.forget()
    block = find_blocks(load(tiny_model("llama")).model)[0]
    assert type(block.mlp.up_proj) is layer
    block = find_blocks(load(tiny_model("llama"), "bfloat16").model)[0]
    assert type(block.mlp.up_proj) is torch.nn.Linear


def test_of_an_encoder_decoder_the_encoder_is_loaded(tmp_path: Path) -> None:
    config = BartConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        pad_token_id=1,
        bos_token_id=2,
        eos_token_id=3,
        max_position_embeddings=64,
    )
    frozen = load(save(tmp_path / "bart", config))
    assert type(frozen.model).__name__ == "BartEncoder"
    assert len(frozen.facts.layers) == 3
    assert frozen.facts.parameters == sum(p.numel() for p in frozen.model.parameters())
    Reader(frozen, Request((0, 1, 2), ("mean",)))


@pytest.mark.parametrize("blocks", [2, 3])
def test_t5_s_blocks_are_not_mistaken_for_the_lists_inside_them(tmp_path: Path, blocks: int) -> None:
    config = T5Config(vocab_size=VOCABULARY, d_model=32, d_ff=64, num_layers=blocks, num_heads=4, d_kv=8)
    frozen = load(save(tmp_path / "t5", config))
    assert type(find_blocks(frozen.model)[0]).__name__ == "T5Block"
    Reader(frozen, Request(tuple(range(blocks + 1)), ("mean",)))


def test_of_a_model_with_a_vision_tower_the_language_model_is_loaded(tmp_path: Path) -> None:
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = Gemma3Config(
        text_config={**SHAPE, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8},
        vision_config={**vision, "image_size": 28, "patch_size": 14},
    )
    frozen = load(save(tmp_path / "gemma3", config))
    assert frozen.facts.architecture == "gemma3_text"
    assert (frozen.facts.dim, len(frozen.facts.layers)) == (32, 4)
    Reader(frozen, Request((0, 1, 2, 3), ("mean",)))


def test_a_tokenizer_in_python_and_without_padding_reads_texts(tmp_path: Path) -> None:
    folder = save(tmp_path / "t5", T5Config(vocab_size=384, d_model=32, d_ff=64, num_layers=2, num_heads=4, d_kv=8))
    for file in folder.glob("tokenizer*"):
        file.unlink()
    ByT5Tokenizer().save_pretrained(folder)
    frozen = load(folder)
    assert not frozen.tokenizer.is_fast
    frozen.tokenizer.pad_token = None
    tokens = tokenise(frozen.tokenizer, ["film", "a longer film"], ["a", "b"], "{text}", 64)
    reader = Reader(frozen, Request((2,), ("mean_content",)))
    batch = next(reader.batches(tokens, 1024))
    assert reader.read(batch).pooled["mean_content"].isfinite().all()


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="the package is installed")
def test_weights_in_bitsandbytes_ask_for_the_package(tmp_path: Path) -> None:
    folder = save(tmp_path / "llama", TINY["llama"]())
    change_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    with pytest.raises(UserError, match=r"model .*llama(.|\n)*bitsandbytes(.|\n)*not installed(.|\n)*pip install"):
        load(folder)


CODE = """
from pathlib import Path
Path({trace!r}).write_text("it ran")
from transformers import LlamaConfig, LlamaModel

class HomemadeConfig(LlamaConfig):
    model_type = "homemade"

class HomemadeModel(LlamaModel):
    config_class = HomemadeConfig
"""


@pytest.fixture
def homemade(tmp_path: Path) -> tuple[Path, Path]:
    """A folder whose model comes with code of its own, and the file that this code writes when it is imported."""
    folder, trace = save(tmp_path / "homemade", TINY["llama"]()), tmp_path / "trace"
    (folder / "modeling_homemade.py").write_text(CODE.format(trace=str(trace)))
    names = {"AutoConfig": "modeling_homemade.HomemadeConfig", "AutoModel": "modeling_homemade.HomemadeModel"}
    change_config(folder, model_type="homemade", auto_map=names)
    return folder, trace


def test_code_that_comes_with_a_model_is_refused_and_not_run(homemade: tuple[Path, Path]) -> None:
    folder, trace = homemade
    with pytest.raises(UserError, match=r"'homemade', which comes with Python code(.|\n)*trust_remote_code to true"):
        load(folder)
    assert not trace.exists()


def test_code_that_comes_with_a_model_runs_when_it_is_trusted_by_name(
    homemade: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, trace = homemade
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    assert load(folder, trust=True).facts.architecture == "homemade"
    assert trace.exists()


def test_a_known_model_is_read_by_transformers_own_code_and_not_by_what_comes_with_it(
    homemade: tuple[Path, Path],
) -> None:
    folder, trace = homemade
    change_config(folder, model_type="llama")
    assert type(load(folder).model).__module__ == "transformers.models.llama.modeling_llama"
    assert not trace.exists()


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "llama", TINY["llama"]())
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model .*llama(.|\n)*safetensors"):
        load(folder)


def test_code_and_weights_are_part_of_what_a_model_is(homemade: tuple[Path, Path], tiny_model: Tiny) -> None:
    folder, _ = homemade
    change_config(folder, model_type="llama")
    before = load(folder).facts.identity
    (folder / "modeling_homemade.py").write_text("changed")

    assert model_identity(ModelParams(path=folder)) != before
