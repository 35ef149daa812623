"""Which examples are shown, by hand."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from ilse.core.errors import UserError
from tests.trainer.report.made_up import write_everything
from trainer.report.on_test.examples import Examples, differing


def write(folder: Path, head: str, rows: list[tuple[int, str, str, str]]) -> None:
    (folder / "predictions").mkdir(exist_ok=True)
    columns = ["seed", "text_id", "label", "prediction"]
    pl.DataFrame(rows, schema=columns, orient="row").write_parquet(folder / "predictions" / f"{head}.parquet")


def shown(folder: Path, **heads: dict[str, list[str]]) -> Examples:
    """The examples of heads whose answers by text are given, a letter a seed; every label is `x`."""
    for head, answers in heads.items():
        rows = [(seed, text, "x", given[seed]) for seed in range(3) for text, given in answers.items()]
        write(folder, head, rows)
    pl.DataFrame({"text_id": list("abcd"), "text": ["A", "B", "C", "D" * 400]}).write_parquet(folder / "texts.parquet")
    return differing(folder, folder / "texts.parquet", "ours", "last")


def test_right_in_most_seeds_against_wrong_in_most(tmp_path: Path) -> None:
    ours = {"a": list("xxy"), "b": list("xxx"), "c": list("yyx"), "d": list("xyy")}
    last = {"a": list("yyx"), "b": list("zyz"), "c": list("xxx"), "d": list("yxy")}
    found = shown(tmp_path, ours=ours, last=last)
    assert [(row["text"], row["right"], row["right_other"], row["seeds"]) for row in found.gained] == [
        ("B", 3, 0, 3),
        ("A", 2, 1, 3),
    ]
    assert [row["prediction_other"] for row in found.gained] == ["z", "y"]
    assert [(row["text"], row["prediction"]) for row in found.lost] == [("C", "y")]
    assert found.counts == (2, 1)


def test_a_text_in_two_examples_is_two_examples(tmp_path: Path) -> None:
    for head, answers in {"ours": "xx", "last": "yx"}.items():
        write(tmp_path, head, [(0, "a", "x", answer) for answer in answers])
    pl.DataFrame({"text_id": ["a"], "text": ["A"]}).write_parquet(tmp_path / "t.parquet")
    assert differing(tmp_path, tmp_path / "t.parquet", "ours", "last").counts == (1, 0)


def test_at_most_twelve_and_six(tmp_path: Path) -> None:
    results, _, texts = write_everything(tmp_path)
    found = differing(results, texts, "cayley", "last")
    assert (len(found.gained), len(found.lost)) == (12, 6)
    assert found.counts[0] > 12
    assert found.counts[1] > 6


@pytest.mark.parametrize(
    ("head", "texts", "reason"),
    [
        ("last", "texts.parquet", "last is the chosen head itself"),
        ("cayley", "gone.parquet", "no texts were given: ‘ilse report --texts"),
        ("fc", "texts.parquet", "there is no file predictions/fc.parquet"),
    ],
)
def test_why_there_are_none(tmp_path: Path, head: str, texts: str, reason: str) -> None:
    results, _, _ = write_everything(tmp_path)
    assert reason in differing(results, tmp_path / texts, head, "last").lacking


def test_tasks_without_a_single_label_have_none(tmp_path: Path) -> None:
    results, _, texts = write_everything(tmp_path)
    for head in ("cayley", "last"):
        table = pl.DataFrame({"seed": [0], "text_id": ["a"], "score": [0.5], "prediction": [0.4]})
        table.write_parquet(results / "predictions" / f"{head}.parquet")
    assert differing(results, texts, "cayley", "last").lacking == "these examples have no single label"


def test_a_broken_table_of_answers_is_named(tmp_path: Path) -> None:
    results, _, texts = write_everything(tmp_path)
    (results / "predictions" / "last.parquet").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"last\.parquet(?s:.*)a parquet table"):
        differing(results, texts, "cayley", "last")
