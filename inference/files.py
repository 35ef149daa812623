"""Texts from a file to predictions in another, a line at a time: `ilse predict`.

Reads lines (a text each), CSV or JSONL (a text in one column); writes CSV or JSONL, a row for each that was read, in
their order. What is in memory is a chunk of texts, whatever the file's size.

CSV out: `prediction`, and `probability` where there are labels. JSONL out: all probabilities too.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TextIO

from ilse.errors import UserError
from inference.predictions import LabelPrediction, LabelSetPrediction, Prediction
from inference.predictor import Predictor

Format = Literal["lines", "csv", "jsonl"]
FORMATS: tuple[Format, ...] = ("lines", "csv", "jsonl")


def predict_file(
    predictor: Predictor, source: Iterable[str], out: TextIO, read_as: Format, write_as: Format, column: str = "text"
) -> int:
    """Predicts every text of `source` into `out`, and returns how many. `write_as` is csv or jsonl.

    Raises `UserError` for a row without the column, and for a head that answers about pairs.
    """
    if predictor.pairs:
        raise UserError(
            "command 'predict'",
            expected="a head that answers about single texts",
            found="one that was trained on pairs",
            next_step="use Predictor.predict with pairs of texts, from Python",
        )
    write = _WRITERS[write_as](out)
    count = 0
    for prediction in predictor.stream(_READERS[read_as](source, column)):
        write(prediction)
        count += 1
    return count


def format_of(name: str) -> Format:
    """By a file's ending; `lines` for any other."""
    ending = name.rsplit(".", 1)[-1].lower()
    return {"csv": "csv", "jsonl": "jsonl", "ndjson": "jsonl"}.get(ending, "lines")  # type: ignore[return-value]


def _lines(source: Iterable[str], _column: str) -> Iterator[str]:
    return (line.rstrip("\r\n") for line in source)


def _csv(source: Iterable[str], column: str) -> Iterator[str]:
    return _column_of(enumerate(csv.DictReader(source), 2), column)


def _jsonl(source: Iterable[str], column: str) -> Iterator[str]:
    return _column_of(((number, _parsed(number, line)) for number, line in enumerate(source, 1)), column)


def _column_of(rows: Iterable[tuple[int, Any]], column: str) -> Iterator[str]:
    for number, row in rows:
        text = row.get(column) if isinstance(row, dict) else None
        if not isinstance(text, str):
            raise UserError(
                f"input, row {number}",
                expected=f"a text in column '{column}'",
                found=f"columns {', '.join(map(str, row))}" if isinstance(row, dict) else f"{row!r}"[:200],
                next_step="name the column with --column",
            )
        yield text


def _parsed(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(
            f"input, line {number}",
            expected="a JSON object on each line",
            found=str(error),
            next_step="mend the line, or name the format with --format",
        ) from error


def _csv_writer(out: TextIO) -> Callable[[Prediction], None]:
    writer = csv.writer(out, lineterminator="\n")
    headed = False

    def write(prediction: Prediction) -> None:
        nonlocal headed
        row = _row(prediction)
        row.pop("probabilities", None)
        if not headed:
            writer.writerow(row)
            headed = True
        writer.writerow("|".join(value) if isinstance(value, list) else value for value in row.values())

    return write


def _jsonl_writer(out: TextIO) -> Callable[[Prediction], None]:
    return lambda prediction: print(json.dumps(_row(prediction), ensure_ascii=False), file=out)


def _row(prediction: Prediction) -> dict[str, Any]:
    if isinstance(prediction, LabelPrediction):
        told = {"prediction": prediction.label, "probability": round(prediction.probability, 6)}
    elif isinstance(prediction, LabelSetPrediction):
        told = {"prediction": list(prediction.labels)}
    else:
        return {"prediction": prediction.score}
    return told | {"probabilities": {name: round(value, 6) for name, value in prediction.probabilities.items()}}


_READERS: dict[Format, Callable[[Iterable[str], str], Iterator[str]]] = {"lines": _lines, "csv": _csv, "jsonl": _jsonl}
_WRITERS: dict[Format, Callable[[TextIO], Callable[[Prediction], None]]] = {"csv": _csv_writer, "jsonl": _jsonl_writer}
