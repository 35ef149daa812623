"""Linear models at their optimum, with a penalty that validation chooses from a grid.

Logistic regression for labels (each by itself where there may be several), ridge regression for scores. An inverse
strength C is that of scikit-learn's `LogisticRegression`; ridge regression has the penalty 1 / C. Dense features are
fitted by `trainer.fitting.optimum`, all strengths in one go, sparse ones by scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from trainer.controls.base import Matrix
from trainer.controls.judge import judged
from trainer.fitting.optimum import CLOSEST, Loss, Optimum
from trainer.objectives import MultiClass, Objective
from trainer.objectives.ordinal import Ordinal

ITERATIONS = 1_000
"""Limit of L-BFGS iterations; tens to hundreds are enough for standardised rows."""


@dataclass(frozen=True)
class Linear:
    """A fitted model."""

    predict: Callable[[Matrix], NDArray[np.float64]]
    """Features → probabilities [rows, labels], or scores [rows]."""
    parameters: int

    def answers(self, x: Matrix) -> Float[Tensor, "rows ..."]:
        """Predictions in the form that objectives use."""
        return torch.from_numpy(self.predict(x)).float()


@dataclass(frozen=True)
class Chosen:
    """The model of the grid that does best on validation, and its answers there."""

    model: Linear
    answers: Float[Tensor, "rows ..."]
    strength: float


def fit_best(
    grid: tuple[float, ...], objective: Objective, x: Matrix, y: Tensor, x_validation: Matrix, y_validation: Tensor
) -> Chosen:
    """Fits every strength; the figure on validation chooses, then the loss there, then the stronger penalty."""
    best: tuple[tuple[float, float], Chosen] | None = None
    dense = Dense(objective, x, y) if isinstance(x, np.ndarray) else None
    for strength in sorted(grid):
        model = dense.at(strength) if dense else fit(objective, x, y.numpy(), strength)
        answers = model.answers(x_validation)
        score, loss = judged(objective, answers, y_validation)
        merit = (score, -(loss or 0.0))
        if best is None or merit > best[0]:
            best = (merit, Chosen(model, answers, strength))
    assert best is not None  # `ControlParams` has no empty grid
    chosen = best[1]
    if dense:
        model = dense.at(chosen.strength, exact=True)
        return Chosen(model, model.answers(x_validation), chosen.strength)
    return chosen


class Dense:
    """The models of dense features [rows, features], for one strength after the other; those of `fit`."""

    def __init__(self, objective: Objective, x: Matrix, y: Tensor) -> None:
        self._kind, self._labels, self._present = objective.kind, 0, y[:0]
        self._mean, self._deviation = 0.0, 1.0
        loss: Loss = "sigmoid"
        if self._kind == "regression":
            loss, targets = "square", y.double()[:, None]
            self._mean, self._deviation = float(targets.mean()), float(targets.std(correction=0)) or 1.0
            targets = (targets - self._mean) / self._deviation
        elif self._kind == "multi_label":
            targets = y.double()
        else:
            assert isinstance(objective, MultiClass | Ordinal)
            self._labels, self._present = len(objective.labels), y.unique()
            told = (y[:, None] == self._present).double()
            # Of two labels scikit-learn penalises the one difference of their weights.
            two = len(self._present) == 2
            loss, targets = "sigmoid" if two else "softmax", told[:, 1:] if two else told
        rows = torch.from_numpy(x)[:, None].float()
        self._optimum = Optimum(rows, targets, loss)

    def at(self, strength: float, exact: bool = False) -> Linear:
        """The model of this strength, as near to its optimum as a comparison of strengths needs, or as one can get."""
        if len(self._present) == 1:  # there is nothing to tell apart
            only = int(self._present[0])
            return Linear(lambda x: np.tile(np.eye(self._labels)[only], (x.shape[0], 1)), 0)
        found = self._optimum.at(strength, CLOSEST if exact else self._optimum.compared)

        def predict(x: Matrix) -> NDArray[np.float64]:
            outputs = found.outputs(torch.from_numpy(x)[:, None].double())[:, 0, 0]
            answers: NDArray[np.float64] = self._answers(outputs).numpy()
            return answers

        return Linear(predict, found.weight.numel() + found.bias.numel())

    def _answers(self, outputs: Float[Tensor, "rows out"]) -> Float[Tensor, "rows ..."]:
        if self._kind == "regression":
            return outputs[:, 0] * self._deviation + self._mean
        if self._kind == "multi_label":
            return outputs.sigmoid()
        both = torch.cat([torch.zeros_like(outputs), outputs], dim=1) if len(self._present) == 2 else outputs
        probabilities = outputs.new_zeros(len(outputs), self._labels)
        probabilities[:, self._present] = both.softmax(-1)
        return probabilities


def fit(objective: Objective, x: Matrix, y: NDArray[Any], strength: float) -> Linear:
    """The model for an objective's targets, [rows] or [rows, labels]."""
    if objective.kind == "regression":
        return _ridge(x, y, strength)
    if objective.kind == "multi_label":
        return _each_label(x, y, strength)
    assert isinstance(objective, MultiClass | Ordinal)
    return _classifier(x, y, len(objective.labels), strength)


def _classifier(x: Matrix, y: NDArray[Any], labels: int, strength: float) -> Linear:
    """Logistic regression; a label that no training example has gets probability 0."""
    from sklearn.linear_model import LogisticRegression

    present = np.unique(y).astype(np.int64)
    if len(present) == 1:  # there is nothing to tell apart
        return Linear(lambda x: np.tile(np.eye(labels)[present[0]], (x.shape[0], 1)), 0)
    model = LogisticRegression(C=strength, max_iter=ITERATIONS).fit(x, y)

    def predict(x: Matrix) -> NDArray[np.float64]:
        probabilities = np.zeros((x.shape[0], labels))
        probabilities[:, present] = model.predict_proba(x)
        return probabilities

    return Linear(predict, model.coef_.size + model.intercept_.size)


def _each_label(x: Matrix, y: NDArray[Any], strength: float) -> Linear:
    each = [_classifier(x, column, 2, strength) for column in y.T]
    return Linear(
        lambda x: np.stack([one.predict(x)[:, 1] for one in each], axis=1), sum(one.parameters for one in each)
    )


def _ridge(x: Matrix, y: NDArray[Any], strength: float) -> Linear:
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=1 / strength).fit(x, y)
    return Linear(model.predict, model.coef_.size + 1)
