"""Gives every label one spelling; labels that are equal numbers become one label."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

import polars as pl

from ilse.core.errors import UserError
from ilse.core.label_order import in_order, is_number
from pipeline.dataset.texts import normalised

_WHOLE = re.compile(r"\+?(-?(?:0|[1-9][0-9]*))(?:\.0+)?")
"""Group 1 is the number as integers are written; a leading zero is kept, as in codes."""
_NO_NUMBER = frozenset({"nan", "NaN", "NAN", "NaT", "<NA>"})
MISSING = _NO_NUMBER | {"NA", "N/A", "n/a", "None", "none", "null", "NULL"}
"""Names that other programs write where there is none."""
_OUTER = r"[\s\u200b\u2060\ufeff]+"
"""White space and what takes no space: of two labels that differ by it alone, nobody would know why."""


def clean(label: pl.Expr) -> pl.Expr:
    """Normalised as texts are, so that one word is one label; without invisible characters around it."""
    return normalised(label, "whole").str.replace_all(rf"^{_OUTER}|{_OUTER}$", "")


def one_a_number(labels: Iterable[str], where: str) -> dict[str, str]:
    """Spelling → name, where some numbers are spelled as whole ones and as decimals, `1` and `1.0`; else empty.

    Raises `UserError` for numbers spelled in other ways, which may be names (versions, codes), and for numbers beside
    what stands for none.
    """
    found = sorted(labels)
    if not all(map(is_number, found)):
        _refuse_no_number(found, where)
        return {}
    if len({Decimal(name) for name in found}) == len(found):
        return {}
    names = {name: whole[1].replace("-0", "0") if (whole := _WHOLE.fullmatch(name)) else name for name in found}
    values: dict[Decimal, str] = {}
    for name in in_order(set(names.values())):
        if (other := values.setdefault(Decimal(name), name)) != name:
            raise UserError(
                where,
                expected="labels that are names, or numbers spelled in one way each",
                found=f"'{other}' and '{name}'",
                next_step="spell them alike, or, if they are names, put a letter before each",
            )
    return {name: plain for name, plain in names.items() if name != plain}


def _refuse_no_number(names: list[str], where: str) -> None:
    others = [name for name in names if not is_number(name)]
    if len(others) < len(names) and _NO_NUMBER.issuperset(others):
        raise UserError(
            where,
            expected="numbers as labels, or names",
            found=f"'{others[0]}' among numbers",
            next_step="leave that field empty where the label is missing",
        )
