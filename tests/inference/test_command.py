"""`ilse predict`: every format in, both out, in order; and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ilse.cli import main
from inference import Predictor
from inference.files import predict_file
from tests.inference.conftest import Project, source

Build = Callable[..., Project]


def run(made: Project, *arguments: str | Path, head: str = "mean", **more: Any) -> Any:
    given = ("predict", made.trained(head), "--model", made.model, *arguments)
    return CliRunner().invoke(main, [str(part) for part in given], **more)


@pytest.fixture
def texts() -> list[str]:
    return source()["text"].to_list()


def test_the_same_answers_from_lines_csv_and_jsonl(project: Build, texts: list[str], tmp_path: Path) -> None:
    made = project()
    expected = [p.label for p in Predictor.load(made.trained("mean"), made.model).predict(texts)]
    (tmp_path / "lines.txt").write_text("\n".join(texts) + "\n")
    source().write_csv(tmp_path / "table.csv")
    source().rename({"text": "headline"}).write_ndjson(tmp_path / "table.jsonl")
    for name, more in (("lines.txt", ()), ("table.csv", ()), ("table.jsonl", ("--column", "headline"))):
        found = run(made, "--input", tmp_path / name, *more)
        assert found.exit_code == 0, found.output
        rows = list(csv.DictReader(io.StringIO(found.stdout)))
        assert [row["prediction"] for row in rows] == expected
        assert all(1 / 3 < float(row["probability"]) <= 1 for row in rows)
    found = run(made, "--input", "-", "--out", tmp_path / "out.jsonl", input="\n".join(texts))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in rows] == expected
    assert all(row["probability"] == max(row["probabilities"].values()) for row in rows)


def test_label_sets_and_scores_have_columns_too(project: Build, texts: list[str]) -> None:
    for kind in ("label sets", "scores"):
        made = project(kind)
        found = run(made, "--input", "-", input="\n".join(texts))
        rows = list(csv.DictReader(io.StringIO(found.stdout)))
        told = Predictor.load(made.trained("mean"), made.model).predict(texts)
        if kind == "scores":
            assert [float(row["prediction"]) for row in rows] == pytest.approx([p.score for p in told], abs=1e-4)
        else:
            assert [row["prediction"] for row in rows] == ["|".join(p.labels) for p in told]
            assert any("|" in row["prediction"] for row in rows)


def test_the_input_is_read_as_it_is_predicted(project: Build, tmp_path: Path) -> None:
    """Predictions of the first chunk are written before the second is read whole."""
    made, seen, place = project(), [], tmp_path / "out.csv"

    def lines() -> Iterator[str]:
        for number in range(600):
            seen.append((number, place.read_text().count("\n")))
            yield "the film wins\n"

    predictor = Predictor.load(made.trained("mean"), made.model)
    with place.open("w", buffering=1) as out:
        assert predict_file(predictor, lines(), out, "lines", "csv") == 600
    assert dict(seen)[0] == 0
    assert dict(seen)[599] > 500


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "headline\nthe film\n",
            r"input, row 2\n +expected: a text in column 'text'\n(.|\n)*columns headline",
        ),
        ("a.jsonl", '{"text": "the film"}\n{"text": 3}\n', "input, row 2"),
        ("a.jsonl", '{"text": "the film"}\n[\n', "input, line 2\n +expected: a JSON object"),
        ("a.jsonl", "[1]\n", "input, row 1"),
        ("b.txt", None, "no such file"),
    ],
)
def test_an_input_that_cannot_be_read_is_refused(
    project: Build, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    out = tmp_path / "out.csv"
    found = run(project(), "--input", tmp_path / name, "--out", out)
    assert found.exit_code == 2
    assert re.search(message, found.stderr)
    assert not out.exists()


def test_heads_on_pairs_and_other_endings_are_refused(project: Build, tmp_path: Path) -> None:
    found = run(project("pairs with a label"), "--input", "-", input="the film")
    assert (found.exit_code, "trained on pairs" in found.stderr) == (2, True)
    found = run(project(), "--input", "-", "--out", tmp_path / "out.xlsx", input="the film")
    assert (found.exit_code, "ends in .csv or .jsonl" in found.stderr) == (2, True)


def test_the_parameter_file_names_the_model(project: Build, tmp_path: Path) -> None:
    made, params = project(), tmp_path / "params.yaml"
    params.write_text(f"extract: {{ model: {{ path: {made.model} }} }}\n")
    arguments = ["predict", str(made.trained("mean")), "--input", "-", "--params", str(params)]
    found = CliRunner().invoke(main, arguments, input="the film\n")
    assert (found.exit_code, found.stdout.splitlines()[0]) == (0, "prediction,probability")
    found = CliRunner().invoke(main, [*arguments[:-1], str(tmp_path / "none.yaml")], input="the film\n")
    assert (found.exit_code, "none given" in found.stderr) == (2, True)
