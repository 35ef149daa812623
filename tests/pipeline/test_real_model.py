"""Capture on the demo's own model and headlines: SmolLM2-135M from its GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.batching import batches, tokenise
from pipeline.capture import mean_pool, pooled_layers, prove_capture
from pipeline.config import ModelParams
from pipeline.fetch import FetchParams, fetch
from pipeline.model import load_model

ROOT = Path(__file__).parent.parent.parent
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
HEADLINES = [
    "Ad sales boost Time Warner profit",
    "Dollar gains on Greenspan speech",
    "Musicians to tackle US red tape",
    "Labour plans maternity pay rise",
    "Claxton hunting first major medal",
    "Digital guru floats sub-$100 PC",
]

pytestmark = [pytest.mark.network, pytest.mark.real_model, pytest.mark.slow]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's file: what `make demo` fetched, or fetched anew."""
    here = ROOT / "data" / "raw" / "model" / MODEL
    if here.is_file():
        return here
    import yaml

    artifact = FetchParams.model_validate(yaml.safe_load((ROOT / "params.yaml").read_text())["fetch"]["model"]).root
    return fetch(artifact, tmp_path_factory.mktemp("model") / "model") / MODEL


def rows_of(frozen: Any) -> torch.Tensor:
    tokens = tokenise(frozen.tokenizer, HEADLINES, [str(i) for i in range(len(HEADLINES))], "{text}", 128)
    rows = torch.empty(len(HEADLINES), 31, 576)
    for batch in batches(tokens.ids, 64, pad=0):
        rows[batch.positions] = pooled_layers(frozen.model, batch.ids, batch.mask)
    return rows


def test_the_demo_model_is_captured_as_hugging_face_defines_it(gguf: Path) -> None:
    frozen = load_model(ModelParams(path=gguf), "float32", "cpu", 2)
    assert frozen.facts.parameters == 134_515_008
    assert (len(frozen.facts.layers), frozen.facts.dim) == (31, 576)
    prove_capture(frozen.model)
    rows = rows_of(frozen)
    for row, text in enumerate(HEADLINES):
        ids = torch.tensor([frozen.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = frozen.model(input_ids=ids, output_hidden_states=True).hidden_states
        alone = torch.stack([mean_pool(state, torch.ones_like(ids))[0] for state in states])
        # Single coordinates reach thousands in the middle layers (massive activations): relative to each layer's norm.
        error = (rows[row] - alone).norm(dim=1) / alone.norm(dim=1)
        assert error.max() < 1e-5
    half = rows_of(load_model(ModelParams(path=gguf), "bfloat16", "cpu", 2))
    centred, centred_half = rows - rows.mean(0), half - half.mean(0)
    cosine = torch.nn.functional.cosine_similarity(centred, centred_half, dim=-1).mean(0)
    assert cosine.min() > 0.97
    assert rows.abs().max() > 1000, "massive activations are there, and float16 holds them"
    assert rows.abs().max() < 65_504
