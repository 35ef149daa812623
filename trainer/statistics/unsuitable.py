"""Errors for predictions that cannot be compared."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Shaped

from ilse.core.errors import UserError, did_you_mean

PREDICT_AGAIN = "evaluate the heads again, all on the same examples"


def require_same(what: str, rows: int, others: int, where: str) -> None:
    """Raises unless two arrays are about as many examples."""
    if rows != others:
        raise UserError(where, expected=f"{what} of {rows} examples", found=str(others), next_step=PREDICT_AGAIN)


def require_finite(values: Shaped[np.ndarray, "..."], where: str) -> None:
    """Raises for NaN and infinities among numbers."""
    if not np.issubdtype(values.dtype, np.inexact):
        return
    wrong = int(np.count_nonzero(~np.isfinite(values)))
    if wrong:
        raise UserError(
            where,
            expected="finite numbers",
            found=f"{wrong} of {values.size} are NaN or infinite",
            next_step="train the head again, with a lower learning rate if its loss went to NaN",
        )


def require_rows(rows: int, fewest: int, where: str) -> None:
    """Raises for fewer examples than a statement can be made of."""
    if rows < fewest:
        plural = "s" * (fewest > 1)
        raise UserError(
            where, expected=f"at least {fewest} example{plural}", found=str(rows), next_step="give a larger test split"
        )


def require_name(name: str, known: Iterable[str]) -> None:
    """Raises for a baseline that is not among the heads, naming the nearest."""
    names = list(known)
    if name not in names:
        raise UserError(
            f"baseline '{name}'",
            expected=f"one of {', '.join(names) or 'the heads, and there are none'}",
            found=f"no head '{name}'",
            next_step=did_you_mean(name, names, "choose one of the heads above"),
        )
