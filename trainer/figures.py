"""The figures that heads are chosen by, in words."""

from __future__ import annotations

NAMES = {
    "accuracy": "accuracy",
    "f1_micro": "micro-F1",
    "kappa": "weighted kappa",
    "r2": "R²",
    "spearman": "Spearman's ρ",
}
"""By an objective's `metric`, as they stand within a sentence."""


def upfirst(text: str) -> str:
    """The text as a sentence begins."""
    return text[:1].upper() + text[1:]
