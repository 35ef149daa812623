"""Reads JSON Lines. Values that JSON allows but a data set does not are refused, with their line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl

from ilse.core.files.json_files import each_once
from pipeline.dataset.columns import TARGET, Columns, malformed, names_of, wanted_of

_EXACT = 2**53
"""Up to here a float holds every whole number."""


def read_jsonl(file: Path, text: str, columns: Columns) -> pl.DataFrame:
    """One JSON object a line; a key that a line lacks is null there."""
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    for line, content in enumerate(text.split("\n"), start=1):  # JSON strings may hold U+2028, a line end to Python
        if content.strip():
            records.append(json_object(file, line, content))
            lines.append(line)
    present = list(dict.fromkeys(key for record in records for key in record))
    wanted = wanted_of(columns, present, file) if records else names_of(columns)
    series = []
    for ours, theirs in wanted.items():
        values = [record.get(theirs) for record in records]
        if ours == TARGET and columns.several:
            series.append(_lists(ours, values, file, lines))
        else:
            series.append(_series(ours, values, file, lines, strings=ours != TARGET))
    return pl.DataFrame(series)


def json_object(file: Path | str, line: int, content: str) -> dict[str, Any]:
    """What one line holds. Raises `UserError` for anything but a JSON object."""
    if line == 1 and content.lstrip().startswith("["):
        next_step = "write one object per line; pandas does so with to_json(…, orient='records', lines=True)"
        raise malformed(file, line, "one JSON object", "an array", next_step)
    try:
        record = json.loads(content, object_pairs_hook=each_once)
    except (ValueError, RecursionError) as error:
        raise malformed(file, line, "one JSON object", str(error)) from error
    if not isinstance(record, dict):
        raise malformed(file, line, "one JSON object", f"a JSON {type(record).__name__}")
    return record


def _series(name: str, values: list[Any], file: Path, lines: list[int], strings: bool) -> pl.Series:
    allowed: tuple[type, ...] = (str,) if strings else (str, int, float)
    for line, value in zip(lines, values, strict=True):
        if value is not None and not isinstance(value, allowed):
            expected = "a string" if strings else "a string or a number"
            raise malformed(file, line, f"{expected} as {name}", f"a JSON {type(value).__name__}")
        check_unicode(name, value, file, line)
    kinds = {type(value) for value in values if value is not None}
    exact = kinds != {int, float} or all(abs(value) <= _EXACT for value in values if isinstance(value, int))
    if (not kinds <= {int, float} and len(kinds) > 1) or not exact:
        values = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pl.Series(name, values, strict=False)


def _lists(name: str, values: list[Any], file: Path, lines: list[int]) -> pl.Series:
    """Arrays of labels, or strings that are yet to be split."""
    if {type(value) for value in values} <= {str, type(None)}:
        return _series(name, values, file, lines, strings=True)
    if (number := _number_of_vectors(values)) is not None:
        return pl.Series(name, values, dtype=pl.List(number), strict=False)
    for line, value in zip(lines, values, strict=True):
        if value is not None and not isinstance(value, list):
            expected = f"a list of labels as {name} (or a string, on every line)"
            raise malformed(file, line, expected, f"a JSON {type(value).__name__}")
        for label in value or ():
            if type(label) not in (str, int):  # True is an int to isinstance
                expected = f"strings or whole numbers in the list {name}"
                raise malformed(file, line, expected, f"a JSON {type(label).__name__}")
            check_unicode(name, label, file, line)
    texts = [None if value is None else [str(label) for label in value] for value in values]
    return pl.Series(name, texts, dtype=pl.List(pl.String))


def _number_of_vectors(values: list[Any]) -> Any:
    """Polars' type of what may be vectors of 0 and 1, as neither labels are: booleans, or 0.0 and 1.0; else None."""
    if not all(value is None or isinstance(value, list) for value in values):
        return None
    numbers = [number for value in values for number in value or ()]
    kinds = set(map(type, numbers))
    if kinds == {bool}:
        return pl.Boolean
    return pl.Float64 if float in kinds and kinds <= {int, float} and set(numbers) <= {0, 1} else None


def check_unicode(name: str, value: Any, file: Path | str, line: int) -> None:
    """Raises `UserError` for a string that JSON can spell and UTF-8 cannot."""
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise malformed(file, line, f"Unicode text as {name}", "half a surrogate pair (\\ud800 to \\udfff)")
