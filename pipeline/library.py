"""Extraction as a library: texts and targets in memory to the tables and the cache that the stages make.

from pipeline import extract
data = extract(texts, labels, model="path/of/a/model", out="data")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from ilse.core.files.atomic import replacing
from ilse.core.files.destinations import require_writable
from ilse.core.files.folder_lock import hold_folder
from ilse.core.files.table_files import literal
from ilse.core.params import validate
from ilse.core.tables import CACHE_FOLDER, SOURCE_ROW, SPLIT, TEXT, TEXTS_FILE
from ilse.core.terminal import speaking
from pipeline.config import ExtractParams
from pipeline.dataset.columns import PAIR_TEXT, TARGET
from pipeline.dataset.in_memory import as_column, listed, refused, strings
from pipeline.dataset.sources import with_split_names
from pipeline.dataset.texts import distinct_texts, normalised, require_short
from pipeline.model.quiet import quietly
from pipeline.stages.extract import extract as extract_stage
from pipeline.stages.prepare import ROW_GROUP, UNFINISHED, PrepareParams, as_target, prepare_rows

SOURCE = "in memory"
"""What messages call the data set."""


def extract(
    texts: Iterable[Any],
    targets: Iterable[Any] | None = None,
    *,
    model: str | Path | Mapping[str, Any],
    out: str | Path,
    pairs: Iterable[Any] | None = None,
    splits: Iterable[Any] | None = None,
    prepare: Mapping[str, Any] | None = None,
    verbose: bool = True,
    **options: Any,
) -> Path:
    """Makes `texts.parquet`, `examples.parquet` and `cache.zarr` in the folder `out`, and returns the folder.

    It does what `ilse prepare` and `ilse extract` do with a file, by the same code; `trainer.fit` takes the folder.
    Called again with more texts, it computes only the new ones.

    Parameters
    ----------
    texts, targets
        An example each, in a list, array, tensor, column or generator: strings or whole numbers are labels, lists of
        them label sets, floats scores. Vectors of 0 and 1 are label sets too, of positions, and so is a data frame with
        a column of 0 and 1 for each label. Without targets there are no examples: the cache holds each text once.
    model
        A folder in Hugging Face's layout, a GGUF file, or the keys of section `extract.model`, such as
        `{"hub": id, "revision": commit}`.
    out
        Folder for the tables and the cache.
    pairs
        The second text of each example, where it is about two.
    splits
        `train`, `validation` or `test` for each example; drawn by the text without them.
    prepare, options
        Further keys of the sections `prepare` (as `{"splits": {…}, "seed": 1}`) and `extract` (as `max_tokens=64`).
        Without `cluster` the model runs in this process.
    verbose
        Whether to print lines and a progress bar; the logger `ilse` of `logging` gets the lines in any case.

    Returns
    -------
    Path
        The folder `out`.

    Raises
    ------
    UserError
        For sequences of different lengths, values that are no text or target or could be two kinds of them, an unknown
        key, and whatever the stages refuse.

    Examples
    --------
    >>> pipeline.extract(["a goal", "a vote"] * 50, ["sport", "politics"] * 50, model="my-model", out="data")
    PosixPath('data')
    """
    folder = Path(out)
    if targets is None:
        refused_beside = {"pairs": pairs, "splits": splits, "prepare": prepare}
        for name in (name for name, value in refused_beside.items() if value is not None):
            raise refused("extract()", f"targets beside {name}", "none", "give a target for every example")
        require_writable(folder, "folder", "out")
        with quietly(), speaking(verbose):
            _write_texts(strings(texts, TEXT), folder)
            _extract(_extracting(model, options), folder)
        return folder
    target = as_column(targets, TARGET)
    columns = {TEXT: strings(texts, TEXT)} | ({} if pairs is None else {PAIR_TEXT: strings(pairs, PAIR_TEXT)})
    given = columns | ({} if splits is None else {SPLIT: listed(splits, SPLIT)})
    _require_examples(given, target)
    preparing = _preparing(target, pairs is not None, dict(prepare or {}))
    extracting = _extracting(model, options)
    require_writable(folder, "folder", "out")
    told = list[str]()
    with quietly(), speaking(verbose):
        prepare_rows(preparing, _source(given, as_target(preparing, told)(target, SOURCE)), folder, [], told)
        _extract(extracting, folder)
    return folder


def _extracting(model: str | Path | Mapping[str, Any], options: Mapping[str, Any]) -> ExtractParams:
    source = model if isinstance(model, Mapping) else {"path": str(model)}
    values = {"cluster": {"kind": "synchronous"}, **options, "model": dict(source)}
    return validate("extract", ExtractParams, values, where="extract()")


def _extract(params: ExtractParams, folder: Path) -> None:
    extract_stage(params, folder / TEXTS_FILE, folder / CACHE_FOLDER, folder / "scratch")


def _write_texts(texts: list[Any], folder: Path) -> None:
    """Writes the table of distinct texts alone. Raises `UserError` for an empty text, which gets no row."""
    given = pl.DataFrame({TEXT: pl.Series(texts, dtype=pl.String)})
    require_short(given, "extract()")
    rows = given.select(normalised(pl.col(TEXT), "whole"))
    if rows.is_empty() or (rows[TEXT] == "").any():
        found = "none" if rows.is_empty() else f"text {rows[TEXT].to_list().index('')} (from 0) is empty"
        raise refused("extract()", "at least one text, and none of them empty", found, "leave empty texts out")
    folder.mkdir(parents=True, exist_ok=True)
    with hold_folder(folder / UNFINISHED, f"tables in {folder}"), replacing(folder / TEXTS_FILE) as new:
        distinct_texts(rows[TEXT]).write_parquet(literal(new), row_group_size=ROW_GROUP)


def _preparing(target: pl.Series, pairs: bool, given: dict[str, Any]) -> PrepareParams:
    kinds = {"score_column": target.dtype.is_float(), "labels_column": target.dtype.is_nested()}
    known = {name: TARGET for name, holds in kinds.items() if holds} | (
        {"text_pair_column": PAIR_TEXT} if pairs else {}
    )
    return validate("prepare", PrepareParams, {**given, **known, "path": SOURCE}, where="extract()")


def _source(given: Mapping[str, list[Any]], target: pl.Series) -> pl.DataFrame:
    """The rows as `read_source` gives those of a file."""
    texts = {name: pl.Series(given[name], dtype=pl.String) for name in (TEXT, PAIR_TEXT) if name in given}
    splits = pl.Series(given.get(SPLIT, [None] * len(target)), dtype=pl.String, strict=False)
    places = pl.Series(range(len(target)), dtype=pl.Int64)
    require_short(pl.DataFrame(texts), "extract()")
    return with_split_names(pl.DataFrame({SOURCE_ROW: places, **texts, TARGET: target, SPLIT: splits}), None)


def _require_examples(given: Mapping[str, list[Any]], target: pl.Series) -> None:
    lengths = {name: len(values) for name, values in given.items()} | {TARGET: len(target)}
    if len(set(lengths.values())) > 1 or not lengths[TEXT]:
        raise refused(
            "extract()",
            "as many targets (and pairs, and splits) as texts, at least one",
            ", ".join(f"{name} {length}" for name, length in lengths.items()),
            "give a string and a target for every example",
        )
