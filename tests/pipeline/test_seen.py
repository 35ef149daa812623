"""Prepare leaves out what another prepared data set trains on."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ilse.core.errors import UserError
from tests.pipeline.prepared import run

PAIRS = {"text_column": "a", "text_pair_column": "b", "score_column": "y"}
SINGLE = {"text_column": "a", "label_column": "l"}
WORDS = [
    "A plane is taking off.",
    "a plane is taking off .",
    "Gold, price",
    "“Gold price”",
    "...",
    "?!",
    "Ünïted",
    "x y",
]


def write(path: Path, rows: list[tuple[str, str]], splits: list[str]) -> Path:
    columns = {"a": [a for a, _ in rows], "b": [b for _, b in rows], "y": [1.0] * len(rows), "split": splits}
    pl.DataFrame(columns | {"l": [str(i % 2) for i in range(len(rows))]}).write_csv(path)
    return path


def letters(text: str) -> str:
    """The obvious twin of the texts' comparison."""
    return "".join(c for c in text.lower() if c.isalnum()) or text


@pytest.mark.parametrize("columns", [PAIRS, SINGLE], ids=["pairs", "single"])
def test_the_rest_is_what_a_loop_leaves(columns: dict[str, str], tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [(draw.choice(WORDS), draw.choice(WORDS)) for _ in range(40)]
    of_pairs = columns is PAIRS
    given: dict[str, Any] = {**columns, "conflicts": "keep"}
    theirs = write(tmp_path / "theirs.csv", rows[:12], ["train"] * 8 + ["validation"] * 2 + ["test"] * 2)
    _, texts, examples = run(theirs, tmp_path / "theirs", split_column="split", **given)
    text_of = dict(texts.iter_rows())

    def key(*both: str) -> tuple[str, ...]:
        return tuple(sorted(letters(text) for text in both[: 1 + of_pairs]))

    ids = ["text_id", *(["pair_text_id"] if of_pairs else [])]
    trained_on = {key(*map(text_of.get, row)) for row in examples.filter(split="train").select(ids).iter_rows()}  # type: ignore[arg-type]
    ours = {"test": str(write(tmp_path / "ours.csv", rows[12:], ["test"] * 28))}
    whole, all_texts, _ = run(ours, tmp_path / "all", **given)
    counts, left_texts, left = run(ours, tmp_path / "left", exclude_train_of=str(tmp_path / "theirs"), **given)
    kept = [i for i, row in enumerate(rows[12:]) if key(*row) not in trained_on]
    assert left["source_row"].to_list() == kept
    assert counts["seen_elsewhere"] == 28 - len(kept) > 0
    assert f"rows dropped because the data set in exclude_train_of trains on them: {28 - len(kept)}" in counts["notes"]
    assert whole["seen_elsewhere"] == 0
    assert left_texts.equals(all_texts), "one cache serves both"


def test_what_it_refuses(tmp_path: Path) -> None:
    rows = [(f"a {i}", f"b {i}") for i in range(3)]
    ours = {"test": str(write(tmp_path / "ours.csv", rows, ["test"] * 3))}
    with pytest.raises(UserError, match=r"data set none, of prepare.exclude_train_of(.|\n)*No such file"):
        run(ours, tmp_path / "out", exclude_train_of="none", **PAIRS)
    theirs = write(tmp_path / "theirs.csv", rows, ["train", "validation", "test"])
    run(theirs, tmp_path / "single", split_column="split", label_column="l", text_column="a", conflicts="keep")
    with pytest.raises(UserError, match=r"expected: pairs of texts\n  found:    single texts"):
        run(ours, tmp_path / "out", exclude_train_of=str(tmp_path / "single"), **PAIRS)
    assert not (tmp_path / "out").exists()
