"""Capture on the demo's own model and headlines: SmolLM2-135M from its GGUF file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.capture.reader import Reader, Request
from pipeline.capture.tokens import tokenise
from pipeline.config import ModelParams
from pipeline.model.load import Compute, FrozenModel, load_model
from pipeline.stages.fetch import FetchParams, fetch

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


EVERY = tuple(range(31))


def load(gguf: Path, compute_type: str, compiled: bool = False) -> FrozenModel:
    return load_model(ModelParams(path=gguf), Compute(compute_type, "cpu", 2, 64, compiled, "hooks"))


def rows_of(frozen: FrozenModel, packing: bool = True) -> torch.Tensor:
    reader = Reader(frozen, Request(EVERY, ("mean",)))
    assert not reader.needs_mask
    assert reader.packs
    tokens = tokenise(frozen.tokenizer, HEADLINES, [str(i) for i in range(len(HEADLINES))], "{text}", 128)
    rows = torch.empty(len(HEADLINES), 31, 576)
    for batch in reader.batches(tokens, 64, packing):
        rows[batch.positions] = reader.read(batch).pooled["mean"]
    return rows


@pytest.fixture(scope="module")
def whole(gguf: Path) -> FrozenModel:
    """The model in float32; reading a GGUF file takes seconds."""
    return load(gguf, "float32")


@pytest.fixture(scope="module")
def rows(whole: FrozenModel) -> torch.Tensor:
    return rows_of(whole)


def alone(frozen: FrozenModel, text: str) -> torch.Tensor:
    """Mean-pooled rows [layers, dim] of one text without batch, padding or hooks."""
    ids = torch.tensor([frozen.tokenizer(text)["input_ids"]])
    with torch.inference_mode():
        states = frozen.model(input_ids=ids, output_hidden_states=True).hidden_states
    return torch.stack([state[0].float().mean(0) for state in states])


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest of the layers' errors. Single coordinates reach thousands in the middle layers: relative to norms."""
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


def test_the_demo_model_is_captured_as_hugging_face_defines_it(
    gguf: Path, whole: FrozenModel, rows: torch.Tensor
) -> None:
    assert whole.facts.parameters == 134_515_008
    assert whole.facts.bytes == 4 * 134_515_008
    assert (whole.facts.quantised, whole.facts.stored_bytes) == ("GGUF", gguf.stat().st_size)
    assert (len(whole.facts.layers), whole.facts.dim) == (31, 576)
    for row, text in enumerate(HEADLINES):
        assert relative_error(rows[row], alone(whole, text)) < 1e-5
    half = rows_of(load(gguf, "bfloat16"))
    centred, centred_half = rows - rows.mean(0), half - half.mean(0)
    cosine = torch.nn.functional.cosine_similarity(centred, centred_half, dim=-1).mean(0)
    assert cosine.min() > 0.97
    assert rows.abs().max() > 1000, "massive activations are there, and float16 holds them"
    assert rows.abs().max() < 65_504


def test_compiled_blocks_agree_on_the_demo_model(gguf: Path, whole: FrozenModel) -> None:
    # Packed, these texts are a single row, and such a batch is run uncompiled.
    rows, compiled = (rows_of(one, packing=False) for one in (whole, load(gguf, "float32", compiled=True)))
    assert not torch.equal(rows, compiled), "the blocks were compiled"
    assert relative_error(compiled, rows) < 1e-4
    rows_of(load(gguf, "bfloat16", compiled=True))  # capture is proven there too, within what bfloat16 allows
