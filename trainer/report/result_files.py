"""Files of an evaluation in: tables that are there or not, and the stages' figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ilse.core.errors import MissingError, UserError
from ilse.core.files.json_files import read_json
from trainer.results.result_tables import Table, read_table, unreadable

Row = dict[str, Any]

MOST, DEPTH = 2**63, 8
"""Of a stage's figures: the largest number, and how deep they may be nested."""
MOST_LAYERS = 4097
"""Of a model of `pipeline.model.folder.MOST` blocks."""


def required(path: Path) -> Path:
    """The path, where there is such a file."""
    if not path.is_file():
        raise MissingError(
            f"results {path}",
            expected="a file that 'ilse evaluate' writes",
            found="no such file",
            next_step="run 'ilse evaluate' first, or 'dvc repro'",
        )
    return path


def optional(paths: list[Path], wanted: Table) -> pl.DataFrame | None:
    """The rows of those of the files that are there; None without any."""
    tables = [read_table(path, wanted) for path in paths if path.is_file()]
    whole = pl.concat(tables) if tables else pl.DataFrame()
    return None if whole.is_empty() else whole


def filled(path: Path, wanted: Table) -> pl.DataFrame:
    """A table that must have rows."""
    found = read_table(path, wanted)
    if found.is_empty():
        raise unreadable(path, "at least one row", "only a header")
    return found


@contextmanager
def named_results(folder: Path) -> Iterator[None]:
    """Turns what stumbles over figures that no evaluation writes, such as none at all, into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        found = f"figures that can't be drawn: {type(error).__name__} {' '.join(str(error).split())}"
    except (jinja2.UndefinedError, pl.exceptions.PolarsError) as error:
        found = f"figures that can't be drawn: {str(error).splitlines()[0]}"
    else:
        return
    raise unreadable(folder, "the figures of one evaluation", found[:300])


def facts_of(path: Path) -> Row | None:
    """A stage's figures, None where it left none."""
    if not path.is_file():
        return None
    try:
        facts = read_json(path)
    except (OSError, ValueError) as error:
        raise unreadable(path, "JSON", str(error)) from error
    found = facts if isinstance(facts, dict) else {"value": facts}
    try:
        Figures.model_validate(found)
        _require_plain(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise unreadable(path, "a stage's figures", f"{place}: {first['msg']}") from error
    except ValueError as error:
        raise unreadable(path, "a stage's figures", str(error)) from error
    return found


class Figures(BaseModel):
    """What the page computes with; a stage may leave any of it out, and may say more."""

    model_config = ConfigDict(strict=True)

    texts: int = Field(0, ge=0, le=MOST)
    texts_computed: int = Field(0, ge=0, le=MOST)
    tokens: int = Field(0, ge=0, le=MOST)
    seconds: float = Field(0.0, ge=0, le=MOST)
    tokens_per_second: float = Field(0.0, ge=0, le=MOST)
    layers: int = Field(1, ge=1, le=MOST_LAYERS)
    bytes: int = Field(0, ge=0, le=MOST)


def _require_plain(value: Any, place: str = "the file", depth: int = 0) -> None:
    if depth > DEPTH:
        raise ValueError(f"{place[:80]}: values inside one another, more than {DEPTH} deep")
    if isinstance(value, int | float) and abs(value) > MOST:
        raise ValueError(f"{place[:80]}: a number beyond ±2⁶³")
    for name, inside in value.items() if isinstance(value, dict) else ():
        _require_plain(inside, name if depth == 0 else f"{place}.{name}", depth + 1)
    for inside in value if isinstance(value, list) else ():
        _require_plain(inside, place, depth + 1)
