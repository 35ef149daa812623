"""The figures that heads are chosen by, in words."""

from __future__ import annotations

NAMES = {
    "accuracy": "accuracy",
    "f1_micro": "micro-F1",
    "kappa": "weighted kappa",
    "r2": "R²",
    "spearman": "Spearman's ρ",
}
"""Names of figures within a sentence, by the objective's `metric`."""
BOUNDS = {
    "accuracy": (0.0, 1.0),
    "f1_micro": (0.0, 1.0),
    "kappa": (-1.0, 1.0),
    "r2": (float("-inf"), 1.0),
    "spearman": (-1.0, 1.0),
}
"""The least and the most that each can be."""


def upfirst(text: str) -> str:
    """The text as a sentence begins."""
    return text[:1].upper() + text[1:]
