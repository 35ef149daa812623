"""What training makes small, and what a head gets on validation: its objective's loss and figure, by candidate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.heads import Head, Outputs
from trainer.objectives import Objective
from trainer.objectives.labelled import SingleLabel
from trainer.rows.in_memory import Examples
from trainer.rows.weights import Weights, weights_at

VALIDATION_ROWS = 256
"""Examples that are validated at a time."""


def training_losses(
    outputs: Outputs, y: Tensor, objective: Objective, smoothing: float
) -> Float[Tensor, " candidates"]:
    """The loss of each candidate, or the weighted sum of a head's terms, and its penalty."""
    if outputs.terms is None:
        losses = objective.losses(outputs.logits, y, smoothing)
    else:
        assert outputs.weights is not None
        losses = (objective.losses(outputs.terms, y, smoothing) * outputs.weights).sum().unsqueeze(0)
    return losses if outputs.penalty is None else losses + outputs.penalty


def validate(
    head: Head, objective: Objective, rows: Examples
) -> tuple[Float[Tensor, " candidates"], Float[Tensor, " candidates"]]:
    """Loss and figure of each candidate over `rows`, float64, in evaluation mode and a batch at a time."""
    head.eval()
    found = measured(lambda x: head.supervised(x).logits, head, objective, rows)
    head.train()
    return found


def measured(
    outputs: Callable[[Any], Tensor], head: Head, objective: Objective, rows: Examples
) -> tuple[Float[Tensor, " candidates"], Float[Tensor, " candidates"]]:
    """Mean losses of what `outputs` makes of the batches of `rows`."""
    loss, answers = told(outputs, head, objective, rows)
    order = rows.order()
    return loss, figure(objective, answers, rows.y[order], weights_at(rows, order))


@torch.no_grad()
def told(
    outputs: Callable[[Any], Tensor], head: Head, objective: Objective, rows: Examples
) -> tuple[Float[Tensor, " candidates"], Float[Tensor, "rows candidates kept"]]:
    """The loss, and the answers that a figure is made of, in the order of `chunks`."""
    device = next(head.parameters()).device
    loss, answers = torch.zeros((), dtype=torch.float64), []
    weights, start = weights_at(rows, rows.order()), 0
    for x, y in rows.chunks(VALIDATION_ROWS):
        given, y = outputs(x.to(device)), y.to(device)
        own = None if weights is None else weights[start : start + len(y)]
        start += len(y)
        loss = loss + summed_losses(objective, given, y, own).cpu()
        answers.append(objective.answers(given, y).cpu())
    return loss / total_weight(len(rows.y), weights), torch.cat(answers)


def total_weight(rows: int, weights: Weights) -> float:
    """What so many examples count together."""
    return float(rows if weights is None else weights.sum())


def summed_losses(
    objective: Objective, outputs: Float[Tensor, "batch ..."], y: Tensor, weights: Float[Tensor, " batch"] | None
) -> Float[Tensor, " candidates"]:
    """The sum of the examples' plain losses, each counting its weight, or 1; float64."""
    if weights is None:
        return len(y) * objective.plain_losses(outputs, y).double()
    assert isinstance(objective, SingleLabel)  # no other has weights of examples
    each = objective.each_loss(outputs, y, 0.0).double()
    return weights.to(each) @ each


def figure(
    objective: Objective,
    answers: Float[Tensor, "examples candidates kept"],
    y: Tensor,
    weights: Float[Tensor, " examples"] | None,
) -> Float[Tensor, " candidates"]:
    """What a head is chosen by, each example counting its weight, or 1."""
    if weights is None:
        return objective.score(answers, y)
    assert isinstance(objective, SingleLabel)  # no other has weights of examples
    return objective.weighed_score(answers, y, weights)
