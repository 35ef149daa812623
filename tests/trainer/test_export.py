"""A head in another runtime: the same outputs on any number of rows, and nothing that runs code when it is opened."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import pickle
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ilse.core.files.ownership import EXPORT

pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxscript", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
import onnx
from torch.onnx._internal.exporter import _registration

from ilse.cli import main
from ilse.core.errors import UserError
from tests.trainer.conftest import DIM, LABELS, LAYERS
from tests.trainer.test_artifact import CAPTURE, FACTS, SHAPE, Bomb, trained_head
from trainer.artifacts.artifact import TrainedHead, save_head
from trainer.export import ExportedHead, export_head, load_exported
from trainer.export.formats import FORMATS
from trainer.export.program import Program
from trainer.heads import HEADS, EncoderHead, build_head
from trainer.objectives import restore
from trainer.treatment import Treatment, TreatmentOptions

OTHER: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "ordinal": ({"kind": "ordinal"}, FACTS.labels),
    "multi_label": ({"kind": "multi_label"}, FACTS.labels),
    "regression": ({"kind": "regression", "mean": 3.0, "deviation": 2.0}, ()),
    "similarity": ({"kind": "similarity", "width": 5, "loss": "mse", "low": 0.0, "high": 5.0}, ()),
    "pairs": ({"kind": "multi_class"}, FACTS.labels),
}
"""Objective → its facts and labels."""


@pytest.fixture(scope="module", autouse=True)
def one_registry() -> Iterator[None]:
    """onnxscript reads the source of 500 functions for each export, a second's work, and always to the same end."""
    read = _registration.ONNXRegistry.from_torchlib.__func__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_registration.ONNXRegistry, "from_torchlib", classmethod(functools.cache(read)))
        yield


def head_for(objective: str) -> TrainedHead:
    facts, labels = OTHER[objective]
    torch.manual_seed(0)
    shape = SHAPE | {"out": restore(facts, tuple(labels)).out}
    head = build_head("mlp", {}, **shape, pair_width=6 if objective == "pairs" else None)
    treatment = Treatment(TreatmentOptions(), len(LAYERS), DIM).fit(5 + 100 * torch.randn(50, len(LAYERS), DIM))
    return TrainedHead(treatment, head, replace(FACTS, objective=facts, labels=list(labels))).eval()


def exported(trained: TrainedHead, folder: Path, to: Any) -> ExportedHead:
    save_head(folder / "head", trained)
    export_head(folder / "head", folder / to, to)
    assert EXPORT.foreign(folder / to) is None
    return load_exported(folder / to)


def assert_same(trained: TrainedHead, program: ExportedHead) -> None:
    """On batches of other sizes than those that the export itself is tried on."""
    shape = program.description["input"]["shape"][1:]
    for size in (1, 5, 300):
        rows = 5 + 100 * torch.randn(size, *shape)
        with torch.inference_mode():
            outputs = trained(rows.flatten(0, 1) if len(shape) == 3 else rows)
            predicted = outputs if trained.objective.embeds else trained.objective.predict(outputs)
        found = program(rows)
        for name in found.keys() - {"logits"}:
            np.testing.assert_allclose(found[name], predicted, atol=1e-4)
        if "logits" in found:
            np.testing.assert_allclose(found["logits"], outputs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_gives_the_same_on_any_number_of_rows(name: str, tmp_path: Path) -> None:
    """Both kinds of file from one trace, which takes the time."""
    trained = trained_head(name)
    program = Program(trained)
    traced, description = program.traced(), {"input": {"shape": program.inputs["rows"]}, "outputs": program.names}
    for kind in FORMATS.values():
        kind.write(traced, program, tmp_path / kind.file)
        assert_same(trained, ExportedHead(description, kind.open(tmp_path / kind.file)))


@pytest.mark.parametrize("objective", OTHER)
def test_every_objective_has_its_outputs(objective: str, tmp_path: Path) -> None:
    trained = head_for(objective)
    program = exported(trained, tmp_path, "onnx")
    assert_same(trained, program)
    names = {"regression": {"score"}, "similarity": {"vectors"}}.get(objective, {"logits", "probabilities"})
    assert program.description["outputs"].keys() == names


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`head`, and its exports `torch` and `onnx`; every step of the treatment is on."""
    place = tmp_path_factory.mktemp("exports")
    trained = trained_head("weighted", clip=2.0, pca=3, whiten=True, layer_norm=True)
    for to in ("torch", "onnx"):
        assert_same(trained, exported(trained, place, to))
    return place


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """To be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "copied"))


def test_the_description_says_what_goes_in_and_out(folder: Path) -> None:
    told = json.loads((folder / "onnx" / "head.json").read_text())
    program = folder / "onnx" / "head.onnx"
    assert told["input"] == {"name": "rows", "shape": ["examples", len(LAYERS), DIM], "type": "float32"}
    assert told["outputs"] == {"logits": ["examples", 3], "probabilities": ["examples", 3]}
    assert (told["labels"], told["pooling"], told["layers_read"]) == (list(LABELS), "mean", [0, 1, 2, 3])
    assert (told["layer_names"], told["capture"]) == (list(LAYERS), CAPTURE.fingerprint)
    assert told["sha256"] == hashlib.sha256(program.read_bytes()).hexdigest()
    assert load_exported(folder / "onnx").labels == list(LABELS)
    model = onnx.load(program)
    shapes = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in model.graph.input
    ]
    assert shapes == [told["input"]["shape"]]


def test_a_file_names_no_place_of_the_machine_that_wrote_it(folder: Path) -> None:
    with zipfile.ZipFile(folder / "torch" / "head.pt2") as archive:
        parts = [archive.read(name) for name in archive.namelist()]
    for data in (*parts, (folder / "onnx" / "head.onnx").read_bytes()):
        assert b"trainer/heads" not in data
        assert b"site-packages" not in data


def test_rows_of_another_shape_are_refused(folder: Path) -> None:
    for shape in ((3, len(LAYERS) + 1, DIM), (3, DIM), (0, len(LAYERS), DIM)):
        with pytest.raises(UserError, match=r"rows of shape \[examples, 4, 8\](.|\n)*the layers embeddings, block 0"):
            load_exported(folder / "torch")(np.zeros(shape, np.float32))


def test_the_command_names_the_outputs_and_the_extra(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["export", str(folder / "head"), "--to", "torch", "--out", str(tmp_path / "made")]
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 0, found.output
    assert "probabilities ['examples', 3]" in found.stdout
    assert sorted(file.name for file in (tmp_path / "made").iterdir()) == ["head.json", "head.pt2"]
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    found = CliRunner().invoke(main, [*arguments[:3], "onnx", *arguments[4:]])
    assert (found.exit_code, "pip install 'ilse-cache[export]'" in found.stderr) == (2, True)
    assert sorted(file.name for file in (tmp_path / "made").iterdir()) == ["head.json", "head.pt2"]


def test_what_cannot_be_exported_is_refused_with_the_reason(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_value(self: Any, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :3] if float(x.sum()) > 0 else -x.flatten(1)[:, :3]

    monkeypatch.setattr(EncoderHead, "forward", by_value)
    out = tmp_path / "made"
    with pytest.raises(UserError, match=r"export of head .*head\n.*one that torch can express\n(.|\n)*data-dependent"):
        export_head(folder / "head", out, "torch")
    assert not out.exists()


def test_outputs_that_differ_are_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = FORMATS["torch"].open
    wrong = replace(FORMATS["torch"], open=lambda file: lambda rows: [x + 2e-3 for x in opened(file)(rows)])
    monkeypatch.setitem(FORMATS, "torch", wrong)
    with pytest.raises(UserError, match=r"logits of 1 examples that differ by 0\.002"):
        export_head(folder / "head", tmp_path / "made", "torch")
    assert not (tmp_path / "made").exists()


def rewritten(file: Path, member: str, change: Callable[[bytes], bytes]) -> None:
    """The archive with one member changed, or added; the description follows, as a forger's would."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = f"{next(iter(members)).split('/')[0]}/{member}"
    members[name] = change(members.get(name, b""))
    with zipfile.ZipFile(file, "w") as archive:
        for each, data in members.items():
            archive.writestr(each, data)
    described(file)


def described(file: Path) -> None:
    description = file.with_name("head.json")
    told = json.loads(description.read_text()) | {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    description.write_text(json.dumps(told))


MODEL = "models/model.json"


@pytest.mark.parametrize(
    ("member", "change", "found"),
    [
        ("data/sample_inputs/model.pt", lambda _: b"BOMB", "example inputs, which are a pickle"),
        ("data/weights/model.pt", lambda _: b"BOMB", "a member: 'data/weights/model.pt'"),
        ("data/constants/opaque_obj_0", lambda _: b"BOMB", "a member"),
        ("../outside", lambda _: b"", "a member: '../outside'"),
        (
            "data/weights/model_weights_config.json",
            lambda data: data.replace(b'"use_pickle": false', b'"use_pickle": true', 1),
            "a tensor that is a pickle",
        ),
        (MODEL, lambda data: data.replace(b"torch.ops.aten.sub.Tensor", b"torch.hub.load", 1), "the operator"),
        (MODEL, lambda data: data.replace(b"torch.ops.aten.sub.Tensor", b"_operator.methodcaller", 1), "the operator"),
        (MODEL, lambda data: data.replace(b"Symbol('s", b"__import__('s", 1), "the size"),
        (MODEL, lambda _: b"{", "JSONDecodeError"),
        ("data/weights/weight_0", lambda data: data[:-4], ""),
    ],
)
def test_a_program_that_would_run_code_is_refused_before_it_is_loaded(
    copied: Path, member: str, change: Callable[[bytes], bytes], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = copied / "executed"
    bomb = pickle.dumps(Bomb(marker))
    file = copied / "torch" / "head.pt2"
    rewritten(file, member, lambda data: bomb if change(data) == b"BOMB" else change(data))
    with pytest.raises(UserError, match=f"exported head(.|\n)*as 'ilse export' wrote it(.|\n)*{re.escape(found)}"):
        load_exported(copied / "torch")
    assert not marker.exists()


def test_torch_itself_would_have_run_it(copied: Path) -> None:
    """The check is needed: without it the example inputs are unpickled."""
    marker, data = copied / "executed", io.BytesIO()
    torch.save((Bomb(marker),), data)
    rewritten(copied / "torch" / "head.pt2", "data/sample_inputs/model.pt", lambda _: data.getvalue())
    with contextlib.suppress(Exception):
        torch.export.load(copied / "torch" / "head.pt2")
    assert marker.exists()


def with_weights_elsewhere(file: Path) -> None:
    model = onnx.load(file)
    onnx.save(model, file, save_as_external_data=True, location="weights", size_threshold=0)


def with_a_foreign_operator(file: Path) -> None:
    model = onnx.load(file)
    model.graph.node[0].domain = "ai.evil"
    onnx.save(model, file)


def with_a_graph_within(file: Path) -> None:
    model = onnx.load(file)
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("then_branch", onnx.GraphProto(name="inner")))
    onnx.save(model, file)


def with_a_function(file: Path) -> None:
    model = onnx.load(file)
    model.functions.append(onnx.FunctionProto(name="more"))
    onnx.save(model, file)


def with_a_tensor_elsewhere(file: Path) -> None:
    model = onnx.load(file)
    tensor = onnx.TensorProto(name="outside", data_location=onnx.TensorProto.EXTERNAL)
    model.graph.node[0].attribute.append(onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR, t=tensor))
    onnx.save(model, file)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (with_a_graph_within, "a graph within the graph: 'then_branch'"),
        (with_a_function, "a function: 'more'"),
        (with_a_tensor_elsewhere, "weights in another file: 'outside'"),
        (with_weights_elsewhere, "weights in another file"),
        (with_a_foreign_operator, "an operator of: 'ai.evil'"),
        (lambda file: file.write_bytes(b"no model"), "DecodeError"),
        (lambda file: file.write_bytes(b""), ""),
        (lambda file: file.unlink(), "FileNotFoundError"),
    ],
)
def test_another_onnx_file_is_refused(copied: Path, damage: Callable[[Path], Any], found: str) -> None:
    file = copied / "onnx" / "head.onnx"
    damage(file)
    if file.exists():
        described(file)
    with pytest.raises(UserError, match=f"exported head(.|\n)*{re.escape(found)}(.|\n)*export the head again"):
        load_exported(copied / "onnx")


@pytest.mark.parametrize("change", [{"format_version": 2}, {"to": "pickle"}, {"sha256": "00"}])
def test_another_description_is_refused(copied: Path, change: dict[str, Any]) -> None:
    file = copied / "torch" / "head.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=r"exported head(.|\n)*format version 1"):
        load_exported(copied / "torch")
