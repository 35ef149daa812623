"""`ilse predict`: opens what the command line names, and writes the output whole or not at all."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ilse.errors import UserError
from ilse.files import replacing
from ilse.params import load_section
from inference.capture import ModelChoice
from inference.files import Format, format_of, predict_file
from inference.predictor import Predictor
from pipeline.config import ExtractParams
from pipeline.model.load import quieten
from trainer.artifact import load_head

STANDARD = "-"


def predict(
    head: Path, source: str, out: Path | None, read_as: Format | None, column: str, model: Path | None, params: Path
) -> None:
    """Predicts every text of `source`, a file or `-`, into `out` or to standard output.

    Without `model` a head over a local model takes that of section `extract`, if it is the one. Raises `UserError`
    for whatever the user can mend.
    """
    write_as: Format = format_of(out.name) if out else "csv"
    if write_as == "lines":
        raise _refused(f"output {out}", "a name that ends in .csv or .jsonl", "another ending", "name it so")
    quieten()
    predictor = Predictor.load(head, model or configured(head, params))
    with _input(source) as texts:
        if out is None:
            predict_file(predictor, texts, sys.stdout, read_as or format_of(source), write_as, column)
            return
        with replacing(out) as new, new.open("w", encoding="utf-8", newline="") as file:
            predict_file(predictor, texts, file, read_as or format_of(source), write_as, column)


def configured(head: Path, params: Path) -> ModelChoice:
    """The model of section `extract`, for a head over a local model; None for one of the Hub, or without the file."""
    if "hub" in load_head(head).facts.capture.model or not params.is_file():
        return None
    return load_section("extract", ExtractParams, params).model


@contextmanager
def _input(source: str) -> Iterator[TextIO]:
    if source == STANDARD:
        yield sys.stdin
        return
    if not Path(source).is_file():
        raise _refused(f"input {source}", "a file of texts", "no such file", "name it, or - for standard input")
    with Path(source).open(encoding="utf-8-sig", newline="") as file:
        yield file


def _refused(where: str, expected: str, found: str, next_step: str) -> UserError:
    return UserError(where, expected=expected, found=found, next_step=next_step)
