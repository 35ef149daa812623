"""Nothing before evaluation depends on the test split's targets: shown by changing them, all else being equal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.trainer.controls.project import Project, made_with_texts
from tests.trainer.test_kinds_of_tasks import made as made_of_kind
from trainer.config import TrainParams
from trainer.search.space import TuneParams
from trainer.stages.evaluate import evaluate
from trainer.stages.train import train
from trainer.stages.tune import tune

HEADS = ["last", "best", "cayley"]
CONTROLS = ["majority", "words", "mean_probe", "last_probe", "random_labels"]
RECIPE = {"epochs": 3, "batch_size": 16, "learning_rate": 0.02, "folds": None}
TIMES = ("seconds", "train_seconds")


def with_other_test_labels(project: Project, folder: Path) -> Project:
    """The same project, the test examples' targets in another order."""
    other = Project(Path(shutil.copytree(project.folder, folder)))
    table = project.table
    targets = [name for name in ("label", "label_index", "labels", "label_indices", "score") if name in table.columns]
    test = table.filter(split="test")
    order = np.random.default_rng(5).permutation(len(test))
    permuted = {name: test[name].gather(order) for name in targets}
    # In place: no row but those of the test split is touched.
    rows = table.with_row_index().filter(split="test")["index"]
    table.with_columns([table[name].clone().scatter(rows, permuted[name]) if table[name].dtype != pl.List else
                        whole_column(table[name], rows, permuted[name]) for name in targets]
                       ).write_parquet(other.folder / "examples.parquet")  # fmt: skip
    return other


def whole_column(column: pl.Series, rows: pl.Series, values: pl.Series) -> pl.Series:
    """`scatter` knows no lists."""
    listed = column.to_list()
    for row, value in zip(rows, values, strict=True):
        listed[row] = list(value)
    return pl.Series(column.name, listed, dtype=column.dtype)


def run_all(project: Project, heads: list[str], controls: list[str]) -> None:
    """Trains, tunes and fits: everything that comes before evaluation."""
    folder = project.folder
    files = (folder / "cache.zarr", folder / "examples.parquet")
    params = TrainParams.model_validate({"heads": heads, "seeds": 2, "device": "cpu", "recipe": RECIPE, "embedding": 6})
    tuning = TuneParams.model_validate({"trials": 3, "storage": f"sqlite:///{folder}/tune.db"})
    for head in heads:
        train(params, head, *files, folder / "models", folder / "results")
    tune(tuning, params, heads[0], *files, folder / "results")
    for name in controls:
        project.fit(name, {"embedding": 6})


def left_behind(project: Project) -> dict[str, Any]:
    """Every file of heads, answers, figures and trials, without their times."""
    found = {}
    for folder in ("models", "results"):
        for path in sorted((project.folder / folder).rglob("*")):
            if path.is_file():
                found[str(path.relative_to(project.folder))] = timeless(path)
    return found


def timeless(path: Path) -> Any:
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text()))
    if path.suffix == ".csv":
        table = pl.read_csv(path)
        return table.drop([name for name in TIMES if name in table.columns]).to_dicts()
    return path.read_bytes()


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def assert_blind(project: Project, other: Project, heads: list[str], controls: list[str]) -> None:
    run_all(project, heads, controls)
    run_all(other, heads, controls)
    before, after = left_behind(project), left_behind(other)
    assert before.keys() == after.keys()
    assert sum(name.endswith("head.safetensors") for name in before) == 2 * len(heads)
    assert sum(name.endswith("answers.parquet") for name in before) >= len(controls)
    assert any("tune" in name for name in before)
    assert [name for name in before if before[name] != after[name]] == []

    names = [*heads, *controls]
    boards = []
    for one in (project, other):
        files = (one.folder / "cache.zarr", one.folder / "examples.parquet", one.folder / "models")
        boards.append(evaluate(names, *files, one.folder / "results"))
    kept = ["rank", "head", "chosen", "control", "val_score", "val_low", "val_high", "parameters"]
    assert boards[0].select(kept).equals(boards[1].select(kept))
    assert boards[0]["test_score"].to_list() != boards[1]["test_score"].to_list(), "the labels did change"


def test_test_labels_change_nothing_before_evaluation(tmp_path: Path) -> None:
    project = made_with_texts(tmp_path / "one")[1]
    assert_blind(project, with_other_test_labels(project, tmp_path / "other"), HEADS, CONTROLS)


@pytest.mark.parametrize("kind", ["regression", "several", "similarity"])
def test_nor_do_scores_and_lists_of_labels(tmp_path: Path, kind: str) -> None:
    made_of_kind(tmp_path / "one", kind)
    project = Project(tmp_path / "one")
    other = with_other_test_labels(project, tmp_path / "other")
    assert_blind(project, other, ["last", "weighted"], ["mean_probe"])


def test_other_training_labels_do_change_heads_and_answers(tmp_path: Path) -> None:
    """The comparison sees a difference where there is one."""
    project = made_with_texts(tmp_path / "one")[1]
    other = Project(Path(shutil.copytree(project.folder, tmp_path / "other")))
    train_rows = pl.col("split") == "train"
    project.table.with_columns(
        label=pl.when(train_rows).then(pl.col("label").shift(1)).otherwise("label").fill_null("art"),
        label_index=pl.when(train_rows).then(pl.col("label_index").shift(1)).otherwise("label_index").fill_null(0),
    ).write_parquet(other.folder / "examples.parquet")
    for one in (project, other):
        run_all(one, ["last"], ["words"])
    before, after = left_behind(project), left_behind(other)
    changed = [name for name in before if before[name] != after[name]]
    assert {"models/last/seed-0/head.safetensors", "models/words/seed-0/answers.parquet"} <= set(changed)
