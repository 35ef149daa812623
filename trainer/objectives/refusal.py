"""The error for data that an objective is not made for."""

from __future__ import annotations

from ilse.core.errors import UserError


def refuse(where: str, expected: str, found: str, next_step: str = "choose another train.objective") -> UserError:
    """The error to raise for an objective that does not fit."""
    return UserError(where, expected=expected, found=found, next_step=next_step)


def refuse_imbalance(kind: str, imbalance: str, known: tuple[str, ...]) -> None:
    """Raises for a way of meeting imbalance that `kind` has not."""
    if imbalance not in known:
        raise refuse(
            "parameter train.recipe.imbalance",
            f"{' or '.join(known)} for the objective {kind}",
            imbalance,
            f"set it to {known[0]}",
        )
