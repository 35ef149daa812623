"""Predictions for single examples, by the objective that the head was trained for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.objectives import Objective


@dataclass(frozen=True)
class LabelPrediction:
    """One label of several (objectives `multi_class` and `ordinal`); `probabilities` are of all labels, in order."""

    label: str
    probability: float
    probabilities: dict[str, float]

    def top(self, k: int | None) -> list[tuple[str, float]]:
        """The `k` likeliest labels (all of them for None) and their probabilities, from the first on."""
        return _top(self.probabilities, k)


@dataclass(frozen=True)
class LabelSetPrediction:
    """Any number of labels (`multi_label`): those with a probability over 1/2."""

    labels: tuple[str, ...]
    probabilities: dict[str, float]

    def top(self, k: int | None) -> list[tuple[str, float]]:
        """The `k` most likely labels with their probabilities; labels above 1/2 come first."""
        return _top(self.probabilities, k)


@dataclass(frozen=True)
class ScorePrediction:
    """A number (`regression`, on the scale of the training scores), or the cosine of two texts (`similarity`)."""

    score: float


Prediction = LabelPrediction | LabelSetPrediction | ScorePrediction


def read(objective: Objective, labels: list[str], outputs: Float[Tensor, "texts out"]) -> list[Prediction]:
    """A head's outputs as predictions of the examples."""
    predicted = objective.predict(outputs)
    if not labels:
        return [ScorePrediction(score) for score in predicted.tolist()]
    each = [dict(zip(labels, row, strict=True)) for row in predicted.tolist()]
    # An objective tells answers beside targets; there are none here, and any will do.
    if objective.kind == "multi_label":
        told = objective.columns(predicted, torch.zeros_like(predicted))["predictions"]
        return [LabelSetPrediction(tuple(names), of_all) for names, of_all in zip(told, each, strict=True)]
    told = objective.columns(predicted, torch.zeros(len(predicted), dtype=torch.long))["prediction"]
    return [LabelPrediction(name, of_all[name], of_all) for name, of_all in zip(told, each, strict=True)]


def in_words(prediction: Prediction) -> str:
    """A prediction on one line: the label and its probability, the labels over 1/2, or the score."""
    if isinstance(prediction, ScorePrediction):
        return f"{prediction.score:.4g}"
    if isinstance(prediction, LabelPrediction):
        return f"{prediction.label}, {prediction.probability:.2f}"
    return ", ".join(f"{name} {prediction.probabilities[name]:.2f}" for name in prediction.labels) or "no label"


def _top(probabilities: dict[str, float], k: int | None) -> list[tuple[str, float]]:
    return sorted(probabilities.items(), key=lambda item: -item[1])[:k]  # equal ones stay in the label map's order
