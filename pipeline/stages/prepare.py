"""`ilse prepare`: reads a data set and writes two tables, every distinct text once and every example with its split.

What is done to the rows, in this order: normalise the text, drop empty texts and rows without a target, give each row
its split (a text stands in one split only), drop those that another data set trains on where that is asked for, drop
texts with contradictory targets. Each is counted. Where examples are pairs of texts, a pair counts as a text does here.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field, field_validator, model_validator

from ilse.core.errors import UserError
from ilse.core.files.atomic import replacing
from ilse.core.files.destinations import require_writable
from ilse.core.files.folder_lock import hold_folder
from ilse.core.files.places import place_of
from ilse.core.files.table_files import literal
from ilse.core.params import Section
from ilse.core.tables import (
    EXAMPLES_FILE,
    LABEL,
    LABEL_INDEX,
    LABEL_INDICES,
    LABELS,
    PAIR_TEXT_ID,
    SCORE,
    SOURCE_ROW,
    SPLIT,
    SPLITS,
    TEST,
    TEXT_ID,
    TEXTS_FILE,
)
from pipeline.dataset.columns import TARGET, Columns
from pipeline.dataset.counts import LACKING, counted, note, notes
from pipeline.dataset.delimited import NONE, Dialect
from pipeline.dataset.readers import Decoder
from pipeline.dataset.seen import unseen
from pipeline.dataset.sources import Format, read_source
from pipeline.dataset.splits import SplitFractions, assign, sampled, split_name
from pipeline.dataset.targets import (
    Conflicts,
    Kind,
    as_label_sets,
    as_labels,
    as_scores,
    settle,
    with_one_spelling,
)
from pipeline.dataset.task import require_splits, require_test_targets, require_usable, required_names
from pipeline.dataset.texts import (
    LABELLED_PAIR,
    SCORED_PAIR,
    SINGLE,
    Unit,
    Use,
    distinct_texts,
    identified,
    in_reading_order,
    normalised,
    text_columns,
)

# What reading one shard's texts decodes: small enough that a table of millions is read a few thousand at a time.
UNFINISHED = ".tables.unfinished"
ROW_GROUP = 8_192


class PrepareParams(Section):
    """Where the data set is, which columns are read, and how it is split."""

    path: str | dict[str, str] = Field(
        description="File or folder, or one per split: {train: …, test: …}. {test: …} alone is test data for heads "
        "that were trained on other data."
    )
    format: Format = Field("auto", description="Format of the source; `auto` follows the file's ending.")
    delimiter: str | None = Field(
        None, description="Delimiter of CSV and TSV, one character; unset: a comma, or a tab in TSV."
    )
    quote_char: str = Field(
        "auto",
        description='Quote character of CSV and TSV; `none` if quotes are ordinary characters. `auto` is `"`, and '
        "refuses a quoted field that seems to swallow rows.",
    )
    text_column: str = Field("text", description="Column that holds the texts (tables only).")
    text_pair_column: str | None = Field(
        None, description="Column that holds the second text of each pair (tables only)."
    )
    label_column: str = Field("label", description="Column that holds the labels (tables only).")
    labels_column: str | None = Field(
        None, description="Column that holds lists of labels, read instead of single labels (tables only)."
    )
    label_separator: str | None = Field(
        None,
        min_length=1,
        description="Separator of labels if a list is one string. Unset: `|`, and strings with what looks like another "
        "separator are refused.",
    )
    score_column: str | None = Field(
        None, description="Column that holds scores, read instead of labels (tables only)."
    )
    split_column: str | None = Field(None, description="Column that holds the splits; unset: splits are drawn.")
    use: Use = Field("whole", description="Read the whole text, or only its first line that is not empty.")
    encoding: str = Field("utf-8", description="Encoding of text files. A file that does not fit it is refused.")
    fallback_encoding: str | None = Field(None, description="Encoding to try for files that `encoding` cannot read.")
    splits: SplitFractions = Field(
        SplitFractions(train=0.7, validation=0.1, test=0.2), description="Expected shares in drawn splits, 0 to 1."
    )
    seed: int = Field(0, ge=0, description="Seed of the drawn splits.")
    stratify: bool = Field(
        False,
        description="Draw splits label by label, so that each label has its share in each. Rows that are appended "
        "later may then move others to another split, which they never do otherwise.",
    )
    limit: int | None = Field(
        None,
        ge=1,
        description="Prepare a sample of so many texts, or pairs, to try everything on first; unset: all. A greater "
        "limit keeps the sample and adds to it.",
    )
    exclude_train_of: str | None = Field(
        None,
        description="Folder of another prepared data set, on which heads are trained: examples of its train split are "
        "left out here, whatever their case and punctuation.",
    )
    conflicts: Conflicts = Field(
        "drop", description="What to do with a text or pair that has several labels, label sets or scores."
    )

    @field_validator("encoding", "fallback_encoding")
    @classmethod
    def _encoding_is_known(cls, name: str | None) -> str | None:
        try:
            b"a".decode(name or "utf-8")
        except LookupError as error:
            raise ValueError("an encoding that Python knows, such as utf-8 or cp1252") from error
        except UnicodeDecodeError:
            pass  # utf-16 is known, and wants two bytes
        return name

    @field_validator("quote_char", mode="before")
    @classmethod
    def _null_is_none(cls, value: object) -> object:
        return NONE if value is None else value

    @model_validator(mode="after")
    def _fields_can_be_told_apart(self) -> PrepareParams:
        Dialect(self.delimiter, self.quote_char)  # refuses what no character separates
        return self

    @model_validator(mode="after")
    def _texts_are_two(self) -> PrepareParams:
        if self.text_pair_column == self.text_column:
            raise ValueError("text_pair_column: another column than text_column")
        return self

    @model_validator(mode="after")
    def _targets_have_one_origin(self) -> PrepareParams:
        if self.score_column and self.labels_column:
            raise ValueError("score_column or labels_column, not both")
        return self

    @model_validator(mode="after")
    def _splits_have_one_origin(self) -> PrepareParams:
        if isinstance(self.path, dict):
            if self.split_column:
                raise ValueError("a path for each split, or split_column, not both")
            try:
                names = [split_name(name, "prepare.path") for name in self.path]
            except UserError as error:
                raise ValueError(f"{error.expected}; {error.next_step}") from error
            if len(set(names)) < len(names) or not names:
                raise ValueError("one path for each split (dev, val, valid and validation are the same)")
        return self

    @model_validator(mode="after")
    def _strata_are_labels(self) -> PrepareParams:
        if self.stratify and self.score_column:
            raise ValueError("stratify with labels, of which scores have none")
        return self

    @property
    def needed_splits(self) -> tuple[str, ...]:
        """Splits that must not be empty: test alone where no other one is named, for heads trained elsewhere."""
        only_test = isinstance(self.path, dict) and [split_name(name, "prepare.path") for name in self.path] == [TEST]
        return (TEST,) if only_test else SPLITS

    @property
    def kind(self) -> Kind:
        """Kind of target that an example has."""
        return "score" if self.score_column else "label set" if self.labels_column else "label"

    @property
    def unit(self) -> Unit:
        """The unit of an example: a single text, or a pair."""
        if not self.text_pair_column:
            return SINGLE
        return SCORED_PAIR if self.kind == "score" else LABELLED_PAIR

    @property
    def dialect(self) -> Dialect:
        """Delimiter and quote character of CSV and TSV."""
        return Dialect(self.delimiter, self.quote_char)

    @property
    def columns(self) -> Columns:
        """The source's columns."""
        target = self.score_column or self.labels_column or self.label_column
        pair, split = self.text_pair_column or None, self.split_column or None
        return Columns(self.text_column, target, split, pair, several=self.kind == "label set")


def prepare(params: PrepareParams, out: Path) -> dict[str, Any]:
    """Write `texts.parquet` and `examples.parquet` (columns: `ilse.core.tables`) into `out` and return the counts.

    The counts are numbers, the label map (`labels`: name → index) and `notes`, one line for each thing that was done
    to the data. Raises `UserError` for a source that cannot be read or gives no task. A failed run leaves the old
    tables; a killed one leaves them, the new ones, or no `examples.parquet`.
    """
    _require_apart(params, out)
    decode, told = Decoder(params.encoding, params.fallback_encoding), list[str]()
    source = read_source(params.path, params.format, params.columns, decode, as_target(params, told), params.dialect)
    return prepare_rows(params, source, out, decode.fallen_back, told)


def _require_apart(params: PrepareParams, out: Path) -> None:
    """Raises `UserError` if a table would be written over the input, or into a folder that is read as a whole."""
    paths = params.path if isinstance(params.path, dict) else {"": params.path}
    sources = {f"prepare.path {path}": Path(path) for path in paths.values()}
    if params.exclude_train_of is not None:
        for name in (TEXTS_FILE, EXAMPLES_FILE):
            place = Path(params.exclude_train_of, name)
            sources[f"prepare.exclude_train_of, {place},"] = place
    for name in (TEXTS_FILE, EXAMPLES_FILE, "prepare.json"):
        require_writable(out / name, "file", "--out")
        place = Path(os.path.realpath(out / name))
        for what, source in sources.items():
            if place.is_relative_to(os.path.realpath(source)):
                raise UserError(
                    f"destination {out / name}",
                    expected="a place outside the input",
                    found=f"a place that is, or is inside, {what}",
                    next_step="name another folder with --out, or move the data set to a separate folder",
                )


def prepare_rows(
    params: PrepareParams, source: pl.DataFrame, out: Path, fallen_back: list[str], told: list[str]
) -> dict[str, Any]:
    """Prepares rows that are already read: the columns of `read_source`. `fallen_back` are files read in the other
    encoding.

    `told` are lines about how the targets were read.
    """
    where = f"data set {params.path}"
    kind, unit = params.kind, params.unit
    columns = text_columns(source)
    rows = source.with_columns(normalised(pl.col(name), params.use).alias(name) for name in columns)
    full = rows.filter(pl.col(name) != "" for name in columns)
    usable, respelled = _with_one_spelling(full.filter(pl.col(TARGET).is_not_null()), kind, where)
    require_usable(rows.height, full.height, usable.height, kind, where)
    # Also the texts whose rows are dropped below: an appended row that contradicts an old one would otherwise take a
    # text out of the middle, and shift every row of the cache behind it.
    texts = distinct_texts(in_reading_order(usable))
    taken = identified(usable, texts)
    if params.limit is not None:
        taken = sampled(taken, unit.split_by, params.limit)
        texts = distinct_texts(in_reading_order(taken))
    assigned = assign(taken, unit.split_by, params.splits, params.seed, params.stratify)
    new = assigned.rows if params.exclude_train_of is None else unseen(assigned.rows, Path(params.exclude_train_of))
    settled = settle(new, unit, params.conflicts, where)
    require_splits(settled.rows, params.needed_splits, where)
    require_test_targets(settled.rows, where)
    names = None if kind == "score" else required_names(settled.rows[TARGET], kind, where)
    write_tables(out, texts, _examples(settled.rows, names))

    done = {
        "fallback_files": len(fallen_back),
        "empty_texts": rows.height - full.height,
        "missing_targets": full.height - usable.height,
        "beyond_limit": usable.height - taken.height,
        "leaks": assigned.leaks,
        "seen_elsewhere": assigned.rows.height - new.height,
        "conflicting_rows": settled.conflicting_rows,
        f"conflicting_{unit.noun}s": settled.conflicting_units,
        "duplicates": settled.rows.height - settled.rows.select(*unit.same_by, TARGET).unique().height,
    }
    counts = {"source_rows": source.height} | done | counted(texts, settled.rows, names)
    lines = []
    if assigned.drawn:
        by = f"{unit.noun}, label and seed" if params.stratify else f"{unit.noun} and seed"
        lines.append(f"splits drawn by {by} {params.seed}: {', '.join(assigned.drawn)}")
    if fallen_back:
        lines.append(note(f"files not in {params.encoding}, read as {params.fallback_encoding}", fallen_back))
    lines += told
    if respelled:
        found = [f"{spelled} as {name}" for spelled, name in respelled.items()]
        lines.append(note("numbers spelled in two ways, read as one label", found))
    lines += notes(counts, unit, kind, params.conflicts)
    if assigned.drawn and not params.stratify and any(line.startswith(LACKING) for line in lines):
        lines.append("prepare.stratify: true draws splits label by label, so that each label has its share in each")
    return counts | {"notes": lines}


def as_target(params: PrepareParams, told: list[str]) -> Callable[[pl.Series, str], pl.Series]:
    """Returns the function that converts a source's target column, given its name for messages; it appends notes to
    `told`.
    """
    if params.kind == "label set":
        return functools.partial(as_label_sets, separator=params.label_separator, notes=told)
    return as_scores if params.kind == "score" else as_labels


def write_tables(out: Path, texts: pl.DataFrame, examples: pl.DataFrame) -> None:
    """Write both tables; old and new ones never stand side by side. Raises `UserError` while another run does so."""
    with (
        hold_folder(out / UNFINISHED, f"tables in {out}"),
        replacing(out / EXAMPLES_FILE) as new_examples,
        replacing(out / TEXTS_FILE) as new_texts,
    ):
        texts.write_parquet(literal(new_texts), row_group_size=ROW_GROUP)
        examples.write_parquet(literal(new_examples))
        # Killed between the two renames, a run leaves texts without examples, which nothing takes for whole.
        if (old := place_of(out / EXAMPLES_FILE)).is_file():  # a device stays
            old.unlink()


def _with_one_spelling(rows: pl.DataFrame, kind: Kind, where: str) -> tuple[pl.DataFrame, dict[str, str]]:
    if kind == "score":
        return rows, {}
    labels, respelled = with_one_spelling(rows[TARGET], where)
    return rows.with_columns(labels.alias(TARGET)), respelled


def _examples(rows: pl.DataFrame, names: list[str] | None) -> pl.DataFrame:
    ids = [name for name in (TEXT_ID, PAIR_TEXT_ID) if name in rows.columns]
    return rows.select(SOURCE_ROW, *ids, *_target_columns(rows[TARGET], names), SPLIT)


def _target_columns(target: pl.Series, names: list[str] | None) -> list[pl.Series]:
    if names is None:
        return [target.alias(SCORE)]
    index = {name: i for i, name in enumerate(names)}
    if not isinstance(target.dtype, pl.List):
        return [target.alias(LABEL), target.replace_strict(index, return_dtype=pl.Int64).alias(LABEL_INDEX)]
    indices = target.list.eval(pl.element().replace_strict(index, return_dtype=pl.Int64)).list.sort()
    labels = indices.list.eval(pl.element().replace_strict(dict(enumerate(names)), return_dtype=pl.String))
    return [labels.alias(LABELS), indices.alias(LABEL_INDICES)]
