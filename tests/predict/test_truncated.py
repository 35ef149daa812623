"""Texts that were cut, counted by label from what the stages wrote."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import polars as pl
import pytest

from pipeline import store
from tests.predict.conftest import Project
from trainer.data.truncated import Truncated
from trainer.stages.evaluate import evaluate

Build = Callable[..., Project]
HEADS = {"labels": "last", "label sets": "last", "scores": "last", "pairs with a label": "last"}


@pytest.mark.parametrize("kind", HEADS)
def test_an_example_is_counted_for_its_labels_where_a_text_of_it_was_cut(project: Build, kind: str) -> None:
    made = project(kind)
    made.trained(HEADS[kind])
    folder = made.folder
    evaluate([HEADS[kind]], made.cache, folder / "examples.parquet", folder / "models", folder / "results")
    cache = store.open_cache(made.cache)
    cut = dict(zip(cache.text_ids(), cache.truncated().tolist(), strict=True))
    examples, expected, every, some = pl.read_parquet(folder / "examples.parquet"), Counter[str](), Counter[str](), 0
    for row in examples.iter_rows(named=True):
        is_cut = cut[row["text_id"]] or cut.get(row.get("pair_text_id"), False)
        some += is_cut
        labels = row["labels"] if "labels" in row else [row["label"]] if "label" in row else []
        every.update(labels)
        expected.update(labels if is_cut else [])
    assert 0 < some < len(examples)
    found = json.loads((folder / "results" / "metrics.json").read_text())
    assert found["truncated_examples"] == some
    assert found["truncated_by_label"] == expected
    said = " ".join((folder / "results" / "leaderboard.txt").read_text().split())
    assert f"Truncated texts: in {some} of {len(examples)} examples" in said
    assert all(f"{label} {count} of {every[label]}" in said for label, count in expected.items())


def test_the_line_names_a_few_labels_and_nothing_where_nothing_was_cut() -> None:
    assert Truncated(10, 0, {}).lines == []
    assert Truncated(10, 2, {}).line == "Truncated texts: in 2 of 10 examples."
    many = Truncated(2000, 1200, {f"label {i}": (200 - i, 1300) for i in range(7)})
    assert many.line.endswith("label 4 196 of 1,300, 2 more labels.")
    assert all(len(line) <= 80 for line in many.lines)
