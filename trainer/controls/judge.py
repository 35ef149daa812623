"""How well answers do on validation, measured as heads are: the objective's figure, and its loss."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.objectives import Objective
from trainer.objectives.regression import Regression

SMALLEST = 1e-7
"""Probabilities are counted as at least this: that of a label without training examples is 0, and its loss infinite."""


@torch.inference_mode()
def judged(objective: Objective, answers: Float[Tensor, "rows ..."], y: Tensor) -> tuple[float, float | None]:
    """Figure and loss; no loss for cosines, which nothing was trained to."""
    if objective.kind == "similarity":
        return float(objective.score(answers[:, None, None], y)[0]), None
    outputs = _outputs(objective, answers.double())
    score, loss = objective.score(objective.answers(outputs, y), y), objective.plain_losses(outputs, y)
    return float(score[0]), float(loss[0])


def _outputs(objective: Objective, answers: Float[Tensor, "rows ..."]) -> Float[Tensor, "rows out"]:
    """Outputs of which the objective's `predict` makes these answers: its figure and its losses are of outputs."""
    if isinstance(objective, Regression):
        return ((answers - objective.mean) / objective.deviation)[:, None]
    if objective.kind == "multi_class":
        return answers.clamp(min=SMALLEST).log()
    shares = 1 - answers.cumsum(-1)[:, :-1] if objective.kind == "ordinal" else answers
    return torch.logit(shares, eps=SMALLEST)
