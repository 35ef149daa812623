"""The evaluate stage: its figures by hand, what it refuses, and that the test split chooses nothing."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import trainer.stages.evaluate as evaluation
from ilse.core.errors import UserError
from tests.trainer.conftest import LABELS, LAYERS, Made, write_task
from trainer.artifacts.artifact import load_head
from trainer.config import TrainParams
from trainer.data.task import Task
from trainer.report.evaluation import read_results
from trainer.results.manifest import together
from trainer.stages.evaluate import evaluate
from trainer.stages.train import train

HEADS = ["last", "best", "mean", "weighted"]
RECIPE = {"epochs": 5, "batch_size": 16, "learning_rate": 0.02, "optimizer": "adamw", "folds": None}
PARAMS = TrainParams.model_validate({"seeds": 2, "device": "cpu", "heads": HEADS, "recipe": RECIPE})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task and its trained heads; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    made = write_task(folder)
    for name in HEADS:
        train(PARAMS, name, made.cache, made.examples, folder / "models", folder / "results")
    return folder


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "project"))


def run(project: Path, heads: list[str] | None = None) -> pl.DataFrame:
    return evaluate(
        heads or HEADS, project / "cache.zarr", project / "examples.parquet", project / "models", project / "results"
    )


def test_the_tables_follow_from_the_predictions(project: Path) -> None:
    table = run(project)
    results = project / "results"
    examples = pl.read_parquet(project / "examples.parquet").filter(split="test")
    runs = pl.read_csv(results / "runs.csv")
    assert pl.read_csv(results / "leaderboard.csv").select("head", "rank").equals(table.select("head", "rank"))
    for name in HEADS:
        predictions = pl.read_parquet(results / "predictions" / f"{name}.parquet")
        accuracies = []
        for seed in range(2):
            one = predictions.filter(seed=seed)
            assert one.select("text_id", "label").equals(examples.select("text_id", "label"))
            probabilities = one["probabilities"].to_numpy()
            np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
            assert one["prediction"].to_list() == [LABELS[i] for i in probabilities.argmax(1)]
            np.testing.assert_array_equal(one["probability"], probabilities.max(1))
            accuracies.append(sum(a == b for a, b in one.select("label", "prediction").rows()) / len(one))
            facts = load_head(project / "models" / name / f"seed-{seed}").facts
            listed = runs.filter(head=name, seed=seed).row(0, named=True)
            assert listed["test_score"] == pytest.approx(accuracies[-1], abs=1e-6)
            assert listed["val_score"] == pytest.approx(facts.val_score, abs=1e-6)
        row = table.filter(head=name).row(0, named=True)
        assert row["test_score"] == pytest.approx(np.mean(accuracies))
        assert (row["test_low"], row["test_high"]) == pytest.approx((min(accuracies), max(accuracies)))


def test_the_gain_is_what_the_comparison_has_an_interval_for(project: Path) -> None:
    gains = dict(run(project).select("head", "gain_points").iter_rows())
    compared = pl.read_csv(project / "results" / "comparison.csv").filter(baseline="last")
    assert set(compared["head"]) == {name for name in gains if name != "last"}
    assert {head: gains[head] for head in compared["head"]} == pytest.approx(
        dict(compared.select("head", "difference_points").iter_rows()), abs=2e-6
    )


def test_predictions_are_those_of_the_head_alone(project: Path) -> None:
    """By hand: one example at a time from the values that were put into the cache."""
    made = write_task(project.parent)
    run(project, ["best"])
    predictions = pl.read_parquet(project / "results" / "predictions" / "best.parquet").filter(seed=1)
    state = load_head(project / "models" / "best" / "seed-1")
    weight, bias = (p.detach().numpy() for p in (state.head.readout.weight, state.head.readout.bias))
    (layer,) = state.head.layers_read
    for row in predictions.head(10).to_dicts():
        x = (
            made.values[row["text_id"]][layer] - state.treatment.standardise.mean[0].numpy()
        ) / state.treatment.standardise.scale[0].numpy()
        exponentials = np.exp(weight @ x + bias)
        np.testing.assert_allclose(row["probabilities"], exponentials / exponentials.sum(), rtol=1e-3, atol=1e-6)


def test_metrics_and_confusion(project: Path) -> None:
    table = run(project)
    found = json.loads((project / "results" / "metrics.json").read_text())
    assert found.keys() == {
        "objective", "metric", "chosen", "train_rows", "validation_rows", "test_rows", "labels", "heads",
        "controls", "truncated_examples", "truncated_by_label",
    }  # fmt: skip
    assert (found["truncated_examples"], found["truncated_by_label"]) == (0, {})
    assert (found["objective"], found["metric"]) == ("multi_class", "accuracy")
    assert (found["train_rows"], found["validation_rows"], found["test_rows"]) == (90, 45, 45)
    assert found["labels"] == list(LABELS)
    assert found["heads"].keys() == set(HEADS)
    first = table.row(0, named=True)
    assert found["chosen"]["head"] == first["head"] == "best"
    assert found["chosen"]["gain_over_last_points"] == first["gain_points"]
    assert found["chosen"]["test_score"] > 0.8

    compared = json.loads((project / "results" / "scores.json").read_text())
    assert compared == {
        "head": "best", "seeds": first["seeds"], "val_score": first["val_score"], "test_score": first["test_score"],
        "gain_over_last_points": first["gain_points"], "best_control": None, "best_control_test_score": None,
    }  # fmt: skip

    predictions = pl.read_parquet(project / "results" / "predictions" / "best.parquet")
    with (project / "results" / "confusion.csv").open(newline="") as file:
        pairs = [(row["actual"], row["predicted"]) for row in csv.DictReader(file)]
    assert pairs == predictions.select("label", "prediction").rows()
    text = (project / "results" / "leaderboard.txt").read_text()
    assert [line.split()[0] for line in text.splitlines()[1:5]] == table["head"].to_list()


def figures(project: Path, table: pl.DataFrame) -> dict[str, Any]:
    kept = [name for name in table.columns if not name.startswith(("test", "gain"))]
    return {
        "leaderboard": table.select(kept).rows(),
        "layers": (project / "results" / "layers.csv").read_bytes(),
        "weights": (project / "results" / "weights.csv").read_bytes(),
        "chosen": json.loads((project / "results" / "metrics.json").read_text())["chosen"]["head"],
    }


@pytest.mark.parametrize("seed", range(3))
def test_the_test_labels_choose_nothing(project: Path, seed: int) -> None:
    table = run(project)
    before = figures(project, table)
    examples = pl.read_parquet(project / "examples.parquet")
    held_out = examples.filter(split="test")
    order = np.random.default_rng(seed).permutation(len(held_out))
    labels = held_out.select("label", "label_index")[order]
    others = held_out.with_columns(labels["label"], labels["label_index"])
    pl.concat([examples.filter(pl.col("split") != "test"), others]).write_parquet(project / "examples.parquet")
    permuted = run(project)
    assert figures(project, permuted) == before
    assert permuted["test_score"].to_list() != table["test_score"].to_list()


def test_layers_and_weights_go_with_their_heads(project: Path) -> None:
    run(project)
    results = project / "results"
    layers = pl.read_csv(results / "layers.csv")
    assert layers["name"].to_list() == list(LAYERS)
    assert layers["layer"][layers["val_score"].arg_max()] == 2
    weights = pl.read_csv(results / "weights.csv")
    assert weights["head"].unique().to_list() == ["weighted"]
    assert weights["weight"].sum() == pytest.approx(1, abs=0.02)

    run(project, ["last", "mean"])
    # A header and no rows, not yesterday's: DVC tracks both files, so they are always there.
    assert pl.read_csv(results / "layers.csv").is_empty()
    assert pl.read_csv(results / "weights.csv").is_empty()
    assert sorted(path.name for path in (results / "predictions").iterdir()) == ["last.parquet", "mean.parquet"]


def test_heads_that_are_not_listed_are_ignored(project: Path) -> None:
    (project / "models" / "cayley" / "seed-0").mkdir(parents=True)
    (project / "models" / "last" / "seed-0.backup").mkdir()
    (project / "models" / "last" / "seed-x").mkdir()
    (project / "models" / "best" / "seed-0" / "config.json").write_text("damaged")
    table = run(project, ["mean", "last"])
    assert sorted(table["head"]) == ["last", "mean"]
    assert table["seeds"].to_list() == [2, 2]


def test_without_last_there_is_no_gain(project: Path) -> None:
    assert run(project, ["best"])["gain_points"].to_list() == [None]
    assert "None" not in (project / "results" / "leaderboard.csv").read_text()


def test_answers_beyond_memory_are_refused_before_they_are_made(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.data.memory.free_memory", lambda: 1000)
    before = sorted(project.rglob("*"))
    with pytest.raises(UserError, match=r"answers to \d+ examples\n.*GB of free memory(.|\n)*fewer labels"):
        run(project)
    assert sorted(project.rglob("*")) == before


def test_a_head_that_is_missing_is_named(project: Path) -> None:
    with pytest.raises(UserError, match=r"head .*fc\n(.|\n)*'ilse train fc' first, or remove it from train.heads"):
        run(project, ["last", "fc"])


def test_a_damaged_head_is_named(project: Path) -> None:
    (project / "models" / "mean" / "seed-1" / "head.safetensors").unlink()
    with pytest.raises(UserError, match=r"head .*mean/seed-1\n"):
        run(project)


def assert_refused(project: Path, made: Made, what: str) -> None:
    with pytest.raises(
        UserError, match=rf"head .*seed-0\n +expected: the {what} it was trained on(.|\n)*train the head"
    ):
        evaluate(HEADS, made.cache, made.examples, project / "models", project / "results")
    assert not (project / "results" / "leaderboard.csv").exists()


def test_a_head_of_another_capture_is_refused(project: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert_refused(project, write_task(tmp_path / "other", template="news: {text}"), "capture")


def test_a_head_of_other_labels_is_refused(project: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    made = write_task(tmp_path / "other")
    made.table.with_columns(pl.col("label").replace("art", "air")).write_parquet(made.examples)
    assert_refused(project, made, "labels")


def test_a_label_that_stands_in_test_alone(tmp_path: Path) -> None:
    made = write_task(tmp_path)
    new = pl.col("split") == "test"
    made.table.with_columns(
        label=pl.when(new & (pl.col("label") == "war")).then(pl.lit("zoo")).otherwise("label"),
        label_index=pl.when(new & (pl.col("label") == "war")).then(3).otherwise("label_index"),
    ).write_parquet(made.examples)
    train(PARAMS, "best", made.cache, made.examples, tmp_path / "models", tmp_path / "results")
    table = evaluate(["best"], made.cache, made.examples, tmp_path / "models", tmp_path / "results")
    predictions = pl.read_parquet(tmp_path / "results" / "predictions" / "best.parquet")
    assert "zoo" in predictions["label"].to_list()
    assert predictions["probabilities"].to_numpy().shape == (2 * 45, 4)
    assert table["test_score"][0] < 0.8


def test_the_test_rows_are_read_once_for_heads_that_read_the_same(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[tuple[int, ...]] = []
    original = Task.held_out
    monkeypatch.setattr(Task, "held_out", lambda self, *given: reads.append(given[0]) or original(self, *given))
    run(project, ["mean", "weighted", "last"])
    assert reads == [(0, 1, 2, 3), (3,)]


def test_evaluating_again_gives_the_same_bytes(project: Path) -> None:
    run(project)
    files = [path for path in (project / "results").rglob("*") if path.is_file()]
    first = {path: path.read_bytes() for path in files}
    run(project)
    assert {path: path.read_bytes() for path in files} == first


def test_exits_are_a_curve_of_accuracy_against_depth(tmp_path: Path) -> None:
    made = write_task(tmp_path)
    params = PARAMS.model_copy(update={"heads": ["exits", "last"]})
    for name in params.heads:
        train(params, name, made.cache, made.examples, tmp_path / "models", tmp_path / "results")
    run(tmp_path, ["exits", "last"])
    table = pl.read_csv(tmp_path / "results" / "exits.csv")
    assert table["head"].unique().to_list() == ["exits"]
    assert table["seed"].unique().sort().to_list() == [0, 1]
    runs = pl.read_csv(tmp_path / "results" / "runs.csv").filter(head="exits")
    for seed, accuracy in zip(runs["seed"], runs["test_score"], strict=True):
        of_seed = table.filter(seed=seed)
        own = of_seed.filter("chosen")
        assert own["accuracy"].to_list() == pytest.approx([accuracy], abs=1e-6)
        head = load_head(tmp_path / "models" / "exits" / f"seed-{seed}")
        assert own["threshold"].item() == pytest.approx(float(head.get_buffer("head.threshold")))
        assert of_seed["mean_layer"].max() == len(LAYERS) - 1
        assert of_seed["mean_layer"].min() == 0


def test_test_rows_that_do_not_fit_are_streamed_to_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_task(tmp_path, {"train": 90, "validation": 45, "test": 120})
    heads = ["exits", "last", "mean"]
    params = PARAMS.model_copy(update={"heads": heads, "seeds": 1})
    for name in heads:
        train(params, name, made.cache, made.examples, tmp_path / "models", tmp_path / "results")
    streamed = []
    original = Task.held_out_streamed
    monkeypatch.setattr(
        Task, "held_out_streamed", lambda self, *given, **more: streamed.append(1) or original(self, *given, **more)
    )
    for folder, budget in (("memory", 1.0), ("stream", 12e-6)):
        evaluate(heads, made.cache, made.examples, tmp_path / "models", tmp_path / folder, budget)
    assert len(streamed) == 2, "one layer fits"
    for name in ("runs.csv", "exits.csv", "leaderboard.csv", "confusion.csv"):
        # Other batches round the last digits otherwise.
        assert_frame_equal(*(pl.read_csv(tmp_path / way / name) for way in ("memory", "stream")), rel_tol=1e-4)
    for name in heads:
        one, other = (
            pl.read_parquet(tmp_path / way / "predictions" / f"{name}.parquet") for way in ("memory", "stream")
        )
        assert one.drop("probability", "probabilities").equals(other.drop("probability", "probabilities"))
        np.testing.assert_allclose(one["probability"], other["probability"], rtol=1e-5)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("last", ["_write_tables", "_write_significance"])
def test_an_evaluation_that_fails_while_it_writes_leaves_the_tables_of_the_one_before(
    project: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    run(project)
    before, written = files(project / "results"), getattr(evaluation, last)

    def full(*given: Any) -> None:
        written(*given)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(evaluation, last, full)
    with pytest.raises(OSError, match="No space"):
        run(project, ["last", "mean"])
    assert files(project / "results") == before
    assert not [path for path in (project / "results").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("after", [0, 1, 2, 5, 9])
def test_tables_of_two_evaluations_side_by_side_are_refused_by_name(
    project: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The second one is cut short after so many of its tables have taken their places."""
    run(project)
    before, replace, left = files(project / "results"), Path.replace, iter(range(after))

    def cut_short(path: Path, target: Path) -> Path:
        if target.parent == project / "results" and next(left, None) is None:
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", cut_short)
    with pytest.raises(KeyboardInterrupt):
        run(project, ["last", "mean"])
    monkeypatch.undo()
    if after == 0:
        assert files(project / "results") == before
        return
    with pytest.raises(UserError, match=r"tables of one evaluation(.|\n)*runs\.csv(.|\n)* of another one, or changed"):
        read_results(project / "results")
    run(project, ["last", "mean"])
    assert read_results(project / "results").leaderboard["head"].sort().to_list() == ["last", "mean"]


def test_a_second_evaluation_at_the_same_time_is_refused(project: Path) -> None:
    with (
        together(project / "results"),
        pytest.raises(UserError, match=rf"one run at a time(.|\n)*process {os.getpid()}"),
    ):
        run(project)
