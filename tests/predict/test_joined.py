"""Heads over two models: a text's answer through both models is that of its rows in both caches."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from click.testing import CliRunner

from ilse.cli import main
from ilse.core.errors import UserError
from ilse.predict import Predictor
from ilse.predict.card import model_card
from ilse.predict.command import configured
from pipeline.config import ExtractParams
from pipeline.stages.extract import extract
from tests.predict.conftest import Project
from trainer.artifacts.artifact import load_head
from trainer.config import TrainParams
from trainer.export import export_head
from trainer.stages.evaluate import evaluate
from trainer.stages.train import train

HEADS = ["weighted", "last", "best", "bottleneck"]


class TwoModels:
    """A project whose texts were read by another model too, in another order and type."""

    def __init__(self, project: Project, model: Path, kind: str) -> None:
        self.first, self.model, folder = project, model, project.folder
        self.caches = [str(project.cache), str(folder / "second.zarr")]
        texts = pl.read_parquet(folder / "texts.parquet")
        texts.sample(fraction=1, shuffle=True, seed=1).write_parquet(folder / "shuffled.parquet")
        values = {
            "model": {"path": str(model)}, "compute_type": "float32", "max_tokens": 7, "template": "So: {text}",
            "batch_tokens": 64, "shard_rows": 16, "threads": 1, "storage_type": "float16",
            "cluster": {"kind": "synchronous"},
        }  # fmt: skip
        extract(ExtractParams.model_validate(values), folder / "shuffled.parquet", self.caches[1], folder / "scratch")
        params = TrainParams.model_validate(
            {"seeds": 1, "device": "cpu", "embedding": 6, "recipe": {"epochs": 3, "batch_size": 16}}
        )
        self.heads = HEADS if kind == "labels" else ["weighted"]
        places = self.caches, folder / "examples.parquet", folder / "joint", folder / "results"
        for name in self.heads:
            train(params, name, *places)
        evaluate(self.heads, *places)

    @property
    def models(self) -> list[Path]:
        return [self.first.model, self.model]

    def folder(self, head: str) -> Path:
        return self.first.folder / "joint" / head / "seed-0"


@pytest.fixture(scope="module")
def two(project: Callable[..., Project], tiny_model: Callable[[str], Path]) -> Callable[[str], TwoModels]:
    made: dict[str, TwoModels] = {}

    def build(kind: str = "labels") -> TwoModels:
        if kind not in made:
            made[kind] = TwoModels(project(kind), tiny_model("bert"), kind)
        return made[kind]

    return build


@pytest.mark.parametrize("head", HEADS)
def test_predictions_are_those_of_the_caches(two: Callable[..., TwoModels], head: str) -> None:
    made = two()
    predictor = Predictor.load(made.folder(head), made.models, device="cpu", threads=1, batch_tokens=64)
    told, texts = made.first.predicted(head), made.first.texts()
    found = predictor.predictions([texts[text] for text in told["text_id"]])
    assert len(found) == len(told)
    for prediction, label, row in zip(found, told["prediction"], told.rows(named=True), strict=True):
        assert prediction.label == label
        assert prediction.probability == pytest.approx(row["probability"], abs=1e-3)
    vectors = predictor.embed(list(texts.values())[:3])
    assert vectors.shape == (3, predictor.width)


def test_pairs_of_texts_are_read_by_both_models(two: Callable[..., TwoModels]) -> None:
    made = two("pairs with a score")
    predictor = Predictor.load(made.folder("weighted"), made.models, device="cpu", threads=1)
    told, texts = made.first.predicted("weighted"), made.first.texts()
    pairs = [(texts[one], texts[other]) for one, other in told.select("text_id", "pair_text_id").rows()]
    found = [prediction.score for prediction in predictor.predictions(pairs)]
    assert np.allclose(found, told["prediction"].to_numpy(), atol=1e-3)


def test_a_predictor_travels_to_another_process(two: Callable[..., TwoModels]) -> None:
    predictor = Predictor.load(two().folder("weighted"), two().models, device="cpu", threads=1)
    again = pickle.loads(pickle.dumps(predictor))
    assert again.predictions("art and law") == predictor.predictions("art and law")


def test_models_are_given_in_the_order_of_the_caches(two: Callable[..., TwoModels]) -> None:
    made = two()
    with pytest.raises(UserError, match=r"(?s)the model that made the cache the head was trained on: llama"):
        Predictor.load(made.folder("weighted"), made.models[::-1])
    for given in (made.models[0], made.models[:1], [*made.models, made.models[0]]):
        with pytest.raises(UserError, match=r"(?s)2 models, in the order of its caches: llama, then bert.*found: "):
            Predictor.load(made.folder("weighted"), given)
    with pytest.raises(UserError, match=r"(?s)the model of the head, llama.*none given"):
        Predictor.load(made.folder("weighted"))


def test_a_model_of_which_no_layer_is_read_is_not_run(two: Callable[..., TwoModels]) -> None:
    predictor = Predictor.load(two().folder("best"), two().models, device="cpu")
    assert len(predictor.capture.captures) == 1


def test_the_command_takes_a_model_for_each_cache(two: Callable[..., TwoModels], tmp_path: Path) -> None:
    made = two()
    (tmp_path / "in.txt").write_text("art and law\nwar\n")
    call = ["predict", str(made.folder("weighted")), "--input", str(tmp_path / "in.txt"), "--device", "cpu"]
    named = [option for model in made.models for option in ("--model", str(model))]
    out = ["--out", str(tmp_path / "out.csv")]
    result = CliRunner().invoke(main, [*call, *out, *named, "--params", str(tmp_path / "none.yaml")])
    assert result.exit_code == 0, result.output
    first = pl.read_csv(tmp_path / "out.csv")
    assert first.height == 2
    sections = {
        "extract": {"model": {"path": str(made.models[0])}},
        "control_caches": {"other": {"model": {"path": str(made.models[1])}}},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(sections))
    assert [model.path for model in configured(load_head(made.folder("weighted")), tmp_path / "params.yaml")] == (
        made.models
    )
    (tmp_path / "out.csv").unlink()
    result = CliRunner().invoke(main, [*call, *out, "--params", str(tmp_path / "params.yaml")])
    assert result.exit_code == 0, result.output
    assert pl.read_csv(tmp_path / "out.csv").equals(first)


def test_an_export_is_refused_by_name(two: Callable[..., TwoModels], tmp_path: Path) -> None:
    head = two().folder("weighted")
    with pytest.raises(UserError, match=r"(?s)export to torch with head 'weighted'.*one over 2: llama \+ bert"):
        export_head(head, tmp_path / "out", "torch")
    assert not (tmp_path / "out").exists()
    sentence = pytest.importorskip("ilse.predict.sentence_transformer")
    with pytest.raises(UserError, match=r"(?s)export to sentence-transformer.*one over 2"):
        sentence.export_folder(head, tmp_path / "out", None, tmp_path / "none.yaml")


def test_the_card_names_both_models(two: Callable[..., TwoModels], tmp_path: Path) -> None:
    trained = load_head(two().folder("weighted"))
    card = model_card(trained, "weighted", tmp_path).text
    for source in trained.facts.sources:
        assert source.capture.model["sha256"] in card
        assert f"`{source.capture.template}`" in card
    assert "--model THE-MODEL --model THE-MODEL" in card


def test_rows_are_those_of_both_caches_with_zeros_behind_the_narrower(two: Callable[..., TwoModels]) -> None:
    made = two()
    predictor = Predictor.load(made.folder("weighted"), made.models, device="cpu", threads=1)
    rows = predictor.capture.rows(["art and law", "war", "art and law"], ["a", "b", "c"])
    widths = predictor.trained.facts.widths_of(predictor.trained.head.layers_read)
    assert widths is not None
    for layer, width in enumerate(widths):
        assert rows[:, layer, :width].any(1).all()
        assert not rows[:, layer, width:].any()
    assert torch.equal(rows[0], rows[2])
