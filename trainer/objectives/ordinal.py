"""Labels with an order, such as stars: the probability of going beyond each of them, chosen by weighted kappa.

    P(y > k | x) = σ(f_k(x)),   k = 0 … K-2

trained by the sum of the K - 1 binary cross-entropies (Frank and Hall 2001, with one network); the answer is the first
k with P(y > k) below 1/2. The figure is Cohen's kappa with quadratic weights: missing by two counts as
four times missing by one.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from trainer.objectives.base import SMALLEST, stacked
from trainer.objectives.labelled import FIGURE_DIGITS, SingleLabel
from trainer.objectives.refusal import refuse


class Ordinal(SingleLabel):
    """y [batch] are label indices in their order; outputs are the logits of `P(y > k)`."""

    kind, metric = "ordinal", "kappa"

    def __init__(self, labels: tuple[str, ...]) -> None:
        super().__init__(labels, len(labels) - 1)
        if self.out < 1:
            raise refuse("ordinal labels", "at least two labels", str(len(labels)))

    def each_loss(
        self, outputs: Float[Tensor, "batch ..."], y: Int[Tensor, " batch"], smoothing: float
    ) -> Float[Tensor, "batch candidates"]:
        """Sum of the binary cross-entropies."""
        logits = stacked(outputs)
        beyond = (y[:, None] > torch.arange(self.out, device=y.device)).to(logits)
        target = (beyond * (1 - smoothing) + smoothing / 2)[:, None].expand_as(logits)
        each: Tensor = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return each.sum(-1)

    def answers(
        self, outputs: Float[Tensor, "batch ..."], y: Int[Tensor, " batch"]
    ) -> Float[Tensor, "examples candidates kept"]:
        """The answer's index."""
        return (falling(stacked(outputs)) > 0).sum(-1, keepdim=True).float()

    def score(self, answers: Float[Tensor, "examples candidates kept"], y: Tensor) -> Float[Tensor, " candidates"]:
        """Kappa of each candidate."""
        return torch.tensor([self._kappa(column, y) for column in answers[..., 0].T.long()], dtype=torch.float64)

    def weighed_score(
        self,
        answers: Float[Tensor, "examples candidates kept"],
        y: Int[Tensor, " examples"],
        weights: Float[Tensor, " examples"],
    ) -> Float[Tensor, " candidates"]:
        """Kappa of each candidate, by weight."""
        return torch.tensor([_kappa_by_weight(a, y, weights) for a in answers[..., 0].T.long()], dtype=torch.float64)

    def predicted_loss(self, predicted: Float[Tensor, "examples labels"], y: Int[Tensor, " examples"]) -> float:
        """Sum of the binary cross-entropies."""
        shares = (1 - predicted.double().cumsum(-1)[:, :-1]).clamp(SMALLEST, 1 - SMALLEST)
        beyond = (y[:, None] > torch.arange(self.out, device=y.device)).to(shares)
        return float(functional.binary_cross_entropy(shares, beyond, reduction="none").sum(-1).mean())

    def predict(self, outputs: Float[Tensor, "batch out"]) -> Float[Tensor, "examples labels"]:
        """Probabilities of the labels: differences of `P(y > k)`, which is made to fall with k."""
        beyond = falling(outputs.sigmoid())
        return functional.pad(beyond, (1, 0), value=1.0) - functional.pad(beyond, (0, 1), value=0.0)

    def chosen(self, predicted: Float[Tensor, "examples labels"]) -> Int[Tensor, " examples"]:
        """The first one that is not more likely passed than not."""
        beyond = 1 - predicted.cumsum(-1)[:, :-1]
        return (beyond > 0.5).sum(-1)

    def figures(self, predicted: Float[Tensor, "examples labels"], y: Int[Tensor, " examples"]) -> dict[str, float]:
        """Kappa, accuracy, and the mean distance of answer and label."""
        answers = self.chosen(predicted)
        return {
            "kappa": self._kappa(answers, y),
            "accuracy": float((answers == y).double().mean()),
            "mae": float((answers - y).abs().double().mean()),
        }

    def figure(self, predicted: Float[Tensor, "examples labels"], y: Int[Tensor, " examples"]) -> float:
        """Kappa."""
        return self._kappa(self.chosen(predicted), y)

    def _kappa(self, answers: Tensor, y: Tensor) -> float:
        from torchmetrics.functional.classification import multiclass_cohen_kappa

        kappa = float(multiclass_cohen_kappa(answers, y, len(self.labels), weights="quadratic"))
        return 0.0 if kappa != kappa else kappa  # NaN where all labels and answers are one


def _kappa_by_weight(answers: Tensor, y: Tensor, weights: Tensor) -> float:
    """1 − squared distances of answers and labels, over those of answers and labels without a connection."""
    shares = weights.double() / weights.double().sum()
    found, there = answers.double(), y.double()
    means = shares @ found, shares @ there
    apart = shares @ found.square() + shares @ there.square() - 2 * means[0] * means[1]
    if apart < 1e-12:  # all labels and answers are one
        return 0.0
    return round(float(1 - shares @ (found - there).square() / apart), FIGURE_DIGITS)


def falling(values: Float[Tensor, "*batch steps"]) -> Float[Tensor, "*batch steps"]:
    """The least value so far, along the last axis: `cummin` without its indices, which ONNX has no operator for."""
    return torch.stack(list(accumulate(values.unbind(-1), torch.minimum)), dim=-1)
