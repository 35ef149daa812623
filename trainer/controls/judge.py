"""How well answers do on validation, measured as heads are: the objective's figure, and its loss."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.objectives import Objective


@torch.inference_mode()
def judged(objective: Objective, answers: Float[Tensor, "rows ..."], y: Tensor) -> tuple[float, float | None]:
    """Figure and loss; 0 for a figure that these answers do not define, and no loss for cosines."""
    figure = objective.figure(answers, y)
    return 0.0 if math.isnan(figure) else figure, objective.predicted_loss(answers, y)
