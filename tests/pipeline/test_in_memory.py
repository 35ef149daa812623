"""Targets and texts in memory: what libraries make of a column is read as its owner means it, or refused by name."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from ilse.core.errors import UserError
from pipeline.dataset.in_memory import as_column, listed, strings
from pipeline.dataset.targets import as_label_sets, as_labels, as_scores

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")
sparse = pytest.importorskip("scipy.sparse")

Y = [0, 1, 2, 0]
BITS = np.eye(3, dtype=int)[Y]
Kind = enum.StrEnum("Kind", {"A": "0", "B": "1", "C": "2"})
Plain = enum.Enum("Plain", "a b c")
LABELS: dict[str, Callable[[], Any]] = {
    "a list": lambda: Y,
    "a tuple of strings": lambda: tuple(map(str, Y)),
    "NumPy": lambda: np.array(Y, np.int8),
    "NumPy, a column": lambda: np.array(Y).reshape(-1, 1),
    "NumPy's numbers": lambda: list(np.array(Y)),
    "pandas": lambda: pd.Series(Y, index=range(10, 14)),
    "pandas' categories": lambda: pd.Series(Y).astype("category"),
    "a frame of one column": lambda: pd.DataFrame({"y": Y}),
    "Polars": lambda: pl.Series(Y),
    "Arrow": lambda: pa.array(Y),
    "Arrow's dictionary": lambda: pa.array(list(map(str, Y))).dictionary_encode(),
    "torch": lambda: torch.tensor(Y),
    "torch, a column": lambda: torch.tensor(Y)[:, None],
    "torch's numbers": lambda: list(torch.tensor(Y)),
    "a generator": lambda: (y for y in Y),
    "decimals": lambda: [Decimal(y) for y in Y],
    "an enumeration of strings": lambda: [list(Kind)[y] for y in Y],
}
NOTHING: dict[str, Callable[[], Any]] = {
    "None": lambda: [None, "a"],
    "NaN beside words": lambda: [float("nan"), "a"],
    "pandas' words": lambda: pd.Series([None, "a"]),
    "pandas' whole numbers": lambda: pd.Series([None, 1], dtype="Int64"),
    "pandas' strings": lambda: pd.Series([None, "a"], dtype="string"),
    "a mask": lambda: np.ma.array([1, 2], mask=[True, False]),
    "Arrow": lambda: pa.array([None, "a"]),
    "Polars": lambda: pl.Series([None, 1]),
}
SEVERAL: dict[str, Callable[[], Any]] = {
    "lists": lambda: [["0"], ["1"], ["2"], ["0"]],
    "sets of numbers": lambda: [{y} for y in Y],
    "arrays": lambda: [np.array([str(y)]) for y in Y],
    "Arrow": lambda: pa.array([[y] for y in Y]),
    "Polars": lambda: pl.Series([[y] for y in Y]),
    "vectors": lambda: BITS,
    "vectors of floats": lambda: BITS.astype(float),
    "vectors of booleans": lambda: torch.tensor(BITS) == 1,
    "vectors in lists": lambda: BITS.tolist(),
    "a sparse matrix": lambda: sparse.csr_matrix(BITS),
    "pandas' columns": lambda: pd.DataFrame(BITS, columns=["0", "1", "2"]),
    "Polars' columns": lambda: pl.DataFrame(BITS, schema=["0", "1", "2"]),
    "Arrow's columns": lambda: pa.table({str(i): BITS[:, i] for i in range(3)}),
}
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "one string": (lambda: "abc", "a list, array, column or tensor\n.*one str"),
    "nothing": (lambda: None, "one NoneType"),
    "a dictionary": (lambda: {0: "a"}, "one dict"),
    "a set": (lambda: {"a", "b"}, "one set"),
    "one number": (lambda: np.array(1), "one ndarray"),
    "floats with NaN": (lambda: pd.Series([1, None]), r"target 1 .*\n.*finite number .*\n.*nan\n.*astype\('Int64'\)"),
    "an infinite score": (lambda: [0.5, float("inf")], "a finite number as score\n.*inf"),
    "words beside floats": (lambda: ["a", 0.5], "target 1 .*\n.*a label, .*\n.*0.5, a float"),
    "a fraction": (lambda: [Fraction(1, 3)], "a Fraction"),
    "a decimal that is not whole": (lambda: [Decimal("0.5")], "a Decimal\n.*a float for a score"),
    "a plain enumeration": (lambda: [Plain.a], "a Plain"),
    "bytes": (lambda: [b"a"], "a bytes"),
    "dates": (lambda: [datetime.date(2020, 1, 1)], "a date"),
    "NumPy's times": (lambda: np.array([1], "datetime64[ns]"), "datetime64"),
    "lists beside words": (lambda: [["a"], "b"], "target 1 .*\n.*a list of labels, as other examples have\n.*'b'"),
    "None in a list": (lambda: [["a", None]], r"target 0 .*\n.*a list of strings or whole numbers\n.*\['a', None\]"),
    "floats in a list": (lambda: [[0.5]], "a list of strings or whole numbers"),
    "a frame of numbers": (lambda: pd.DataFrame({"a": [0, 1], "b": [0, 2]}), "a column of 0 and 1 .*\n.*2 in .* b"),
    "a frame with gaps": (lambda: pd.DataFrame({"a": [0, 1], "b": [0, None]}), "in the column b"),
}  # fmt: skip


@pytest.mark.parametrize("name", LABELS)
def test_labels(name: str) -> None:
    assert as_labels(as_column(LABELS[name](), "target"), "x").to_list() == [str(y) for y in Y]


@pytest.mark.parametrize("name", NOTHING)
def test_what_is_missing_is_no_label(name: str) -> None:
    found = as_labels(as_column(NOTHING[name](), "target"), "x").to_list()
    assert found[0] is None
    assert found[1] in ("a", "1", "2")


@pytest.mark.parametrize("name", SEVERAL)
def test_label_sets(name: str) -> None:
    assert as_label_sets(as_column(SEVERAL[name](), "target"), "x").to_list() == [[str(y)] for y in Y]


@pytest.mark.parametrize(
    "targets",
    [
        [0.5, None, 1],
        np.array([0.5, 1], np.float32),
        torch.tensor([0.5, 1]),
        torch.tensor([0.5, 1], dtype=torch.bfloat16),
        pd.Series([0.5, 1]),
    ],
)
def test_floats_are_scores(targets: Any) -> None:
    found = as_column(targets, "target")
    assert found.dtype == pl.Float64
    assert as_scores(found, "x").drop_nulls().to_list() == [0.5, 1.0]


def test_booleans_are_labels_as_in_files() -> None:
    for values in ([True, False], np.array([True, False]), torch.tensor([True, False])):
        assert as_column(values, "target").to_list() == ["true", "false"]


def test_whole_numbers_have_no_largest_one() -> None:
    assert as_column([10**30, 2], "target").to_list() == ["1" + "0" * 30, "2"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_something_else_is_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        as_column(make(), "target")


@pytest.mark.parametrize(
    "texts", [np.array(["a", "b"]), pd.Series(["a", "b"]), pa.array(["a", "b"]), pl.Series(["a", "b"]), iter("ab")]
)
def test_texts(texts: Any) -> None:
    assert strings(texts, "text") == ["a", "b"]
    assert all(type(text) is str for text in listed(["a", np.str_("b")], "text"))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a text", "a list, array, column or tensor\n.*one str"),
        ([b"a"], r"extract\(\), text 0 \(from 0\)\n.*a string\n.*b'a'\n.*decode the bytes"),
        (["a", float("nan")], "text 1 .*\n.*a string\n.*nan"),
        (pd.Series(["a", None], dtype="string"), "text 1 .*\n.*a string\n.*None"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), "one value for each example\n.*a table of the columns a, b"),
    ],
)
def test_what_is_no_text(texts: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        strings(texts, "text")
