"""`ilse prepare`: reads a data set and writes two tables, every distinct text once and every example with its split.

What is done to the rows, in this order: normalise the text, drop empty texts and rows without a target, give each row
its split (a text stands in one split only), drop texts with contradictory targets. Each is counted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import Field, field_validator, model_validator

from ilse.errors import UserError
from ilse.params import Section
from ilse.tables import (
    EXAMPLES_FILE,
    LABEL,
    LABEL_INDEX,
    SCORE,
    SOURCE_ROW,
    SPLIT,
    SPLITS,
    TEXT,
    TEXT_ID,
    TEXTS_FILE,
    TRAIN,
)
from pipeline.dataset.readers import TARGET, Columns, Decoder
from pipeline.dataset.sources import Format, read_source
from pipeline.dataset.splits import SplitFractions, assign, split_name
from pipeline.dataset.targets import Conflicts, as_labels, as_scores, label_names, settle

Use = Literal["whole", "first_line"]
# What reading one shard's texts decodes: small enough that a table of millions is read a few thousand at a time.
ROW_GROUP = 8_192


class PrepareParams(Section):
    """The section `prepare`: where the data set is, which columns count, and how it is split."""

    path: str | dict[str, str] = Field(description="File or folder, or one for each split: {train: …, test: …}.")
    format: Format = Field("auto", description="Format of the source; auto goes by the ending.")
    text_column: str = Field("text", description="Column of the texts (tables only).")
    label_column: str = Field("label", description="Column of the labels (tables only).")
    score_column: str | None = Field(None, description="Column of the scores, read instead of labels (tables only).")
    split_column: str | None = Field(None, description="Column of the given splits; without it they are drawn.")
    use: Use = Field("whole", description="The whole text, or its first line that is not empty.")
    encoding: str = Field("utf-8", description="Encoding of text files, decoded strictly.")
    fallback_encoding: str | None = Field(None, description="Encoding of whole files that `encoding` cannot read.")
    splits: SplitFractions = Field(
        SplitFractions(train=0.7, validation=0.1, test=0.2), description="Expected shares in drawn splits, 0 to 1."
    )
    seed: int = Field(0, ge=0, description="Seed of the drawn splits.")
    conflicts: Conflicts = Field("drop", description="What to do with a text that has several labels or scores.")

    @field_validator("encoding", "fallback_encoding")
    @classmethod
    def _encoding_is_known(cls, name: str | None) -> str | None:
        try:
            b"a".decode(name or "utf-8")
        except LookupError as error:
            raise ValueError("a text encoding that Python knows, such as utf-8 or cp1252") from error
        except UnicodeDecodeError:
            pass  # utf-16 is known, and wants two bytes
        return name

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


def prepare(params: PrepareParams, out: Path) -> dict[str, Any]:
    """Write `texts.parquet` and `examples.parquet` (columns: `ilse.tables`) into `out` and return the counts.

    The counts are numbers, the label map (`labels`: name → index) and `notes`, one line for each thing that was done
    to the data. Raises `UserError` for a source that cannot be read or gives no task. A failed run leaves the old
    tables; a killed one leaves them, the new ones, or no `examples.parquet`.
    """
    where = f"data set {params.path}"
    decode = Decoder(params.encoding, params.fallback_encoding)
    columns = Columns(params.text_column, params.score_column or params.label_column, params.split_column)
    source = read_source(params.path, params.format, columns, decode, as_scores if params.score_column else as_labels)

    rows = source.with_columns(normalised(pl.col(TEXT), params.use).alias(TEXT))
    full = rows.filter(pl.col(TEXT) != "")
    usable = full.filter(pl.col(TARGET).is_not_null())
    # Also the texts whose rows are dropped below: an appended row that contradicts an old one would otherwise take a
    # text out of the middle, and shift every row of the cache behind it.
    texts = distinct_texts(usable[TEXT])
    identified = usable.join(texts, on=TEXT, how="left", maintain_order="left")
    assigned = assign(identified, params.splits, params.seed)
    settled = settle(assigned.rows, params.conflicts, where)
    _check_splits(settled.rows, where)
    names = None if params.score_column else _checked_names(settled.rows[TARGET], where)
    write_tables(out, texts, _examples(settled.rows, names))

    done = {
        "fallback_files": len(decode.fallen_back),
        "empty_texts": rows.height - full.height,
        "missing_targets": full.height - usable.height,
        "leaks": assigned.leaks,
        "conflicting_rows": settled.conflicting_rows,
        "conflicting_texts": settled.conflicting_texts,
        "duplicates": settled.rows.height - settled.rows.select(TEXT_ID, TARGET).unique().height,
    }
    counts = {"source_rows": source.height} | done | _counts(texts, settled.rows, names)
    return counts | {"notes": _notes(counts, params, decode, assigned.drawn)}


def normalised(text: pl.Expr, use: Use) -> pl.Expr:
    r"""Unicode NFC, line ends as `\n`, outer white space (Unicode's) stripped; empty for null."""
    whole = text.fill_null("").str.normalize("NFC").str.replace_all("\r\n?", "\n").str.strip_chars()
    # The stripped text starts with its first line that is not empty.
    return whole if use == "whole" else whole.str.extract(r"^([^\n]*)").str.strip_chars()


def text_id(text: str) -> str:
    """The first 128 bits of the SHA-256 of the normalised text's UTF-8 bytes, as 32 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def distinct_texts(texts: pl.Series) -> pl.DataFrame:
    """Each text once, in first-seen order, with its id: columns `text_id`, `text`."""
    once = texts.unique(maintain_order=True)
    return pl.DataFrame({TEXT_ID: pl.Series([text_id(text) for text in once], dtype=pl.String), TEXT: once})


def write_tables(out: Path, texts: pl.DataFrame, examples: pl.DataFrame) -> None:
    """Write both tables; old and new ones never stand side by side."""
    out.mkdir(parents=True, exist_ok=True)
    part = {name: out / f".{name}.partial" for name in (TEXTS_FILE, EXAMPLES_FILE)}
    try:
        texts.write_parquet(part[TEXTS_FILE], row_group_size=ROW_GROUP)
        examples.write_parquet(part[EXAMPLES_FILE])
        # Killed between the two renames, a run leaves texts without examples, which nothing takes for whole.
        (out / EXAMPLES_FILE).unlink(missing_ok=True)
        for name, partial in part.items():
            os.replace(partial, out / name)
    finally:
        for partial in part.values():
            partial.unlink(missing_ok=True)


def _check_splits(rows: pl.DataFrame, where: str) -> None:
    sizes = {split: rows.filter(pl.col(SPLIT) == split).height for split in SPLITS}
    if not all(sizes.values()):
        raise UserError(
            where,
            expected="at least one example in each split",
            found=", ".join(f"{split} {size}" for split, size in sizes.items()),
            next_step="give more examples, other shares in prepare.splits, or a path for the split that is empty",
        )


def _checked_names(labels: pl.Series, where: str) -> list[str]:
    names = label_names(labels)
    if len(names) < 2:
        raise UserError(
            where,
            expected="at least two labels",
            found=f"only '{names[0]}'",
            next_step="check prepare.label_column, or the folder's sub-folders",
        )
    return names


def _examples(rows: pl.DataFrame, names: list[str] | None) -> pl.DataFrame:
    if names is None:
        return rows.select(SOURCE_ROW, TEXT_ID, pl.col(TARGET).alias(SCORE), SPLIT)
    index = pl.col(TARGET).replace_strict({name: i for i, name in enumerate(names)}, return_dtype=pl.Int64)
    return rows.select(SOURCE_ROW, TEXT_ID, pl.col(TARGET).alias(LABEL), index.alias(LABEL_INDEX), SPLIT)


def _counts(texts: pl.DataFrame, rows: pl.DataFrame, names: list[str] | None) -> dict[str, Any]:
    length = texts[TEXT].str.len_chars()
    by_split = {split: rows.filter(pl.col(SPLIT) == split)[TARGET] for split in SPLITS}
    return {
        "examples": {split: len(target) for split, target in by_split.items()},
        "texts": texts.height,
        "characters": {"total": length.sum(), "mean": length.mean(), "max": length.max()},
        **_target_counts(by_split, names),
    }


def _target_counts(by_split: Mapping[str, pl.Series], names: list[str] | None) -> dict[str, Any]:
    if names is None:
        return {
            "scores": {
                split: {"min": score.min(), "mean": score.mean(), "max": score.max()}
                for split, score in by_split.items()
            }
        }
    found = {split: dict(target.value_counts().iter_rows()) for split, target in by_split.items()}
    return {
        "labels": {name: index for index, name in enumerate(names)},
        "examples_per_label": {split: {name: found[split].get(name, 0) for name in names} for split in SPLITS},
    }


def _notes(counts: Mapping[str, Any], params: PrepareParams, decode: Decoder, drawn: tuple[str, ...]) -> list[str]:
    """One line for each thing that was done, or that the reader should know; nothing for a zero."""
    what = "score" if params.score_column else "label"
    fate = "kept" if params.conflicts == "keep" else "dropped"
    lines = {
        f"files not in {params.encoding}, read as {params.fallback_encoding}": decode.fallen_back,
        "rows dropped for an empty text": counts["empty_texts"],
        f"rows dropped for want of a {what}": counts["missing_targets"],
        "rows dropped whose text stands in another split (test keeps it, then validation)": counts["leaks"],
        f"rows {fate} whose text has several {what}s": counts["conflicting_rows"],
        f"texts with several {what}s": counts["conflicting_texts"],
        f"rows kept that repeat a text and its {what} within a split": counts["duplicates"],
    } | _label_notes(counts.get("examples_per_label", {}))
    notes = [f"splits drawn by text and seed {params.seed}: {', '.join(drawn)}"] if drawn else []
    return notes + [_note(text, found) for text, found in lines.items() if found]


def _label_notes(found: Mapping[str, Mapping[str, int]]) -> dict[str, list[str]]:
    train = found.get(TRAIN, {})
    return {
        "labels with a single example": [name for name in train if sum(split[name] for split in found.values()) == 1],
        f"labels absent from {TRAIN}": [name for name, number in train.items() if not number],
    }


def _note(text: str, found: int | list[str]) -> str:
    if isinstance(found, int):
        return f"{text}: {found:,}"
    return f"{text}: {len(found):,} ({', '.join(found[:5])}{', …' if len(found) > 5 else ''})"
