"""Every layer of a model, for texts as people have them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ilse.core.errors import UserError
from ilse.core.tables import CACHE_FOLDER, TEXTS_FILE
from ilse.given_data import Named, as_columns, is_path
from ilse.loaded_model import model_section

if TYPE_CHECKING:
    from pipeline.store import Cache


def extract(
    data: Any,
    labels: Any = None,
    *,
    model: Any,
    tokenizer: Any = None,
    out: str | Path | None = None,
    text: str = "text",
    label: str | None = "label",
    text_pair: str | None = None,
    split: str | None = None,
    prepare: Mapping[str, Any] | None = None,
    verbose: bool = True,
    **options: Any,
) -> Cache:
    """Run a frozen language model once over texts, and cache every layer's row of every text.

    Parameters
    ----------
    data
        A list of texts, a pandas or Polars frame, a Hugging Face `Dataset` or `DatasetDict`, or the path of a table
        (CSV, TSV, JSONL, Parquet) or of a folder of text files.
    labels
        The label of each text, where `data` is a list: strings or whole numbers; lists of them for several labels per
        text; floats for scores. Without labels only the texts are cached.
    model
        A folder in Hugging Face's layout, a GGUF file, `owner/name` of the Hugging Face Hub (pinned to its present
        commit; `owner/name@revision` for another), or a loaded model with its tokenizer, `(model, tokenizer)`. A loaded
        model is saved in `out` first: a head has to find the same model again.
    tokenizer
        The tokenizer of a loaded model.
    out
        Folder for the tables and the cache; a new temporary folder without it. Called again with more texts, only those
        are computed.
    text, label, text_pair, split
        Names of the columns. `label=None` for texts without labels; `split` names a column of `train`, `validation`
        and `test`, without which splits are drawn.
    prepare
        More keys of the section `prepare`, such as `{"splits": {"train": 0.8, "validation": 0.1, "test": 0.1}}`.
    verbose
        Whether to print lines and a progress bar. The logger `ilse` of Python's `logging` gets the lines in any case.
    options
        More keys of the section `extract`, such as `max_tokens=64`, `poolings=["mean", "last"]` or
        `token_states={"rank": 128, "storage_type": "int4"}`.

    Returns
    -------
    Cache
        The finished cache, for `ilse.fit`; it is indexed as an array [texts, layers, dim].

    Raises
    ------
    UserError
        For data without the named columns, labels and texts of different lengths, a model that cannot be read, an
        unknown key, and whatever `ilse prepare` and `ilse extract` refuse.

    Examples
    --------
    >>> frame = pandas.DataFrame({"text": texts, "label": labels})
    >>> cache = ilse.extract(frame, model="HuggingFaceTB/SmolLM2-135M", out="data")
    >>> cache.shape
    (2096, 31, 576)
    """
    from pipeline import store

    folder = Path(tempfile.mkdtemp(prefix="ilse-")) if out is None else Path(out)
    columns = Named(text, label, text_pair, split)
    source = model_section(model, tokenizer, folder / "model")
    if is_path(data):
        _of_path(data, labels, columns, source, folder, dict(prepare or {}), verbose, options)
    else:
        from pipeline import library

        given = as_columns(data, labels, columns)
        library.extract(
            given.texts, given.labels, model=source, out=folder, pairs=given.pairs, splits=given.splits,
            prepare=prepare, verbose=verbose, **options,
        )  # fmt: skip
    return store.open_cache(folder / CACHE_FOLDER)


def _of_path(
    path: str | Path,
    labels: Any,
    columns: Named,
    model: Mapping[str, Any],
    folder: Path,
    preparing: dict[str, Any],
    verbose: bool,
    options: Mapping[str, Any],
) -> None:
    """The stages `prepare` and `extract`, one after the other."""
    from ilse.core.params import validate
    from ilse.core.terminal import say, speaking
    from pipeline.config import ExtractParams
    from pipeline.model.quiet import quietly
    from pipeline.stages.extract import extract as extract_stage
    from pipeline.stages.prepare import PrepareParams, prepare

    if labels is not None or columns.label is None:
        raise UserError(
            f"extract(), {path}",
            expected="labels in a column of the file",
            found="label=None" if labels is None else "labels beside a file",
            next_step="name the column: label=…, or read the texts yourself and give them as a list",
        )
    named = {"text_column": columns.text, "label_column": columns.label}
    named |= {} if columns.text_pair is None else {"text_pair_column": columns.text_pair}
    named |= {} if columns.split is None else {"split_column": columns.split}
    params = validate("prepare", PrepareParams, {**named, **preparing, "path": str(path)}, where="extract()")
    values = {"cluster": {"kind": "synchronous"}, **options, "model": dict(model)}
    extracting = validate("extract", ExtractParams, values, where="extract()")
    with quietly(), speaking(verbose):
        for note in prepare(params, folder)["notes"]:
            say(note)
        extract_stage(extracting, folder / TEXTS_FILE, folder / CACHE_FOLDER, folder / "scratch")
