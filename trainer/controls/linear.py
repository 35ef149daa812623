"""Linear models by scikit-learn: fitted to convergence, with a penalty that validation chooses from a grid.

Logistic regression for labels (each by itself where there may be several), ridge regression for scores. An inverse
strength C is that of scikit-learn's `LogisticRegression`; ridge regression has the penalty 1 / C.
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
from trainer.objectives import MultiClass, Objective
from trainer.objectives.ordinal import Ordinal

ITERATIONS = 1_000
"""Of lbfgs at most; some tens to hundreds are enough for standardised rows."""


@dataclass(frozen=True)
class Linear:
    """A fitted model."""

    predict: Callable[[Matrix], NDArray[np.float64]]
    """Features → probabilities [rows, labels], or scores [rows]."""
    parameters: int

    def answers(self, x: Matrix) -> Float[Tensor, "rows ..."]:
        """What it predicts, as objectives have it."""
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
    for strength in sorted(grid):
        model = fit(objective, x, y.numpy(), strength)
        answers = model.answers(x_validation)
        score, loss = judged(objective, answers, y_validation)
        merit = (score, -(loss or 0.0))
        if best is None or merit > best[0]:
            best = (merit, Chosen(model, answers, strength))
    assert best is not None  # `ControlParams` has no empty grid
    return best[1]


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
