"""Total costs side by side, by hand."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from trainer.results.costs import cost_table, extraction_seconds

EXTRACTION = {"texts": 20, "texts_computed": 20, "tokens": 300, "tokens_per_second": 60.0, "seconds": 11.0}


def runs_of(*rows: tuple[str, int, float, float]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["head", "parameters", "train_seconds", "test_score"], orient="row")


RUNS = runs_of(
    ("set", 50, 2.0, 1.0), ("set", 50, 4.0, 0.0), ("lora", 70, 90.0, 0.9), ("set", 50, 3.0, 0.5), ("last", 5, 1.0, 0.5)
)


def test_a_head_bears_the_extraction_and_fine_tuning_does_not() -> None:
    assert cost_table(RUNS, EXTRACTION).rows(named=True) == [
        row("set", 50, 11.0, 3.0, 14.0, 0.5),
        row("lora", 70, 0.0, 90.0, 90.0, 0.9),
        row("last", 5, 11.0, 1.0, 12.0, 0.5),
    ]
    assert cost_table(RUNS, EXTRACTION, without_cache=["last"])["extract_seconds"].to_list() == [11.0, 11.0, 0.0]


def row(head: str, parameters: int, extract: float, train: float, total: float, test: float) -> dict[str, Any]:
    seconds = {"extract_seconds": extract, "train_seconds": train, "total_seconds": total}
    return {"head": head, "parameters": parameters, **seconds, "test_score": test}


def test_rows_that_were_reused_are_reckoned_at_the_run_s_speed() -> None:
    assert extraction_seconds(EXTRACTION | {"texts_computed": 4, "seconds": 1.0}) == pytest.approx(300 / 60)


def test_what_computed_nothing_says_nothing_of_the_cost() -> None:
    table = cost_table(RUNS, EXTRACTION | {"texts_computed": 0, "tokens_per_second": 0.0, "seconds": 0.3})
    assert table["extract_seconds"].to_list() == [None, 0.0, None]
    assert table["total_seconds"].to_list() == [None, 90.0, None]
