"""Data as people have it: lists, data frames, data sets of Hugging Face's `datasets`, and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ilse.core.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Given:
    """Examples as columns: what `pipeline.extract` takes."""

    texts: Any
    labels: Any = None
    pairs: Any = None
    splits: Any = None


@dataclass(frozen=True)
class Named:
    """The columns that count, by name; None for those that the data do not have."""

    text: str = "text"
    label: str | None = "label"
    text_pair: str | None = None
    split: str | None = None


def is_path(data: Any) -> bool:
    """Whether data are a file or folder: a path, or a string."""
    return isinstance(data, str | Path)


def as_columns(data: Any, labels: Any, named: Named) -> Given:
    """Lists, a pandas or Polars frame, an Arrow table, or a Hugging Face `Dataset` or `DatasetDict`, as columns.

    Raises `UserError` for a column that is missing, and for data of another kind.
    """
    if isinstance(data, Mapping) and data and all(map(_is_dataset, data.values())):
        return _of_splits(data, labels, named)
    names = _column_names(data)
    if names is None:
        if isinstance(data, Mapping):
            names = list(data)
        else:
            return Given(data, labels)
    if labels is not None:
        raise UserError(
            "extract()",
            expected="labels as a column of the data",
            found="labels beside data that have columns",
            next_step="name the column: label=…",
        )
    of_label = None if named.label is None else _column(data, named.label, names, "label")
    return Given(
        _column(data, named.text, names, "text"),
        of_label,
        None if named.text_pair is None else _column(data, named.text_pair, names, "text_pair"),
        None if named.split is None else _column(data, named.split, names, "split"),
    )


def _of_splits(data: Mapping[str, Any], labels: Any, named: Named) -> Given:
    """The splits of a `DatasetDict`, one after the other."""
    if named.split is not None:
        raise UserError(
            "extract()",
            expected="splits by the data set's own names",
            found=f"split='{named.split}' beside them",
            next_step="leave split out",
        )
    parts = {name: as_columns(one, labels, named) for name, one in data.items()}

    def joined(field: str) -> list[Any] | None:
        columns = [getattr(part, field) for part in parts.values()]
        return None if columns[0] is None else [value for column in columns for value in column]

    splits = [name for name, part in parts.items() for _ in range(len(part.texts))]
    return Given(joined("texts"), joined("labels"), joined("pairs"), splits)


def _is_dataset(data: Any) -> bool:
    return hasattr(data, "features") and hasattr(data, "column_names")


def _column_names(data: Any) -> list[str] | None:
    """The names of the columns of a frame, a table or a data set; None of anything else."""
    names = getattr(data, "column_names", None)
    if names is None and hasattr(data, "columns") and hasattr(data, "shape"):
        names = data.columns
    return None if names is None else [str(name) for name in names]


def _column(data: Any, name: str, names: list[str], role: str) -> Any:
    if name not in names:
        raise UserError(
            "extract()",
            expected=f"a column '{name}' ({role}=…)",
            found=f"the columns {', '.join(names)}",
            next_step=did_you_mean(name, names, f"name the column: {role}=…")
            + (", or label=None for texts without labels" if role == "label" else ""),
        )
    values = data[name]
    feature = data.features.get(name) if _is_dataset(data) else None
    if feature is not None and hasattr(
        feature, "int2str"
    ):  # numbers that stand for names; below 0 in a split whose labels are kept back
        return [None if index is None or index < 0 else feature.int2str(index) for index in values]
    return list(values) if _is_dataset(data) else values
