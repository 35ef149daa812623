"""Controls, by name: what a figure is to be compared with before a head gets credit for it.

    fit = control_kind("words").prepare(given)
    fit(objective, seed).test            # answers to the test examples, whose targets it never saw

`base` says what a control is. `majority` looks at no text, `words` at no model, `probe` at rows of this cache or of
another one (`of_cache`: an untrained model, a small model of sentences); `random_labels` learns from labels that mean
nothing. `linear` fits, by scikit-learn; `judge` measures on validation. They go through `trainer.artifacts.answers`.
"""

from __future__ import annotations

from ilse.core.errors import UserError, did_you_mean
from trainer.controls.base import ControlKind, Fitted, Given
from trainer.controls.majority import prepare_majority
from trainer.controls.probe import LABELLED, of_cache, prepare_last_probe, prepare_mean_probe, prepare_random_labels
from trainer.controls.words import prepare_words
from trainer.objectives import Kind

__all__ = ["CONTROLS", "ControlKind", "Fitted", "Given", "control_kind", "of_cache", "refuse_unless_answered"]

CONTROLS = {
    kind.name: kind
    for kind in (
        ControlKind("majority", "frequencies of the labels, or the mean score", prepare_majority, LABELLED, LABELLED),
        ControlKind("words", "TF-IDF of words, linear model", prepare_words, LABELLED, ("similarity",)),
        ControlKind(
            "mean_probe", "linear model on the mean of all layers", prepare_mean_probe,
            LABELLED, (*LABELLED, "similarity"),
        ),
        ControlKind(
            "last_probe", "linear model on the last layer; similarity: its cosine", prepare_last_probe,
            LABELLED, (*LABELLED, "similarity"),
        ),
        ControlKind(
            "random_labels", "mean_probe, trained on labels in random order", prepare_random_labels,
            LABELLED, LABELLED, random=True,
        ),
    )
}  # fmt: skip


def control_kind(name: str) -> ControlKind:
    """The registry's entry; `UserError` for an unknown name, naming the nearest."""
    if name not in CONTROLS:
        raise UserError(
            f"control '{name}'",
            expected=f"one of {', '.join(CONTROLS)}, or a name in controls.caches",
            found=f"unknown control '{name}'",
            next_step=did_you_mean(name, CONTROLS, "choose one of the controls above"),
        )
    return CONTROLS[name]


def refuse_unless_answered(control: ControlKind, kind: Kind, pairs: bool) -> None:
    """Raises `UserError` for an objective that the control cannot answer, naming the controls that can."""
    if not control.answers(kind, pairs):
        others = [name for name, other in CONTROLS.items() if other.answers(kind, pairs)]
        raise UserError(
            f"control '{control.name}'",
            expected=f"an objective that it can answer: {', '.join(control.of_pairs if pairs else control.of_texts)}",
            found=f"{kind}" + (", two texts per example" if pairs else ""),
            next_step=f"remove it from controls.names; for these examples there are {', '.join(others)}",
        )
