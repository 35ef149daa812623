"""Predictions as a table, written piece by piece to a file.

| objective               | columns                                                    |
|-------------------------|------------------------------------------------------------|
| one label               | `label`, `probability`                                     |
| any number of labels    | `labels`, those with a probability over 1/2                |
| a score, a similarity   | `score`                                                    |

before them `row`, the row's number in the input, from 0, `id`, where it has one, and the text if it is asked for;
after them, for more than one label asked for, `top`, the likeliest labels with their probabilities. A row without a
text has no answer: its cells are empty. CSV has no lists: there `labels` are joined by `|`, and `top` is `label_1`,
`probability_1`, `label_2`, …
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow.parquet as pq

from ilse.core.errors import UserError
from ilse.core.tables import TEXT
from ilse.core.terminal import Sink
from ilse.predict.inputs import ID, ROW, WHERE
from ilse.predict.predictions import LabelPrediction, LabelSetPrediction, Prediction
from ilse.predict.predictor import CHUNK, Predictor
from pipeline.dataset.columns import PAIR_TEXT

OutFormat = Literal["csv", "jsonl", "parquet"]
SEPARATOR = "|"
Write = Callable[[pl.DataFrame], None]


@dataclass(frozen=True)
class Answers:
    """A predictor's answers as tables of the same columns. Raises `UserError` for a `top_k` that it cannot give."""

    predictor: Predictor
    asked: int = 1
    """Labels that are told of an example, where there are as many."""
    with_text: bool = False
    """Whether each answer stands beside its text."""

    def __post_init__(self) -> None:
        if self.asked > 1 and not self.predictor.trained.facts.labels:
            kind = self.predictor.trained.objective.kind
            raise UserError(
                "option --top-k",
                expected="a head that answers with labels",
                found=f"one that was trained for {kind}, which answers with a score",
                next_step="leave --top-k out",
            )

    @property
    def top_k(self) -> int:
        """Labels that are told of an example."""
        return min(self.asked, len(self.predictor.trained.facts.labels))

    @property
    def columns(self) -> dict[str, Any]:
        """Name → type of what is told of an example."""
        top = {"top": pl.List(pl.Struct({"label": pl.String, "probability": pl.Float32}))}
        if not self.predictor.trained.facts.labels:
            return {"score": pl.Float32}
        several = self.predictor.trained.objective.kind == "multi_label"
        told = {"labels": pl.List(pl.String)} if several else {"label": pl.String, "probability": pl.Float32}
        return told | (top if self.top_k > 1 else {})

    def table(self, piece: pl.DataFrame) -> pl.DataFrame:
        """The answers for a piece of the input, as `inputs.pieces` gives it: a row for each of its rows."""
        texts = [name for name in (TEXT, PAIR_TEXT) if name in piece.columns]
        given = piece.filter(pl.all_horizontal(pl.col(name) != "" for name in texts))
        told = [self._told(prediction) for part in given.iter_slices(CHUNK) for prediction in self._ask(part, texts)]
        answers = pl.DataFrame(told, schema=self.columns, orient="row").with_columns(given[ROW])
        shown = (ROW, ID, *(texts if self.with_text else ()))
        kept = piece.select(name for name in shown if name in piece.columns)
        return kept.join(answers, on=ROW, how="left", maintain_order="left")

    def _ask(self, part: pl.DataFrame, texts: list[str]) -> list[Prediction]:
        asked = part.select(texts).rows() if len(texts) > 1 else part[TEXT].to_list()
        return self.predictor.answers(asked, part[WHERE].to_list())

    def _told(self, prediction: Prediction) -> tuple[Any, ...]:
        if isinstance(prediction, LabelPrediction):
            told: tuple[Any, ...] = prediction.label, prediction.probability
        elif isinstance(prediction, LabelSetPrediction):
            told = (list(prediction.labels),)
        else:
            return (prediction.score,)
        top = [{"label": label, "probability": probability} for label, probability in prediction.top(self.top_k)]
        return (*told, top) if self.top_k > 1 else told


@contextmanager
def writing(kind: OutFormat, place: Path | Sink, top_k: int) -> Iterator[Write]:
    """Yield what takes the pieces of a table, one after the other; the first gives the columns.

    A stream takes text alone.
    """
    with ExitStack() as stack:
        if kind == "parquet" and isinstance(place, Path):
            yield _parquet_writer(place, stack)
        elif isinstance(place, Path):
            yield _text_writer(kind, stack.enter_context(place.open("w", encoding="utf-8", newline="")), top_k)
        else:
            yield _text_writer(kind, place, top_k)


def _text_writer(kind: OutFormat, file: Sink, top_k: int) -> Write:
    headed = False

    def write(table: pl.DataFrame) -> None:
        nonlocal headed
        if kind == "jsonl":
            file.write(table.write_ndjson())
        else:
            file.write(_flat(table, top_k).write_csv(include_header=not headed))
        headed = True

    return write


def _parquet_writer(place: Path, stack: ExitStack) -> Write:
    writer: pq.ParquetWriter | None = None

    def write(table: pl.DataFrame) -> None:
        nonlocal writer
        content = table.to_arrow()
        if writer is None:
            writer = stack.enter_context(pq.ParquetWriter(place, content.schema))
        writer.write_table(content)

    return write


def _flat(table: pl.DataFrame, top_k: int) -> pl.DataFrame:
    """Flattens lists, which CSV lacks: labels are joined, and `top` becomes numbered columns."""
    if "labels" in table.columns:
        table = table.with_columns(pl.col("labels").list.join(SEPARATOR))
    if "top" not in table.columns:
        return table
    place = pl.col("top").list
    return table.with_columns(
        place.get(i, null_on_oob=True).struct.field(name).alias(f"{name}_{i + 1}")
        for i in range(top_k)
        for name in ("label", "probability")
    ).drop("top")
