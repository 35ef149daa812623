"""Heads that read tokens in another runtime: texts of any length, padded on any side, give what ragged ones give."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxscript", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

from ilse.core.errors import UserError
from pipeline.store import Basis, TokenSpec
from tests.trainer.conftest import DIM, LAYERS
from tests.trainer.test_artifact import FACTS, SHAPE
from tests.trainer.test_export import one_registry
from trainer.artifacts.artifact import TrainedHead, save_head
from trainer.data.poolings import TOKENS
from trainer.export import ExportedHead, export_head, load_exported
from trainer.export.formats import FORMATS
from trainer.export.program import TokenProgram
from trainer.heads import TokenHead, build_head
from trainer.objectives import restore
from trainer.rows.padded import Padded
from trainer.rows.ragged import Tokens, joined
from trainer.treatment import Treatment, TreatmentOptions

__all__ = ["one_registry"]  # a fixture

RANK = 5
KEPT = (0, 2, 3)
"""Layers whose token states the cache keeps."""
Texts = list[np.ndarray[Any, np.dtype[np.float32]]]


def basis() -> Basis:
    generator = np.random.default_rng(0)
    directions = np.linalg.qr(generator.normal(size=(len(KEPT), DIM, DIM)))[0][:, :RANK]
    mean, scale = generator.normal(size=(2, len(KEPT), DIM))
    parts = 100 * mean, 50 * np.exp(scale), directions, np.full(len(KEPT), 0.8)
    return Basis(*(part.astype(np.float32) for part in parts))


def token_head(
    name: str = "weighted", ranked: bool = True, objective: str = "multi_class", pairs: bool = False, **tokens: Any
) -> TrainedHead:
    """A head of drawn weights, as trained on a cache that keeps the tokens of some layers, in a basis or whole."""
    torch.manual_seed(0)
    own = basis() if ranked else None
    spec = TokenSpec(tuple(LAYERS[layer] for layer in KEPT), RANK if ranked else None, "float32", own and own.sha256)
    facts = {"kind": objective, **({"width": 5, "loss": "mse", "low": 0.0, "high": 5.0} if "sim" in objective else {})}
    labels = [] if "sim" in objective else FACTS.labels
    width = RANK if ranked else DIM
    shape = SHAPE | {"dim": width, "out": restore(facts, tuple(labels)).out}
    options = {"best": {"layer": 2}, "layer": {"layer": 2}, "concat": {"rows": 2}}.get(name, {})
    reads = {"rank": 4, "layers": list(KEPT), **tokens}
    head = build_head(name, options, **shape, tokens=reads, pair_width=6 if pairs else None)
    treatment = Treatment(TreatmentOptions(), len(head.layers_read), width)
    treatment.fit(1 + 2 * torch.randn(50, len(head.layers_read), width))
    capture = replace(FACTS.capture, token_states=spec)
    known = replace(FACTS, objective=facts, labels=labels, capture=capture, pooling=TOKENS)
    return TrainedHead(treatment, head, known, own).eval()


def some_texts(trained: TrainedHead, lengths: list[int]) -> Texts:
    """States as the model gives them, of the layers that the head reads."""
    generator = np.random.default_rng(len(lengths))
    layers = len(trained.head.layers_read)
    return [100 * generator.normal(size=(length, layers, DIM)).astype(np.float32) for length in lengths]


def padded(texts: Texts, left: bool, filling: float, more: int = 0) -> tuple[np.ndarray[Any, Any], ...]:
    """[texts, tokens, layers, dim] and their mask."""
    places = max(map(len, texts)) + more
    values = np.full((len(texts), places, *texts[0].shape[1:]), filling, np.float32)
    mask = np.zeros(values.shape[:2], bool)
    for row, text in enumerate(texts):
        own = slice(places - len(text), None) if left else slice(len(text))
        values[row, own], mask[row, own] = text, True
    return values, mask


@torch.inference_mode()
def ragged(trained: TrainedHead, texts: Texts) -> np.ndarray[Any, Any]:
    """What the head itself says of the tokens as the cache holds them, which `Basis.project` makes."""
    values = [one.copy() for one in texts]
    if trained.basis is not None:
        own = trained.basis.at([KEPT.index(layer) for layer in trained.head.layers_read])
        values = [own.project(one) for one in texts]
    x = joined([Tokens(torch.from_numpy(one), torch.tensor([len(one)])) for one in values])
    outputs: torch.Tensor = trained(x)
    return outputs.numpy()


def assert_same(trained: TrainedHead, program: ExportedHead, name: str = "logits") -> None:
    for lengths in ([3], [1, 1], [4, 1, 9, 2], [*range(1, 30)]):
        texts = some_texts(trained, lengths)
        for left, filling, more in ((False, 0.0, 0), (True, np.nan, 2), (False, np.inf, 7)):
            found = program(*padded(texts, left, filling, more))
            np.testing.assert_allclose(found[name], ragged(trained, texts), atol=1e-4, rtol=1e-4)
            alone = [program(*padded([text], left, filling))[name] for text in texts[:4]]
            np.testing.assert_allclose(np.concatenate(alone), found[name][:4], atol=1e-4, rtol=1e-4)


def described(program: TokenProgram) -> dict[str, Any]:
    names = {name: {"name": name, "shape": list(shape)} for name, shape in program.inputs.items()}
    more = {"outputs": program.names, "layer_names": [], "pooling": TOKENS}
    return {"input": names["tokens"], "mask": names["mask"], **more}


@pytest.mark.parametrize("name", ["last", "best", "concat", "attention", "cayley", "exits", "gated"])
def test_heads_behind_a_reader_give_the_same_for_texts_of_any_lengths(name: str, tmp_path: Path) -> None:
    """Both kinds of file from one trace, which takes the time."""
    trained = token_head(name)
    program = TokenProgram(trained)
    traced = program.traced()
    for kind in FORMATS.values():
        kind.write(traced, program, tmp_path / kind.file)
        assert_same(trained, ExportedHead(described(program), kind.open(tmp_path / kind.file)))


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize(
    "tokens",
    [
        {"ranked": False},
        {"pool": "attention", "queries": 3},
        {"pool": "mean", "activation": "gelu"},
        {"pool": "max", "activation": "none", "layers": [0, 3]},
    ],
)
def test_every_reader_is_exported(tokens: dict[str, Any], to: Any, tmp_path: Path) -> None:
    trained = token_head(**tokens)
    save_head(tmp_path / "head", trained)
    export_head(tmp_path / "head", tmp_path / "out", to)
    assert_same(trained, load_exported(tmp_path / "out"))


@pytest.mark.parametrize("to", FORMATS)
def test_pairs_and_vectors(to: Any, tmp_path: Path) -> None:
    trained = token_head(pairs=True)
    save_head(tmp_path / "pairs", trained)
    told = export_head(tmp_path / "pairs", tmp_path / "out", to)
    assert told["input"]["shape"] == ["examples", 2, "tokens", len(KEPT), DIM]
    texts = some_texts(trained, [4, 1, 9, 2, 3, 3])
    values, mask = padded(texts, True, np.nan)
    found = load_exported(tmp_path / "out")(values.reshape(3, 2, *values.shape[1:]), mask.reshape(3, 2, -1))
    np.testing.assert_allclose(found["logits"], ragged(trained, texts), atol=1e-4, rtol=1e-4)
    trained = token_head(objective="similarity")
    save_head(tmp_path / "vectors", trained)
    export_head(tmp_path / "vectors", tmp_path / "out", to)
    assert_same(trained, load_exported(tmp_path / "out"), "vectors")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    save_head(folder / "head", token_head())
    export_head(folder / "head", folder / "onnx", "onnx")
    return folder


def test_the_description_says_what_goes_in(exported: Path) -> None:
    import onnx

    told = json.loads((exported / "onnx" / "head.json").read_text())
    assert told["format_version"] == 2
    assert told["input"] == {
        "name": "tokens", "shape": ["examples", "tokens", len(KEPT), DIM], "type": "float32"
    }  # fmt: skip
    assert told["mask"] == {"name": "mask", "shape": ["examples", "tokens"], "type": "bool"}
    assert told["outputs"] == {"logits": ["examples", 3], "probabilities": ["examples", 3]}
    assert (told["pooling"], told["layers_read"]) == (TOKENS, list(KEPT))
    graph = onnx.load(exported / "onnx" / "head.onnx").graph
    axes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert axes == {"tokens": told["input"]["shape"], "mask": told["mask"]["shape"], **told["outputs"]}


def test_what_does_not_fit_is_refused(exported: Path) -> None:
    program = load_exported(exported / "onnx")
    values, mask = padded(some_texts(token_head(), [3, 2]), False, 0.0)
    for given in (values[:, :, :2], values[0], values[:0]):
        with pytest.raises(UserError, match=r"tokens of shape \[examples, tokens, 3, 8\](.|\n)*states of the tokens"):
            program(given, mask)
    with pytest.raises(UserError, match=r"a mask of shape \[2, 3\](.|\n)*found: +none"):
        program(values)
    with pytest.raises(UserError, match=r"found: +\[2, 2\]"):
        program(values, mask[:, :2])
    with pytest.raises(UserError, match="a text without a single one"):
        program(values, mask & (np.arange(2) < 1)[:, None])


def test_a_head_without_its_basis_is_refused(tmp_path: Path) -> None:
    trained = token_head()
    trained.basis = None
    save_head(tmp_path / "head", trained)
    with pytest.raises(UserError, match=r"export to onnx(.|\n)*carries the basis(.|\n)*train the head again"):
        export_head(tmp_path / "head", tmp_path / "out", "onnx")


@pytest.mark.parametrize("pool", ["max+mean", "attention"])
def test_padding_leaves_no_trace_to_the_last_bit(pool: str) -> None:
    """Whatever stands there; only places more or fewer may block sums in another way."""
    head = token_head(ranked=False, pool=pool).head
    assert isinstance(head, TokenHead)
    values, mask = padded(some_texts(token_head(), [4, 1, 9]), False, 0.0, 3)
    zeros, other = (
        Padded.of(torch.from_numpy(np.where(mask[..., None, None], values, np.float32(filling))), torch.tensor(mask))
        for filling in (0, np.nan)
    )
    with torch.inference_mode():
        assert torch.equal(head.pooled(zeros), head.pooled(other))
