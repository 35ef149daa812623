"""A head on disk: the same after loading, and never more than a head."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ilse.core.errors import UserError
from pipeline.store import CaptureSpec, WindowSpec
from tests.trainer.conftest import DIM, LABELS, LAYERS
from trainer.artifacts.artifact import HeadFacts, TrainedHead, load_head, save_head
from trainer.heads import HEADS, build_head
from trainer.treatment import Treatment, TreatmentOptions

SHAPE = {"layers": len(LAYERS), "dim": DIM, "out": len(LABELS)}
CAPTURE = CaptureSpec(
    model={"sha256": "00"}, tokenizer="11", layers=LAYERS, dim=DIM, max_tokens=16, template="{text}",
    compute_type="float32", storage_type="float16",
)  # fmt: skip
FACTS = HeadFacts(
    objective={"kind": "multi_class"}, labels=list(LABELS), capture=CAPTURE,
    pooling="mean", model_name="tiny",
    model_parameters=1000, recipe={"epochs": 3}, seed=0, best_epoch=2, val_score=0.5, val_loss=1.25,
    train_seconds=0.1, layer_scores=[0.1, 0.2, 0.3, 0.4],
)  # fmt: skip


def trained_head(name: str = "weighted", **treatment: Any) -> TrainedHead:
    torch.manual_seed(0)
    options = TreatmentOptions(**treatment)
    shape = SHAPE | {"dim": options.pca or DIM}
    head = build_head(name, {"layer": 2} if name == "best" else {}, **shape)
    rows = 5 + 100 * torch.randn(50, len(head.layers_read), DIM)
    return TrainedHead(Treatment(options, len(head.layers_read), DIM).fit(rows), head, FACTS).eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_head(tmp_path / "head", trained_head())
    return tmp_path / "head"


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("treatment", [{}, {"clip": 2.0, "pca": 3, "whiten": True, "layer_norm": True}])
def test_a_loaded_head_gives_the_same_bits(tmp_path: Path, name: str, treatment: dict[str, Any]) -> None:
    trained = trained_head(name, **treatment)
    save_head(tmp_path, trained)
    loaded = load_head(tmp_path)
    x = 5 + 100 * torch.randn(20, len(trained.head.layers_read), DIM)
    assert torch.equal(loaded(x), trained(x))
    assert loaded.facts == FACTS
    assert loaded.head.spec == trained.head.spec
    assert loaded.parameters_trained == trained.parameters_trained
    assert not loaded.training


def test_a_capture_in_windows_is_kept_and_one_without_says_nothing_of_them(saved: Path, tmp_path: Path) -> None:
    assert "windows" not in json.loads((saved / "config.json").read_text())["capture"]
    trained = trained_head()
    trained.facts = replace(FACTS, capture=replace(CAPTURE, max_tokens=None, windows=WindowSpec(8, 6)))
    save_head(tmp_path / "long", trained)
    assert load_head(tmp_path / "long").facts == trained.facts
    for wrong in (
        {"tokens": 8, "stride": 9},
        {"tokens": 8},
        {"tokens": 8, "stride": 6, "more": 1},
        {"tokens": "8", "stride": 6},
    ):
        edit(tmp_path / "long", lambda config, wrong=wrong: config["capture"].update(windows=wrong))
        with pytest.raises(UserError, match="head"):
            load_head(tmp_path / "long")


def test_saving_again_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    save_head(tmp_path / "again", load_head(saved))
    for name in ("config.json", "head.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


@pytest.mark.parametrize("name", ["config.json", "head.safetensors"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(UserError, match=rf"head .*head\n(.|\n)*found: +no {name}\n(.|\n)*'ilse train'"):
        load_head(saved)


def test_another_format_version_is_refused(saved: Path) -> None:
    edit(saved, lambda config: config.update(format_version=1))
    with pytest.raises(UserError, match=r"head format version 4 to 7\n(.|\n)*version 1"):
        load_head(saved)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_config_is_refused(saved: Path, content: bytes) -> None:
    (saved / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"head .*head\n"):
        load_head(saved)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_cut_weights_are_refused(saved: Path, keep: int) -> None:
    weights = (saved / "head.safetensors").read_bytes()
    (saved / "head.safetensors").write_bytes(weights[:keep])
    with pytest.raises(UserError, match="a head as 'ilse train' wrote it"):
        load_head(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("head.readout.weight"),
        lambda state: state.update({"head.readout.bias": torch.zeros(4)}),
        lambda state: state.update({"treatment.standardise.mean": torch.zeros(1, DIM)}),
        lambda state: state.update({"more": torch.zeros(1)}),
    ],
)
def test_weights_of_another_shape_are_refused(saved: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    state = load_file(saved / "head.safetensors")
    change(state)
    save_file(state, saved / "head.safetensors")
    with pytest.raises(UserError, match="a head as 'ilse train' wrote it"):
        load_head(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["head"].update(name="weigthed"), "one of last, layer, best(.|\n)*unknown head 'weigthed'"),
        (lambda c: c["head"].update(name="os.system"), "one of last, layer, best"),
        (lambda c: c["head"].update(name="mean"), "unknown key 'weight_of'"),
        (lambda c: c["head"].update(name="mean", options={}), "'ilse train' wrote it"),
        (lambda c: c["head"].update(options={"code": "print()"}), "unknown key 'code'"),
        (lambda c: c["head"].update(layers=5), "names of 5 layers"),
        (lambda c: c["head"].update(out=4), "objective with 4 outputs"),
        (lambda c: c["head"].update(dim=9), "a head that reads 9"),
        (lambda c: c["treatment"].update(dim=9), "8 values per layer, as the capture's rows of pooling mean have"),
        (lambda c: c["treatment"]["options"].update(pca=3), "that gives 3 values"),
        (lambda c: c["treatment"]["options"].update(whitten=True), "unknown key 'whitten'"),
        (lambda c: c.pop("treatment"), "treatment"),
        (lambda c: c["head"].update(dim="8"), "'ilse train' wrote it"),
        (lambda c: c["head"].update(build="os.system"), "unexpected keyword"),
        (lambda c: c["head"].pop("dim"), "'ilse train' wrote it"),
        (lambda c: c["facts"].update(labels="art"), "labels"),
        (lambda c: c["facts"].update(labels=["art"]), "objective with 3 outputs(.|\n)*found:    4 and 1"),
        (lambda c: c["facts"].update(seed="0"), "seed"),
        (lambda c: c["facts"].update(more=0), "more"),
        (lambda c: c.pop("facts"), "facts"),
        (lambda c: c.pop("capture"), "capture"),
        (lambda c: c["capture"].update(max_tokens=17), "the capture with fingerprint"),
        (lambda c: c["capture"].update(model={"sha256": "01"}), "the capture with fingerprint"),
        (lambda c: c["capture"].update(max_tokens="16"), "capture.max_tokens"),
        (lambda c: c["capture"].update(max_tokens=0), "at least 1"),
        (lambda c: c["capture"].pop("template"), "capture.template"),
        (lambda c: c["facts"].update(pooling="last"), "one of the capture's poolings, mean"),
        (lambda c: c["facts"].update(pooling=["mean", "last"]), "one of the capture's poolings, mean"),
        (lambda c: c["facts"].update(pooling=["mean", "mean"]), "each once(.|\n)*mean, mean"),
        (lambda c: c["facts"].update(pooling=[]), "found:    none"),
        (lambda c: c["facts"].update(pooling=[["mean"]]), "pooling"),
        (lambda c: c.update(head=[1]), "'ilse train' wrote it"),
    ],
)
def test_an_edited_config_is_refused(saved: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    edit(saved, change)
    with pytest.raises(UserError, match=message) as caught:
        load_head(saved)
    assert caught.value.where == f"head {saved}"


def test_probes_without_a_chosen_layer_are_no_head(tmp_path: Path) -> None:
    save_head(tmp_path, trained_head("best"))
    edit(tmp_path, lambda config: config["head"]["options"].update(layer=None))
    with pytest.raises(UserError, match="'ilse train' wrote it"):
        load_head(tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.floats(-2, 2) | st.sampled_from(["", "best", "__class__"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "x"]), inner, max_size=2),
    max_leaves=4,
)


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_whatever_stands_in_the_config_gives_a_head_or_a_users_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("head")
    save_head(folder, trained_head("mlp"))
    config = json.loads((folder / "config.json").read_text())
    place = config
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if not (isinstance(place[key], dict) and place[key] and data.draw(st.booleans())):
            break
        place = place[key]
    place[key] = data.draw(VALUES)
    (folder / "config.json").write_text(json.dumps(config))
    with suppress(UserError):
        assert isinstance(load_head(folder), TrainedHead)


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_nothing_is_unpickled(saved: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(marker))
    torch.save({"head.readout.bias": Bomb(marker)}, tmp_path / "bomb.pt")
    for content in (bomb, (tmp_path / "bomb.pt").read_bytes()):
        for name in ("head.safetensors", "config.json"):
            intact = (saved / name).read_bytes()
            (saved / name).write_bytes(content)
            with pytest.raises(UserError):
                load_head(saved)
            (saved / name).write_bytes(intact)
    assert not marker.exists()
    pickle.loads(bomb)
    assert marker.exists()
