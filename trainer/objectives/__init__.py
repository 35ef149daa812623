"""Objectives, by name: what a head may be trained for.

    objective = make("similarity", labels=(), width=256, loss="cosent")
    objective.learn(train.y, "none")
    objective.losses(head(x), y)          # [candidates]

`base` says what an objective is. Examples have one text or two: of two, a head gives a vector each for `similarity`;
for all others `trainer.heads.pairs` makes one answer of both, and the objective sees no difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from trainer.objectives.base import Kind, Objective
from trainer.objectives.multi_class import MultiClass
from trainer.objectives.multi_label import MultiLabel
from trainer.objectives.ordinal import Ordinal
from trainer.objectives.refusal import refuse
from trainer.objectives.regression import Regression
from trainer.objectives.similarity import Similarity, SimilarityLoss

__all__ = [
    "KINDS",
    "Kind",
    "MultiClass",
    "Objective",
    "SimilarityLoss",
    "Targets",
    "choose",
    "make",
    "restore",
]

Targets = Literal["label", "labels", "score"]
"""Kinds of targets: one label, a list of labels, or a number."""
KINDS: dict[Targets, tuple[Kind, ...]] = {
    "label": ("multi_class", "ordinal"),
    "labels": ("multi_label",),
    "score": ("regression", "similarity"),
}
"""What can be trained on them; of scores of pairs, `similarity` comes first."""


def choose(asked: Kind | Literal["auto"], targets: Targets, pairs: bool) -> Kind:
    """The objective for such examples. Raises `UserError` for one that they are not made for."""
    fitting = [kind for kind in KINDS[targets] if pairs or kind != "similarity"]
    if asked == "auto":
        return "similarity" if "similarity" in fitting else fitting[0]
    if asked not in fitting:
        raise refuse(
            "parameter train.objective",
            f"{' or '.join(fitting)} for examples with {'two texts' if pairs else 'a text'} and a column '{targets}'",
            asked,
            f"set it to {fitting[0]} or auto, or prepare the data set with other columns",
        )
    return asked


def make(kind: Kind, labels: tuple[str, ...], width: int, loss: SimilarityLoss) -> Objective:
    """An objective that has learned nothing yet; `width` of the vectors and `loss` are for `similarity`."""
    of_kind: dict[str, Callable[[], Objective]] = {
        "multi_class": lambda: MultiClass(labels),
        "multi_label": lambda: MultiLabel(labels),
        "ordinal": lambda: Ordinal(labels),
        "regression": Regression,
        "similarity": lambda: Similarity(width, loss),
    }
    return of_kind[kind]()


def restore(facts: dict[str, Any], labels: tuple[str, ...]) -> Objective:
    """The objective whose `facts` these are. Raises `TypeError` or `KeyError` for facts of none."""
    given = dict(facts)
    kind = given.pop("kind")
    with_labels = {"multi_class": MultiClass, "multi_label": MultiLabel, "ordinal": Ordinal}
    if kind in with_labels:
        return with_labels[kind](labels, **given)
    other: type[Objective] = {"regression": Regression, "similarity": Similarity}[kind]
    return other(**given)
