"""`ilse predict`: from what the command line names to an output that is there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from ilse.core.errors import UserError
from ilse.core.files.atomic import replacing
from ilse.core.files.places import is_stream
from ilse.core.params import load_document, load_section
from ilse.core.progress_bars import progress_bar
from ilse.core.terminal import Sink, say, screen
from ilse.predict.inputs import STANDARD, Fields, Format, count, format_of, pieces
from ilse.predict.joined import ModelChoices, named_among
from ilse.predict.outputs import Answers, OutFormat, writing
from ilse.predict.predictor import Predictor, answers_pairs
from ilse.predict.unfinished import Parts, key_of, part_of, unfinished
from ilse.predict.why.explanation import require_explainable
from ilse.predict.why.why_page import WhyPage
from pipeline.cluster.machine import cores
from pipeline.config import ExtractParams
from pipeline.dataset.columns import PAIR_TEXT
from pipeline.model.quiet import quietly
from trainer.artifacts.artifact import TrainedHead, load_head, require_basis
from trainer.artifacts.best_seed import best_seed

PART = 1024
"""Rows of a part: what a killed run loses at most, and what is in memory."""


@quietly()
def predict(
    head: Path,
    source: str,
    out: Path | None,
    read_as: Format | None,
    fields: Fields,
    top_k: int,
    model: Path | Sequence[Path] | None,
    params: Path,
    device: str = "auto",
    threads: int = 0,
    why: Path | None = None,
    with_text: bool = False,
) -> None:
    """Predicts every row of `source`, a file, a folder or `-`, into `out` or, as CSV, to standard output.

    A run that was killed leaves its finished parts next to `out`, and the next one with the same head and options goes
    on with those whose rows are still the same; what came from standard input or goes into a pipe is not kept. Without
    `model` a head over a local model takes that of section `extract`, if it is the one, and a head over several those
    of `extract` and `control_caches` that have their names. `device` and `threads` as there. `why` is where a page of
    pictures goes that explain the first answers of a head that reads tokens, words × layers.

    Raises `UserError` for whatever the user can mend.
    """
    write_as, kind = _out_format(out, source), read_as or format_of(source)
    head = best_seed(head)
    trained = load_head(head)
    require_basis(trained, "prediction of new texts")
    if why is not None:
        require_explainable(trained, answers_pairs(trained))
    asked = _fields_for(pairs=answers_pairs(trained), fields=fields)
    parts = pieces(source, kind, asked, PART)
    first = next(parts, None)  # what cannot be read at all is said before the model is loaded
    if first is None:
        raise _refused(f"input {source}", "at least one row", "none", "name another input")
    chosen = model or configured(trained, params)
    answers = Answers(Predictor.load(head, chosen, device=device, threads=threads or cores()), top_k, with_text)
    parts, explained = chain([first], parts), None
    if why is not None:
        explained = WhyPage(answers.predictor, f"Why {'/'.join(head.resolve().parts[-2:])} answers so")
        parts = explained.watch(parts)
    _answer(answers, parts, source, kind, out, write_as, head, asked)
    if why is not None and explained is not None:
        explained.write(why)


def _answer(
    answers: Answers,
    parts: Iterator[pl.DataFrame],
    source: str,
    kind: Format,
    out: Path | None,
    write_as: OutFormat,
    head: Path,
    asked: Fields,
) -> None:
    if out is None:
        _write(map(answers.table, parts), write_as, screen(), answers.top_k)
        return
    with progress_bar(count(source, kind), "predict", "text", delay=0.0) as bar:
        if source == STANDARD or is_stream(out):
            with replacing(out) as new:
                _write(map(answers.table, _counted(parts, bar)), write_as, new, answers.top_k)
            return
        told = {"top_k": answers.asked, "with_text": answers.with_text}
        options = {**asdict(asked), **told, "part": PART, **answers.predictor.capture.conditions}
        with unfinished(out, key_of(head, options)) as kept:
            made = _make(kept, answers, _counted(parts, bar))
            with replacing(out) as new:
                _write(map(kept.get, made), write_as, new, answers.top_k)


def _make(kept: Parts, answers: Answers, parts: Iterator[pl.DataFrame]) -> list[str]:
    """Makes the parts that are missing, and returns the names of all in their order."""
    names, found = list[str](), 0
    for part in parts:
        names.append(part_of(part))
        if kept.has(names[-1], part.height):
            found += 1
        else:
            kept.put(names[-1], answers.table(part))
    if found:
        say(f"{found} of {len(names)} parts were there from an earlier run")
    return names


def _write(tables: Iterator[pl.DataFrame], kind: OutFormat, place: Path | Sink, top_k: int) -> None:
    with writing(kind, place, top_k) as write:
        for table in tables:
            write(table)


def _counted(parts: Iterator[pl.DataFrame], bar: Any) -> Iterator[pl.DataFrame]:
    """Moves the bar when the next part is asked for: then the last one is done."""
    for part in parts:
        yield part
        bar.update(part.height)


def _out_format(out: Path | None, source: str) -> OutFormat:
    if out is not None and (out.is_dir() or out.resolve() == Path(source).resolve()):
        found = "a folder" if out.is_dir() else "the input itself"
        raise _refused(f"output {out}", "a file of its own", found, "name another one")
    kind = "csv" if out is None else _OUT.get(out.suffix.lower(), "csv" if is_stream(out) else None)
    if kind is None:
        raise _refused(f"output {out}", f"a name that ends in {', '.join(_OUT)}", "another ending", "rename it")
    return kind


def _fields_for(pairs: bool, fields: Fields) -> Fields:
    """Adds the second column if the head is on pairs. Raises `UserError` if one was named for another head."""
    if pairs:
        return replace(fields, pair=fields.pair or PAIR_TEXT)
    if fields.pair:
        told = "a head that answers about pairs of texts", "one that answers about single texts"
        raise _refused("option --text-pair-column", *told, "leave it out")
    return fields


def configured(trained: TrainedHead, params: Path) -> ModelChoices:
    """The model of section `extract`, for a head over a local model; None for one of the Hub, or without the file.

    Of a head over several the models of that name in sections `extract` and `control_caches`.
    """
    if all("hub" in source.capture.model for source in trained.facts.sources) or not params.is_file():
        return None
    own = load_section("extract", ExtractParams, params).model
    if not trained.facts.further:
        return own
    others = load_document(params).get("control_caches") or {}
    sections = [f"control_caches.{name}" for name in others]
    return named_among(trained.facts, [own, *(load_section(name, ExtractParams, params).model for name in sections)])


def _refused(where: str, expected: str, found: str, next_step: str) -> UserError:
    return UserError(where, expected=expected, found=found, next_step=next_step)


_OUT: dict[str, OutFormat] = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
