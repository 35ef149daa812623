"""The texts of a data set: normalised, each once, with an id; and what an example is about, a text or a pair."""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

import polars as pl

from ilse.core.errors import UserError
from ilse.core.tables import PAIR_TEXT_ID, TEXT, TEXT_ID
from pipeline.dataset.columns import PAIR_TEXT

Use = Literal["whole", "first_line"]

LONGEST = 2**24
"""Bytes of one text in UTF-8: five times War and Peace. A tokenizer takes a hundred times that in memory, and Polars
ends the process where memory is out.
"""

PAIR_ID = "pair_id"
"""The id of the unordered pair; in no table."""


class Unit(NamedTuple):
    """What an example is about, as columns of ids.

    Rows alike in `split_by` belong in one split. Rows alike in `same_by` are the same example: with different targets
    they contradict each other, with the same one they repeat it.
    """

    noun: str
    split_by: str
    same_by: tuple[str, ...]


SINGLE = Unit("text", TEXT_ID, (TEXT_ID,))
# A premise and its hypothesis swapped are another example; of two texts' similarity there is one only. But swapped or
# not, a model that has seen the pair has seen it.
LABELLED_PAIR = Unit("pair", PAIR_ID, (TEXT_ID, PAIR_TEXT_ID))
SCORED_PAIR = Unit("pair", PAIR_ID, (PAIR_ID,))


def normalised(text: pl.Expr, use: Use) -> pl.Expr:
    r"""Unicode NFC, line ends as `\n`, outer white space (Unicode's) stripped; empty for null."""
    whole = text.fill_null("").str.normalize("NFC").str.replace_all("\r\n?", "\n").str.strip_chars()
    # The stripped text starts with its first line that is not empty.
    return whole if use == "whole" else whole.str.extract(r"^([^\n]*)").str.strip_chars()


def require_short(rows: pl.DataFrame, where: str) -> None:
    """Raises `UserError`, with row and column, for a string longer than a text may be."""
    for name in (name for name, kind in rows.schema.items() if kind == pl.String):
        lengths = rows[name].str.len_bytes()
        longest = lengths.max()
        if isinstance(longest, int) and longest > LONGEST:
            raise too_long(f"{where}, row {lengths.arg_max()} (from 0), {name}", longest)


def too_long(where: str, size: int) -> UserError:
    """The error for one cell or text."""
    return UserError(
        where,
        expected=f"a text of at most {LONGEST:,} bytes",
        found=f"{size:,}",
        next_step="cut it into parts, or leave it out; a model reads its first few thousand words",
    )


def text_id(text: str) -> str:
    """The first 128 bits of the SHA-256 of the normalised text's UTF-8 bytes, as 32 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def pair_id(first: str, second: str) -> str:
    """Id of a pair, the same in either order: 32 hexadecimal digits of the SHA-256 of the lesser id, `:`, the other."""
    return hashlib.sha256(":".join(sorted((first, second))).encode()).hexdigest()[:32]


def text_columns(rows: pl.DataFrame) -> list[str]:
    """The columns of `rows` that hold texts: `text`, and in pairs `text_pair`."""
    return [name for name in (TEXT, PAIR_TEXT) if name in rows.columns]


def distinct_texts(texts: pl.Series) -> pl.DataFrame:
    """The distinct texts in order of first appearance, with their ids: columns `text_id`, `text`."""
    once = texts.unique(maintain_order=True)
    return pl.DataFrame({TEXT_ID: pl.Series([text_id(text) for text in once], dtype=pl.String), TEXT: once})


def in_reading_order(rows: pl.DataFrame) -> pl.Series:
    """The texts row by row, shape (texts of a row × rows,).

    All first texts before all second ones would move the second ones whenever a row is appended.
    """
    return rows.select(pl.concat_list(text_columns(rows)).explode()).to_series()


def identified(rows: pl.DataFrame, texts: pl.DataFrame) -> pl.DataFrame:
    """`rows` with `text_id` and, in pairs, `pair_text_id` and `pair_id`, from the table of distinct texts."""
    rows = rows.join(texts, on=TEXT, how="left", maintain_order="left")
    if PAIR_TEXT not in rows.columns:
        return rows
    second = texts.select(pl.col(TEXT).alias(PAIR_TEXT), pl.col(TEXT_ID).alias(PAIR_TEXT_ID))
    rows = rows.join(second, on=PAIR_TEXT, how="left", maintain_order="left")
    ids = [pair_id(*both) for both in rows.select(TEXT_ID, PAIR_TEXT_ID).iter_rows()]
    return rows.with_columns(pl.Series(PAIR_ID, ids, dtype=pl.String))
