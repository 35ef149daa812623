"""`ilse predict`: every way in, every way out, in order; and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from click.testing import CliRunner

from ilse.cli import main
from ilse.predict import Predictor
from tests.predict.conftest import Project, source

Build = Callable[..., Project]


def run(made: Project, *arguments: str | Path, head: str = "mean", **more: Any) -> Any:
    given = ("predict", made.trained(head), "--model", made.model, *arguments)
    return CliRunner().invoke(main, [str(part) for part in given], **more)


def out_of(made: Project, place: Path, *arguments: str | Path, out: str = "out.parquet", head: str = "mean") -> Path:
    found = run(made, "--input", place, "--out", place.parent / out, *arguments, head=head)
    assert found.exit_code == 0, found.output
    assert not list(place.parent.glob(".*"))
    return place.parent / out


@pytest.fixture
def texts() -> list[str]:
    return source()["text"].to_list()


def test_the_same_answers_from_every_format(project: Build, texts: list[str], tmp_path: Path) -> None:
    made = project()
    expected = [p.label for p in Predictor.load(made.trained("mean"), made.model).predictions(texts)]
    (tmp_path / "lines.txt").write_text("\n".join(texts) + "\n")
    source().write_csv(tmp_path / "table.csv")
    source().rename({"text": "headline"}).write_ndjson(tmp_path / "table.jsonl")
    for name, more in (("lines.txt", ()), ("table.csv", ()), ("table.jsonl", ("--text-column", "headline"))):
        found = run(made, "--input", tmp_path / name, *more)
        assert found.exit_code == 0, found.output
        rows = list(csv.DictReader(io.StringIO(found.stdout)))
        assert [row["label"] for row in rows] == expected
        assert [row["row"] for row in rows] == [str(row) for row in range(len(texts))]
        assert all(1 / 3 < float(row["probability"]) <= 1 for row in rows)
    found = run(made, "--out", tmp_path / "out.jsonl", input="\n".join(texts))  # standard input, without being asked
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == expected
    assert f"{len(texts)}text" in found.stderr.replace(" ", "")


def test_it_runs_where_it_is_told_to(project: Build, texts: list[str], tmp_path: Path) -> None:
    made = project()
    given = {"input": "\n".join(texts[:8])}
    assert run(made, "--device", "cpu", "--threads", "1", **given).stdout == run(made, **given).stdout
    if not torch.cuda.is_available():
        found = run(made, "--device", "cuda", **given)
        assert found.exit_code == 2
        assert "a device that this machine has" in found.output


def test_the_three_outputs_say_the_same(project: Build, texts: list[str], tmp_path: Path) -> None:
    made = project()
    pl.DataFrame({"text": [*texts[:5], " ", None], "key": range(7)}).write_parquet(tmp_path / "in.parquet")
    options = ("--top-k", "2", "--id-column", "key")
    table, lines, flat = (
        out_of(made, tmp_path / "in.parquet", *options, out=f"out.{kind}") for kind in ("parquet", "jsonl", "csv")
    )
    found = pl.read_parquet(table)
    assert found.columns == ["row", "id", "label", "probability", "top"]
    assert found["id"].to_list() == [str(i) for i in range(7)]
    assert found["top"].list.first().struct.field("label").to_list() == found["label"].to_list()
    assert found.select("label", "probability", "top")[5:].null_count().row(0) == (2, 2, 2)  # of blank texts
    assert [json.loads(line) for line in lines.read_text().splitlines()] == json.loads(found.write_json())
    rows = list(csv.DictReader(io.StringIO(flat.read_text())))
    assert list(rows[0]) == [
        "row",
        "id",
        "label",
        "probability",
        "label_1",
        "probability_1",
        "label_2",
        "probability_2",
    ]
    assert [row["label_2"] for row in rows] == [top[1]["label"] if top is not None else "" for top in found["top"]]
    for row, prediction in zip(rows, made_predictor(made).predictions(texts[:5]), strict=False):
        assert prediction.top(2) == [(row[f"label_{k}"], pytest.approx(float(row[f"probability_{k}"]))) for k in (1, 2)]


def made_predictor(made: Project) -> Predictor:
    return Predictor.load(made.trained("mean"), made.model)


def test_the_cache_gives_the_same_answers(project: Build, tmp_path: Path) -> None:
    """Class and probability of every test example, against what evaluation read from the cache."""
    made = project()
    made.trained("cayley")
    table = made.predicted("cayley")
    texts = made.texts()
    pl.DataFrame({"text": [texts[text_id] for text_id in table["text_id"]]}).write_csv(tmp_path / "in.csv")
    found = pl.read_parquet(out_of(made, tmp_path / "in.csv", head="cayley"))
    assert found["label"].to_list() == table["prediction"].to_list()
    assert (found["probability"] - table["probability"]).abs().max() < 1e-3


def test_a_folder_of_texts(project: Build, texts: list[str], tmp_path: Path) -> None:
    made, folder = project(), tmp_path / "folder"
    folder.mkdir()
    for number in (2, 0, 1):
        (folder / f"{number}.txt").write_text(f"{texts[number]}\n\nwhat no model shall read\n")
    found = pl.read_parquet(out_of(made, folder, "--use", "first_line"))
    assert found["id"].to_list() == ["0.txt", "1.txt", "2.txt"]
    assert found["label"].to_list() == [p.label for p in made_predictor(made).predictions(texts[:3])]


def test_label_sets_and_scores_have_columns_too(project: Build, texts: list[str], tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("\n".join(texts))
    made = project("scores")
    found = pl.read_parquet(out_of(made, tmp_path / "in.txt"))
    assert found["score"].to_list() == pytest.approx(
        [p.score for p in made_predictor(made).predictions(texts)], abs=1e-4
    )
    refused = run(made, "--top-k", "2", input="the film")
    assert (refused.exit_code, "trained for regression" in refused.stderr) == (2, True)
    made = project("label sets")
    told = made_predictor(made).predictions(texts)
    found = pl.read_parquet(out_of(made, tmp_path / "in.txt", "--top-k", "9"))
    assert found["labels"].to_list() == [list(p.labels) for p in told]
    assert [[row["label"] for row in top] for top in found["top"]] == [
        [label for label, _ in p.top(None)] for p in told
    ]
    flat = pl.read_csv(out_of(made, tmp_path / "in.txt", out="out.csv"))
    assert flat["labels"].fill_null("").to_list() == ["|".join(p.labels) for p in told]
    assert flat["labels"].str.contains("|", literal=True).any()


@pytest.mark.parametrize(("kind", "column"), [("pairs with a label", "label"), ("pairs with a score", "score")])
def test_pairs_come_from_two_columns(project: Build, tmp_path: Path, kind: str, column: str) -> None:
    made = project(kind)
    source().write_csv(tmp_path / "in.csv")
    found = pl.read_parquet(out_of(made, tmp_path / "in.csv", "--text-pair-column", "other"))
    told = made_predictor(made).predictions(source().select("text", "other").rows())
    expected = [getattr(prediction, column) for prediction in told]
    assert found[column].to_list() == (expected if column == "label" else pytest.approx(expected, abs=1e-5))
    refused = run(made, input="the film")
    assert (refused.exit_code, "a table, for column 'text_pair'" in refused.stderr) == (2, True)


def test_mistakes_are_said_before_the_model_is_loaded(project: Build, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("headline\nthe film\n")
    (tmp_path / "empty.txt").write_text("")
    for arguments, message in (
        (("--input", "in.csv"), r"a column 'text'\n(.|\n)*--text-column"),
        (("--input", "none.csv"), "nothing there"),
        (("--input", "empty.txt"), r"at least one row\n +found: +none"),
        (("--out", "out.xlsx"), r"ends in .csv, .jsonl, .parquet\n"),
        (("--input", "in.csv", "--out", "in.csv"), r"found: +what --input names too"),
        (("--text-pair-column", "b"), "answers about single texts"),
    ):
        given = [tmp_path / part if "." in part else part for part in arguments]
        command = ["predict", project().trained("mean"), "--model", tmp_path / "no model", *given]
        found = CliRunner().invoke(main, [str(part) for part in command], input="the film\n")
        assert found.exit_code == 2
        assert re.search(message, found.stderr), found.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "empty.txt"}


def test_the_parameter_file_names_the_model(project: Build, tmp_path: Path) -> None:
    made, params = project(), tmp_path / "params.yaml"
    params.write_text(f"extract: {{ model: {{ path: {made.model} }} }}\n")
    arguments = ["predict", str(made.trained("mean")), "--params", str(params)]
    found = CliRunner().invoke(main, arguments, input="the film\n")
    assert (found.exit_code, found.stdout.splitlines()[0]) == (0, "row,label,probability")
    found = CliRunner().invoke(main, [*arguments[:-1], str(tmp_path / "none.yaml")], input="the film\n")
    assert (found.exit_code, "none given" in found.stderr) == (2, True)


def test_the_folder_of_all_seeds_is_its_best_seed(project: Build, texts: list[str]) -> None:
    made = project()
    given = {"input": "\n".join(texts[:8])}
    one = made.trained("mean")
    found = CliRunner().invoke(main, ["predict", str(one.parent), "--model", str(made.model)], **given)
    assert found.exit_code == 0, found.output
    assert found.stdout == run(made, **given).stdout


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_text_stands_beside_its_answer(project: Build, texts: list[str], tmp_path: Path, ending: str) -> None:
    made = project()
    pl.DataFrame({"text": [*texts[:5], ""], "key": range(6)}).write_parquet(tmp_path / "in.parquet")
    out = out_of(made, tmp_path / "in.parquet", "--with-text", "--id-column", "key", out=f"out.{ending}")
    read = {"csv": pl.read_csv, "jsonl": pl.read_ndjson, "parquet": pl.read_parquet}[ending]
    found = read(out)  # type: ignore[operator]
    assert found.columns == ["row", "id", "text", "label", "probability"]
    assert found["text"].fill_null("").to_list() == [*texts[:5], ""]
    bare = read(out_of(made, tmp_path / "in.parquet", "--id-column", "key", out=f"bare.{ending}"))  # type: ignore[operator]
    assert found.drop("text").equals(bare)
