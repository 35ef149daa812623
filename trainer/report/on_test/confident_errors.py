"""The test examples that a head answers wrongly with the highest confidence: wrong labels are often among them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from ilse.core.tables import TEXT_ID
from trainer.report.on_test.by_example import by_example, with_texts
from trainer.report.result_files import Row

SHOWN = 10


@dataclass(frozen=True)
class Errors:
    """Rows of `by_example` with their texts, the most confident first; none where there is nothing to show."""

    rows: list[Row] = field(default_factory=list)
    wrong: int = 0
    """Examples that most seeds answer wrongly."""


def confident_errors(results: Path, texts: Path | None, head: str) -> Errors:
    """Test examples that most seeds of `head` answer wrongly, by the mean probability of the wrong answer.

    None without texts, predictions, probabilities, or single labels.
    """
    path = results / "predictions" / f"{head}.parquet"
    if texts is None or not texts.is_file() or not path.is_file():
        return Errors()
    answers = by_example(path)
    if answers is None:
        return Errors()
    # As many seeds right as wrong, of an even number, is no error; nor is a vote that the right answer wins.
    wrong = answers.filter(pl.col("share") < 0.5, pl.col("prediction") != pl.col("label"))
    sure = wrong.drop_nulls("confidence").sort("confidence", TEXT_ID, "row", descending=[True, False, False])
    return Errors(with_texts(sure.head(SHOWN), texts), len(wrong))
