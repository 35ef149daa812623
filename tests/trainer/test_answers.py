"""Answers on disk: the same after loading, refused in every way that they can be wrong, and judged beside the heads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from ilse.core.errors import UserError
from pipeline.store import open_cache
from tests.trainer.conftest import LABELS, Made, write_task
from trainer.artifacts.answers import Answers, AnswersFacts, has_answers, load_answers, save_answers, texts_digest
from trainer.config import TrainParams
from trainer.data.task import Task, open_task
from trainer.report import report
from trainer.stages.evaluate import evaluate
from trainer.stages.train import train

ROWS = 45


def opened(made: Made) -> Task:
    return open_task(open_cache(made.cache), made.examples)


def facts_of(task: Task, **changes: Any) -> AnswersFacts:
    facts: dict[str, Any] = {
        "name": "oracle", "summary": "knows much", "objective": {"kind": "multi_class"}, "labels": list(task.labels),
        "texts": texts_digest(task.unlabelled_ids()), "seed": 0, "val_score": 0.9, "val_loss": None, "parameters": 7,
        "model_parameters": 0, "train_seconds": 1.5,
    }  # fmt: skip
    return AnswersFacts(**{**facts, **changes})


def probabilities(seed: int = 0) -> torch.Tensor:
    return torch.randn(ROWS, len(LABELS), generator=torch.Generator().manual_seed(seed)).softmax(-1)


@pytest.fixture
def saved(made: Made, tmp_path: Path) -> Path:
    task, folder = opened(made), tmp_path / "answers"
    save_answers(folder, Answers(facts_of(task), probabilities()), task.unlabelled_ids())
    return folder


def test_loaded_answers_are_those_that_were_saved(saved: Path, made: Made, tmp_path: Path) -> None:
    task = opened(made)
    loaded = load_answers(saved, task)
    assert torch.equal(loaded.predicted, probabilities())
    assert loaded.facts == facts_of(task)
    assert loaded.objective.kind == "multi_class"
    assert has_answers(saved)
    assert not has_answers(tmp_path)
    save_answers(tmp_path / "again", loaded, task.unlabelled_ids())
    for name in ("answers.parquet", "answers.json"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_the_digest_is_what_another_program_would_compute(made: Made) -> None:
    import hashlib

    ids = opened(made).unlabelled_ids()
    lines = "".join(f"{text_id}\n" for text_id in ids["text_id"])
    assert texts_digest(ids) == hashlib.sha256(lines.encode()).hexdigest()
    pairs = pl.DataFrame({"text_id": ["a", "b"], "pair_text_id": ["c", "d"]})
    assert texts_digest(pairs) == hashlib.sha256(b"a c\nb d\n").hexdigest()


@pytest.mark.parametrize("kind", [pl.List(pl.Float64), pl.Array(pl.Float32, 3)])
def test_lists_of_any_kind_are_read(saved: Path, made: Made, kind: pl.DataType) -> None:
    change_table(saved, lambda table: table.with_columns(pl.col("answer").cast(kind)))
    torch.testing.assert_close(load_answers(saved, opened(made)).predicted, probabilities())


def change_table(folder: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    change(pl.read_parquet(folder / "answers.parquet")).write_parquet(folder / "answers.parquet")


def change_facts(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    facts = json.loads((folder / "answers.json").read_text())
    change(facts)
    (folder / "answers.json").write_text(json.dumps(facts))


def refuses(folder: Path, made: Made, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_answers(folder, opened(made))
    assert caught.value.where == f"answers {folder}"
    assert caught.value.next_step.startswith("let what made them answer")


def with_answers(values: Any) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda table: table.with_columns(pl.Series("answer", values, strict=False))


def first_row(*values: float | None) -> list[list[float | None]]:
    return [list(values), *probabilities()[1:].tolist()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.head(44), "45 answers, one per test example\n.*found: +44"),
        (lambda table: table.reverse(), "text ids in their order\n.*another order"),
        (lambda table: table.drop("answer"), "columns text_id, answer\n.*no answer"),
        (lambda table: table.drop("text_id"), "columns text_id, answer\n.*no text_id"),
        (with_answers(probabilities()[:, :2].tolist()), "3 probabilities for each(.|\n)*lists of 2 values"),
        (with_answers([0.5] * ROWS), "3 probabilities for each example, for multi_class\n.*numbers"),
        (with_answers(first_row(0.5, 0.5)), "a list of so many for each\n.*lists of 2 and 3 values"),
        (with_answers(["art"] * ROWS), "a number for each example(.|\n)*String"),
        (with_answers(first_row(float("nan"), 0.5, 0.5)), "finite answers\n.*NaN or infinite"),
        (with_answers(first_row(float("inf"), 0.5, 0.5)), "finite answers"),
        (with_answers(first_row(None, 0.5, 0.5)), "finite answers\n.*missing"),
        (with_answers([None, *probabilities()[1:].tolist()]), "finite answers\n.*missing"),
        (with_answers(first_row(-0.25, 0.75, 0.5)), "from 0 to 1\n.*found: +-0.25 to"),
        (with_answers(first_row(0.5, 0.5, 0.002)), "that sum to 1\n.*to 1.002"),
    ],
)
def test_a_table_that_answers_something_else_is_refused(
    saved: Path, made: Made, change: Callable[[pl.DataFrame], pl.DataFrame], message: str
) -> None:
    change_table(saved, change)
    refuses(saved, made, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.update(format_version=2), "answers format version 1\n.*version 2"),
        (lambda f: f.pop("format_version"), "version None"),
        (
            lambda f: f.update(texts="0" * 64),
            "answers to this task's test examples(.|\n)*other texts.*0000000000000000",
        ),
        (lambda f: f.update(labels=["art", "law", "zoo"]), "the labels art, law, war\n.*art, law, zoo"),
        (lambda f: f.pop("summary"), "summary: Field required"),
        (lambda f: f.update(more=1), "more: Unexpected"),
        (lambda f: f.update(seed="0"), "seed: Input should be a valid integer"),
        (lambda f: f.update(parameters=-1), "parameters: Input should be greater"),
        (lambda f: f.update(val_score=None), "val_score"),
        (lambda f: f.update(objective={"kind": "poetry"}), "facts of an objective(.|\n)*poetry"),
        (lambda f: f.update(objective={"kind": "multi_class", "more": 1}), "facts of an objective"),
        (lambda f: f.update(objective={"kind": "ordinal"}, labels=["art"]), "at least two labels"),
    ],
)
def test_facts_of_something_else_are_refused(
    saved: Path, made: Made, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    change_facts(saved, change)
    refuses(saved, made, message)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format_version": 1}'])
def test_damaged_facts_are_refused(saved: Path, made: Made, content: bytes) -> None:
    (saved / "answers.json").write_bytes(content)
    refuses(saved, made, "answers format version 1|the facts of|Field required")


@pytest.mark.parametrize("name", ["answers.json", "answers.parquet"])
def test_a_missing_file_is_named(saved: Path, made: Made, name: str) -> None:
    (saved / name).unlink()
    refuses(saved, made, f"found: +no {name}")


def test_a_damaged_table_is_refused(saved: Path, made: Made) -> None:
    (saved / "answers.parquet").write_bytes(b"PAR1 and no more")
    refuses(saved, made, "a Parquet table")


def test_probabilities_written_with_few_digits_are_taken(saved: Path, made: Made) -> None:
    change_table(saved, with_answers([[0.333, 0.333, 0.3335]] * ROWS))
    assert load_answers(saved, opened(made)).predicted.sum(-1).max() < 1


def test_answers_to_another_data_set_are_refused(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    refuses(saved, write_task(tmp_path / "other", seed=1), "answers to this task's test examples")


def test_scores_are_numbers(made: Made, tmp_path: Path) -> None:
    made.table.drop("label", "label_index").with_columns(score=pl.int_range(pl.len()) / 7).write_parquet(made.examples)
    task = opened(made)
    facts, scores = facts_of(task, objective={"kind": "regression"}), torch.arange(ROWS) / 7
    save_answers(tmp_path / "scores", Answers(facts, scores), task.unlabelled_ids())
    assert torch.equal(load_answers(tmp_path / "scores", task).predicted, scores)
    change_table(tmp_path / "scores", with_answers([[0.1, 0.2]] * ROWS))
    refuses(tmp_path / "scores", made, "a number for each example, for regression\n.*lists of 2 values")


HEADS = ["last", "mean"]
PARAMS = TrainParams.model_validate(
    {"seeds": 1, "device": "cpu", "heads": HEADS, "recipe": {"epochs": 3, "batch_size": 16, "folds": None}}
)


@pytest.fixture
def project(made: Made, tmp_path: Path) -> Path:
    """Two heads, and answers that are all right and say so."""
    for name in HEADS:
        train(PARAMS, name, made.cache, made.examples, tmp_path / "models", tmp_path / "results")
    task = opened(made)
    labels = made.table.filter(split="test")["label_index"].to_numpy()
    for seed in range(2):
        facts = facts_of(task, val_score=1.0, seed=seed)
        right = torch.eye(len(LABELS))[torch.tensor(labels)]
        save_answers(tmp_path / "models" / "oracle" / f"seed-{seed}", Answers(facts, right), task.unlabelled_ids())
    return tmp_path


def run(project: Path, names: list[str]) -> pl.DataFrame:
    files = (project / "cache.zarr", project / "examples.parquet", project / "models", project / "results")
    return evaluate(names, *files)


def test_a_control_is_ranked_and_never_chosen(project: Path) -> None:
    table = run(project, [*HEADS, "oracle"])
    assert table["head"][0] == "oracle"
    first, second = table.head(2).to_dicts()
    assert (first["rank"], first["control"], first["chosen"], first["test_score"]) == (1, True, False, 1.0)
    assert (first["summary"], first["share_percent"], first["seeds"]) == ("knows much", None, 2)
    assert (second["rank"], second["control"], second["chosen"]) == (2, False, True)
    results = project / "results"
    metrics = json.loads((results / "metrics.json").read_text())
    assert metrics["chosen"]["head"] == second["head"]
    assert (set(metrics["heads"]), set(metrics["controls"])) == (set(HEADS), {"oracle"})
    written = pl.read_csv(results / "leaderboard.csv", null_values="")
    assert written.select("head", "rank", "control", "chosen").equals(table.select("head", "rank", "control", "chosen"))
    runs = pl.read_csv(results / "runs.csv").filter(head="oracle")
    assert runs["seed"].to_list() == [0, 1]
    assert runs["best_epoch"].to_list() == runs["val_loss"].to_list() == [None, None]
    assert runs["test_f1_macro"].to_list() == [1.0, 1.0]
    predictions = pl.read_parquet(results / "predictions" / "oracle.parquet")
    assert predictions["prediction"].to_list() == predictions["label"].to_list()
    assert predictions.schema == pl.read_parquet(results / "predictions" / "mean.parquet").schema
    confusion = pl.read_csv(results / "confusion.csv")
    assert len(confusion) == ROWS
    scores = json.loads((results / "scores.json").read_text())
    assert (scores["best_control"], scores["best_control_test_score"]) == ("oracle", 1.0)
    assert "Controls, never chosen: oracle." in (results / "leaderboard.txt").read_text()
    assert "oracle" in report(results, {}, project / "report.html").read_text()


def test_heads_figures_are_the_same_with_and_without_controls(project: Path) -> None:
    alone, beside = run(project, HEADS), run(project, [*HEADS, "oracle"])
    assert beside.filter(~pl.col("control")).drop("rank", "share_percent").equals(alone.drop("rank", "share_percent"))
    np.testing.assert_allclose(beside["share_percent"].drop_nulls(), alone["share_percent"])


def test_controls_alone_are_no_comparison(project: Path) -> None:
    with pytest.raises(UserError, match=r"at least one trained head(.|\n)*answers alone: oracle(.|\n)*'ilse train'"):
        run(project, ["oracle"])


def test_a_control_that_is_missing_is_named(project: Path) -> None:
    with pytest.raises(UserError, match="'ilse control words' first, or remove it from the section 'controls'"):
        run(project, ["last", "words"])


def test_answers_for_another_objective_are_not_compared(project: Path) -> None:
    change_facts(project / "models" / "oracle" / "seed-0", lambda f: f.update(objective={"kind": "ordinal"}))
    with pytest.raises(UserError, match=r"oracle\n(.|\n)*the objective it was trained on(.|\n)*ordinal"):
        run(project, [*HEADS, "oracle"])
