"""The stage: its files, what evaluation makes of them, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ilse.core.errors import UserError
from ilse.finetune.lora import lora
from pipeline.config import ExtractParams
from pipeline.stages.extract import extract
from pipeline.stages.prepare import PrepareParams, prepare
from tests.finetune.conftest import TELLING, quick, text_of
from trainer.config import TrainParams
from trainer.stages.evaluate import evaluate
from trainer.stages.train import train

EXTRACT = {"max_tokens": 16, "compute_type": "float32", "threads": 1, "cluster": {"kind": "synchronous"}}
TRAIN = {"heads": ["last"], "seeds": 1, "device": "cpu", "recipe": {"epochs": 2}}


class Project:
    """A prepared data set and its cache, in a folder of its own."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        rows = pl.DataFrame({"text": [f"{text_of(i)} {' '.join(str(i))}" for i in range(240)]})
        rows.with_columns(label=pl.Series([TELLING[i % 2] for i in range(240)])).write_csv(folder / "news.csv")
        self.prepare()
        extract(self.extract(), folder / "texts.parquet", folder / "cache.zarr", folder / "scratch")

    def prepare(self, **more: Any) -> None:
        splits = {"train": 0.6, "validation": 0.2, "test": 0.2}
        given = {"path": str(self.folder / "news.csv"), "splits": splits, **more}
        prepare(PrepareParams.model_validate(given), self.folder)

    def extract(self, **changes: Any) -> ExtractParams:
        return ExtractParams.model_validate({"model": {"path": self.model}, **EXTRACT, **changes})

    def lora(self, extract: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **changes: Any) -> Any:
        params = TrainParams.model_validate({**TRAIN, **(train or {})})
        names = ("cache.zarr", "texts.parquet", "examples.parquet", "models", "results")
        return lora(quick(**changes), self.extract(**(extract or {})), params, *(self.folder / name for name in names))

    def facts(self, seed: int = 0) -> Any:
        return json.loads((self.folder / "models" / "lora" / f"seed-{seed}" / "answers.json").read_text())


@pytest.fixture
def project(tmp_path: Path, tiny_model: Callable[[str], Path]) -> Project:
    return Project(tmp_path, tiny_model("llama"))


def test_it_stands_beside_the_heads(project: Project) -> None:
    figures = project.lora(seeds=2, epochs=3)
    paths = (project.folder / name for name in ("cache.zarr", "examples.parquet", "models", "results"))
    cache, examples, models, results = paths
    train(TrainParams.model_validate(TRAIN), "last", cache, examples, models, results)
    table = evaluate(["last", "lora"], cache, examples, models, results)
    row = table.filter(head="lora").row(0, named=True)
    assert row["control"]
    assert not row["chosen"]
    assert row["seeds"] == 2
    assert row["val_score"] == figures["val_score"]
    assert row["test_score"] > 0.7, "half of them by chance"
    # Three blocks of rank 2: queries and outputs 32 + 32, keys and values 32 + 16; the classifier has two outputs.
    assert row["parameters"] == figures["parameters"] == 3 * 2 * 2 * (64 + 48) + 2 * 33
    curves = pl.read_csv(results / "curves" / "lora.csv")
    assert curves.columns == ["head", "seed", "epoch", "train_loss", "val_loss", "val_score"]
    assert curves["seed"].to_list() == [0, 0, 0, 1, 1, 1]
    seeds = {seed: project.facts(seed) for seed in (0, 1)}
    assert all(curves.filter(seed=seed)["val_score"].max() == facts["val_score"] for seed, facts in seeds.items())


def test_costs_are_written(project: Project) -> None:
    figures = project.lora(epochs=2)
    assert figures == json.loads((project.folder / "results" / "train" / "lora.json").read_text())
    per_token = 2 * 3 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)  # twice the blocks' matrices, as in test_model.py
    assert figures["flops"] == per_token * (2 * figures["tokens_trained"] + figures["tokens_predicted"])
    examples = pl.read_parquet(project.folder / "examples.parquet")
    assert figures["tokens_trained"] > 2 * examples.filter(split="train").height
    assert 0 < figures["epoch_seconds"] <= figures["train_seconds"]
    assert figures["cpu_seconds"] > 0
    assert figures["peak_resident_bytes"] > 50_000_000
    assert figures["compute_type"] == "float32"


def test_test_labels_change_nothing(project: Project) -> None:
    """All labels of the test split exchanged: the same answers."""
    project.lora(epochs=1)
    answers = project.folder / "models" / "lora" / "seed-0" / "answers.parquet"
    before, facts = pl.read_parquet(answers), project.facts()
    path = project.folder / "examples.parquet"
    test = pl.col("split") == "test"
    names = dict(zip(TELLING, reversed(TELLING), strict=True))
    pl.read_parquet(path).with_columns(
        label=pl.when(test).then(pl.col("label").replace(names)).otherwise("label"),
        label_index=pl.when(test).then(1 - pl.col("label_index")).otherwise("label_index"),
    ).write_parquet(path)
    project.lora(epochs=1)
    assert pl.read_parquet(answers).equals(before)
    assert {**project.facts(), "train_seconds": 0} == {**facts, "train_seconds": 0}


def test_few_shots_are_those_of_the_heads(project: Project) -> None:
    longest = 16
    figures = project.lora(train={"shots": 3}, epochs=2, batch_size=64)
    assert figures["tokens_trained"] <= 2 * 2 * 3 * longest
    half = project.lora(train={"share": 0.5}, epochs=2)["tokens_trained"]
    assert half == pytest.approx(project.lora(epochs=2)["tokens_trained"] / 2, rel=0.15)


def test_a_cache_of_something_else_is_refused(project: Project, tiny_model: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match=r"cache .*cache.zarr(.|\n)*one of the template in section 'extract'"):
        project.lora(extract={"template": "text: {text}"})
    with pytest.raises(UserError, match=r"one of the max_tokens in section 'extract' \(8\)\n  found: +16"):
        project.lora(extract={"max_tokens": 8})
    with pytest.raises(UserError, match=r"one of the model in section 'extract'(.|\n)*run 'ilse extract' first"):
        project.lora(extract={"model": {"path": tiny_model("gpt2")}})
    with pytest.raises(UserError, match=r"in one piece(.|\n)*extract.windows"):
        project.lora(extract={"windows": {"tokens": 8}})
    assert not (project.folder / "models" / "lora").exists()


def test_other_objectives_are_refused(project: Project) -> None:
    with pytest.raises(UserError, match=r"'ilse lora'(.|\n)*one text with one label(.|\n)*the objective ordinal"):
        project.lora(train={"objective": "ordinal"})
    rows = pl.read_csv(project.folder / "news.csv").with_row_index("score")
    rows.write_csv(project.folder / "news.csv")
    project.prepare(score_column="score")
    with pytest.raises(UserError, match="the objective regression"):
        project.lora()


def test_pairs_are_refused(project: Project) -> None:
    rows = pl.read_csv(project.folder / "news.csv")
    rows.with_columns(second=rows["text"].reverse()).write_csv(project.folder / "news.csv")
    project.prepare(text_pair_column="second")
    with pytest.raises(UserError, match="the objective multi_class, two texts per example"):
        project.lora()


def test_missing_texts_are_named(project: Project) -> None:
    table = project.folder / "texts.parquet"
    pl.read_parquet(table).head(10).write_parquet(table)
    with pytest.raises(UserError, match=r"texts .*texts.parquet(.|\n)*the texts of all examples"):
        project.lora()
