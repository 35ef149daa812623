"""Drops examples that are also in another data set's train split, so that heads trained there can be tested on the
rest.

Data sets made from the same sources differ in case, tokenisation and quotes (STS13 is lower-case, with spaces before
full stops; STS-B is not), so texts are the same here whose letters and digits are, in lower case.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ilse.core.errors import UserError
from ilse.core.files.table_files import read_parquet
from ilse.core.tables import EXAMPLES_FILE, PAIR_TEXT_ID, SPLIT, TEXT, TEXT_ID, TEXTS_FILE, TRAIN
from pipeline.dataset.columns import PAIR_TEXT
from pipeline.dataset.texts import text_columns


def unseen(rows: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """The `rows` (columns `text` and, in pairs, `text_pair`) that the data set prepared in `folder` does not train on.

    Pairs are the same in either order. Raises `UserError` for a folder without the two tables, and where one data set
    has pairs and the other single texts.
    """
    trained_on = _trained_on(folder)
    if len(text_columns(rows)) != len(text_columns(trained_on)):
        kinds = {1: "single texts", 2: "pairs of texts"}
        raise UserError(
            f"data set {folder}, of prepare.exclude_train_of",
            expected=kinds[len(text_columns(rows))],
            found=kinds[len(text_columns(trained_on))],
            next_step="name the data set that the heads are trained on",
        )
    seen = trained_on.select(_key(trained_on)).to_series()
    return rows.filter(~_key(rows).is_in(seen.implode()))


def _key(rows: pl.DataFrame) -> pl.Expr:
    texts = [_bare(pl.col(name)) for name in text_columns(rows)]
    return pl.concat_list(texts).list.sort().list.join("\n")


def _bare(text: pl.Expr) -> pl.Expr:
    bare = text.str.normalize("NFKC").str.to_lowercase().str.replace_all(r"[^\p{L}\p{N}]", "")
    return pl.when(bare == "").then(text).otherwise(bare)  # texts of signs alone are not all the same


def _trained_on(folder: Path) -> pl.DataFrame:
    """The training examples' texts."""
    try:
        examples, texts = (read_parquet(folder / name) for name in (EXAMPLES_FILE, TEXTS_FILE))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(
            f"data set {folder}, of prepare.exclude_train_of",
            expected=f"a folder with the {EXAMPLES_FILE} and {TEXTS_FILE} of 'ilse prepare'",
            found=str(error).splitlines()[0],
            next_step="run 'ilse prepare' for that data set first",
        ) from error
    rows = examples.filter(pl.col(SPLIT) == TRAIN).join(texts, on=TEXT_ID)
    if PAIR_TEXT_ID not in examples.columns:
        return rows.select(TEXT)
    second = texts.select(pl.col(TEXT_ID).alias(PAIR_TEXT_ID), pl.col(TEXT).alias(PAIR_TEXT))
    return rows.join(second, on=PAIR_TEXT_ID).select(TEXT, PAIR_TEXT)
