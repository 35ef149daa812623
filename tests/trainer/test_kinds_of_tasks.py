"""Every kind of task through the stages: what is written, that it is learned, and that it is what the files say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import trainer.stages.train
from ilse.core.errors import UserError
from pipeline.store import open_cache
from tests.trainer.conftest import DIM, LAYERS, TELLING, write_cache
from trainer.artifacts.artifact import load_head
from trainer.config import TrainParams
from trainer.data.task import open_task
from trainer.fitting.fit import Fit
from trainer.heads import Head
from trainer.report import report
from trainer.rows.in_memory import PairRows
from trainer.search.space import TuneParams
from trainer.stages.evaluate import evaluate
from trainer.stages.train import train
from trainer.stages.tune import tune

SPLITS = {"train": 160, "validation": 60, "test": 60}
GRADES = ("1", "2", "3", "4")
TOPICS = ("art", "law", "war")


@dataclass(frozen=True)
class Project:
    """A folder with a cache and a table of examples."""

    folder: Path

    def params(self, heads: list[str], **changes: Any) -> TrainParams:
        own = {"epochs": 12, "batch_size": 16, "learning_rate": 0.02, "optimizer": "adamw", "folds": None}
        recipe = own | changes.pop("recipe", {})
        return TrainParams.model_validate(
            {"heads": heads, "seeds": 2, "device": "cpu", "embedding": 6, "recipe": recipe, **changes}
        )

    def run(self, heads: list[str], **changes: Any) -> pl.DataFrame:
        files = (self.folder / "cache.zarr", self.folder / "examples.parquet", self.folder / "models")
        params = self.params(heads, **changes)
        for head in heads:
            train(params, head, *files, self.folder / "results")
        return evaluate(heads, *files, self.folder / "results", params.memory_budget)

    def predictions(self, head: str, seed: int = 0) -> pl.DataFrame:
        return pl.read_parquet(self.folder / "results" / "predictions" / f"{head}.parquet").filter(seed=seed)

    @property
    def metrics(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "results" / "metrics.json").read_text())
        return found


def made(folder: Path, kind: str) -> Project:
    """A task of which the layer `TELLING` says a good deal, and the others nothing."""
    generator = np.random.default_rng(0)
    examples, pairs = sum(SPLITS.values()), kind in ("similarity", "pairs")
    texts = 2 * examples if pairs else examples
    rows = generator.normal(size=(texts, len(LAYERS), DIM)).astype(np.float32)
    told = rows[:, TELLING]
    ids = [f"{i:032x}" for i in range(texts)]
    columns: dict[str, Any] = {"source_row": range(examples), "text_id": ids[:examples]}
    if pairs:
        columns["pair_text_id"] = ids[examples:]
        alike = generator.integers(6, size=examples)
        noise = told[examples:] * (1 - alike / 5)[:, None]
        told[examples:] = told[:examples] * (alike / 5)[:, None] + noise
    if kind == "similarity":
        columns["score"] = alike.astype(float)
    elif kind == "pairs":
        columns |= labels_of((alike >= 3).astype(int), ("no", "yes"))
    elif kind == "regression":
        columns["score"] = 100 + 20 * told[:, 0] + generator.normal(size=examples)
    elif kind == "ordinal":
        columns |= labels_of(np.digitize(told[:, 0], [-0.7, 0, 0.7]), GRADES)
    else:
        there = told[:, :3] > 0.3
        columns["labels"] = pl.Series(
            [[t for t, is_there in zip(TOPICS, row, strict=True) if is_there] for row in there]
        )
        columns["label_indices"] = pl.Series([np.flatnonzero(row).tolist() for row in there], dtype=pl.List(pl.Int64))
    columns["split"] = [split for split, count in SPLITS.items() for _ in range(count)]
    folder.mkdir(exist_ok=True)
    write_cache(folder / "cache.zarr", ids, rows)
    pl.DataFrame(columns).write_parquet(folder / "examples.parquet")
    return Project(folder)


def labels_of(indices: np.ndarray[Any, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {"label": [names[i] for i in indices], "label_index": indices.astype(np.int64)}


KINDS = {
    "similarity": ({}, "similarity", "spearman", 0.5),
    "pairs": ({"recipe": {"epochs": 40}}, "multi_class", "accuracy", 0.75),
    "regression": ({}, "regression", "r2", 0.9),
    "ordinal": ({"objective": "ordinal"}, "ordinal", "kappa", 0.75),
    "several": ({}, "multi_label", "f1_micro", 0.8),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_telling_layer_is_found_and_better_than_the_last(tmp_path: Path, kind: str) -> None:
    changes, objective, metric, enough = KINDS[kind]
    project = made(tmp_path, kind)
    table = project.run(["last", "best"], **changes)
    found = project.metrics
    assert (found["objective"], found["metric"]) == (objective, metric)
    assert table["head"].to_list() == ["best", "last"]
    assert table["test_score"][0] > enough
    assert table["test_score"][1] < table["test_score"][0] - 0.2
    layers = pl.read_csv(project.folder / "results" / "layers.csv")
    assert layers["layer"][layers["val_score"].arg_max()] == TELLING
    head = load_head(project.folder / "models" / "best" / "seed-0")
    assert head.head.layers_read == (TELLING,)
    assert head.objective.kind == objective


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_the_saved_heads_own(tmp_path: Path, kind: str) -> None:
    """By hand from the artifact and the cache, an example at a time; and the figures follow from them."""
    project = made(tmp_path, kind)
    project.run(["weighted"], **KINDS[kind][0])
    head = load_head(project.folder / "models" / "weighted" / "seed-1")
    found = project.predictions("weighted", seed=1)
    test = pl.read_parquet(project.folder / "examples.parquet").filter(split="test")
    cache = open_cache(project.folder / "cache.zarr")
    row_of = {text: row for row, text in enumerate(cache.text_ids())}
    names = [name for name in ("text_id", "pair_text_id") if name in test.columns]
    assert found.select(names).equals(test.select(names))
    predicted = []
    for example in test.select(names).iter_rows():
        x = torch.cat([torch.from_numpy(cache.read(slice(row_of[text], row_of[text] + 1))) for text in example])
        with torch.no_grad():
            predicted.append(head.objective.predict(head(x))[0])
    told = "prediction" if kind in ("similarity", "regression") else "probabilities"
    expected = torch.stack(predicted)
    np.testing.assert_allclose(np.array(found[told].to_list()), expected, rtol=2e-3, atol=2e-4)
    targets = open_task(cache, project.folder / "examples.parquet").targets.tensor(test)
    figures = head.objective.figures(expected, targets)
    runs = pl.read_csv(project.folder / "results" / "runs.csv").row(1, named=True)
    assert runs["test_score"] == pytest.approx(figures.pop(head.objective.metric), abs=2e-3)
    assert {name: runs[f"test_{name}"] for name in figures} == pytest.approx(figures, abs=2e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_speaks_of_its_figure(tmp_path: Path, kind: str) -> None:
    project = made(tmp_path, kind)
    project.run(["last", "weighted"], **KINDS[kind][0])
    page = report(project.folder / "results", {}, tmp_path / "report.html").read_text()
    named = {"similarity": "Spearman", "pairs": "Accuracy", "regression": "R²", "ordinal": "Weighted kappa"}
    assert named.get(kind, "Micro-F1") in page.split("<main>")[1]
    assert ('id="confusion"' in page) == (kind in ("pairs", "ordinal"))
    assert ("the head chosen on validation; 95&nbsp;% interval" in page) == (kind in ("similarity", "pairs"))
    if kind != "pairs":  # losses that are no cross-entropy have no level that chance gives
        curves = [pl.read_csv(file) for file in (project.folder / "results" / "curves").glob("*.csv")]
        highest = max(float(pl.concat([c["train_loss"], c["val_loss"]]).max()) for c in curves)  # type: ignore[arg-type]
        assert f"losses above {highest:.2f} are cut off" in page


@pytest.mark.parametrize("kind", ["similarity", "pairs"])
def test_an_encoders_own_vectors_are_compared_where_no_width_is_given(tmp_path: Path, kind: str) -> None:
    project = made(tmp_path, kind)
    project.run(["bottleneck"], embedding=None, **KINDS[kind][0])
    head = load_head(project.folder / "models" / "bottleneck" / "seed-0").head
    vectors = head if kind == "similarity" else head.vectors
    assert vectors.spec.out == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("head", ["exits", "gated"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "several"])
def test_heads_that_give_probabilities_of_labels_say_so(tmp_path: Path, kind: str, head: str) -> None:
    with pytest.raises(UserError, match=rf"head '{head}'(.|\n)*remove it from train.heads"):
        made(tmp_path, kind).run([head], **KINDS[kind][0])


def test_heads_of_two_objectives_are_not_compared(tmp_path: Path) -> None:
    project = made(tmp_path, "ordinal")
    project.run(["last"], objective="ordinal")
    files = (project.folder / "cache.zarr", project.folder / "examples.parquet", project.folder / "models")
    train(project.params(["mean"]), "mean", *files, project.folder / "results")
    with pytest.raises(UserError, match=r"the objective it was trained on \(multi_class\)(.|\n)*ordinal"):
        evaluate(["mean", "last"], *files, project.folder / "results")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": 3}, r"train.shots(.|\n)*a column 'score'(.|\n)*train.share"),
        ({"memory_budget": 1e-6}, r"train.memory_budget(.|\n)*7 shards(.|\n)*raise it"),
        ({"objective": "multi_class"}, r"train.objective(.|\n)*regression or similarity"),
        ({"recipe": {"imbalance": "weights"}}, r"imbalance(.|\n)*none for the objective similarity"),
    ],
)
def test_what_pairs_cannot_do_is_said(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        made(tmp_path, "similarity").run(["last"], **changes)


def test_a_share_of_pairs_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, whole = [], trainer.stages.train.fit

    def recorded(head: Head, rows: PairRows, *rest: Any) -> Fit:
        seen.append((len(rows.y), len(rows.x), rows.x.mean().item()))
        return whole(head, rows, *rest)

    monkeypatch.setattr(trainer.stages.train, "fit", recorded)
    made(tmp_path, "similarity").run(["weighted"], share=0.25)
    assert [(pairs, texts) for pairs, texts, _ in seen] == [(40, 80), (40, 80)]
    assert seen[0][2] != seen[1][2], "another seed draws another share"


def test_scores_are_searched_too(tmp_path: Path) -> None:
    project = made(tmp_path, "similarity")
    tuning = TuneParams.model_validate({"trials": 3, "storage": f"sqlite:///{tmp_path}/tune.db"})
    found = tune(
        tuning, project.params(["last"]), "last", tmp_path / "cache.zarr", tmp_path / "examples.parquet", tmp_path
    )
    assert found.trials == 3
    assert -1 <= found.after <= 1


def test_regression_tells_scores_on_their_own_scale(tmp_path: Path) -> None:
    project = made(tmp_path, "regression")
    project.run(["best"])
    found = project.predictions("best")
    assert abs(found["prediction"].mean() - 100) < 10  # type: ignore[operator]
    assert (found["prediction"] - found["score"]).abs().mean() < 5  # type: ignore[operator]
