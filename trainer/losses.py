"""What training makes small, and what counts as right: cross-entropy and accuracy of one head or of many candidates."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from trainer.heads import Head, Outputs
from trainer.rows import Examples

VALIDATION_ROWS = 256
"""Examples that are validated at a time."""


@torch.no_grad()
def validate(head: Head, rows: Examples) -> tuple[Float[Tensor, " candidates"], Float[Tensor, " candidates"]]:
    """Loss and accuracy of each candidate over `rows`, float64, in evaluation mode and a batch at a time."""
    device = next(head.parameters()).device
    sums = torch.zeros(())
    head.eval()
    for x, y in rows.chunks(VALIDATION_ROWS):
        logits, y = head.supervised(x.to(device)).logits, y.to(device)
        both = torch.stack([candidate_losses(logits, y), candidate_accuracy(logits, y)])
        sums = sums + len(y) * both.double().cpu()
    head.train()
    loss, right = sums
    # Counts are whole, so that equal ones are equal accuracies however they were batched.
    return loss / len(rows.y), right.round() / len(rows.y)


def training_losses(
    outputs: Outputs, y: Int[Tensor, " batch"], smoothing: float, weights: Float[Tensor, " labels"] | None = None
) -> Float[Tensor, " candidates"]:
    """What training makes small: the loss of each candidate, or the weighted sum of a head's terms, and its penalty."""
    if outputs.terms is None:
        losses = candidate_losses(outputs.logits, y, smoothing, weights)
    else:
        assert outputs.weights is not None
        losses = (candidate_losses(outputs.terms, y, smoothing, weights) * outputs.weights).sum().unsqueeze(0)
    return losses if outputs.penalty is None else losses + outputs.penalty


def candidate_losses(
    logits: Float[Tensor, "batch ..."],
    y: Int[Tensor, " batch"],
    smoothing: float = 0.0,
    weights: Float[Tensor, " labels"] | None = None,
) -> Float[Tensor, " candidates"]:
    """Mean cross-entropy of each candidate; logits are [batch, out] or [batch, candidates, out].

    With `weights`, each example counts its label's weight and the mean is over examples, so that a batch of rare
    labels has a large loss: the weights' mean over the training set is 1.
    """
    stacked = logits if logits.ndim == 3 else logits.unsqueeze(1)
    spread = y.repeat_interleave(stacked.shape[1])
    # Row by row: with labels along the middle axis torch takes its slow way for images.
    rows: Tensor = functional.cross_entropy(stacked.flatten(0, 1), spread, label_smoothing=smoothing, reduction="none")
    each: Tensor = rows.unflatten(0, stacked.shape[:2])
    return each.mean(0) if weights is None else (each * weights.to(each)[y][:, None]).mean(0)


def candidate_accuracy(logits: Float[Tensor, "batch ..."], y: Int[Tensor, " batch"]) -> Float[Tensor, " candidates"]:
    """Share of right answers of each candidate; logits as for `candidate_losses`."""
    stacked = logits if logits.ndim == 3 else logits.unsqueeze(1)
    return (stacked.argmax(-1) == y.unsqueeze(1)).float().mean(0)
