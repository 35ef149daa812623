"""Any number of labels per example: binary cross-entropies, chosen by micro-F1 at probability 1/2."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from trainer.objectives.base import SMALLEST, stacked
from trainer.objectives.labelled import Labelled
from trainer.objectives.refusal import refuse_imbalance
from trainer.rows.weights import Weights


class MultiLabel(Labelled):
    """y [batch, labels] is 1 for each label that an example has; outputs are logits."""

    kind, metric = "multi_label", "f1_micro"

    def __init__(self, labels: tuple[str, ...]) -> None:
        super().__init__(labels, len(labels))

    def learn(self, y: Tensor, imbalance: str, weights: Weights = None) -> None:
        """For `weights`: what a label's presence counts, (rows without it) / (rows with it)."""
        refuse_imbalance(self.kind, imbalance, ("none", "weights"))
        present = y.sum(0)
        self.weights = (len(y) - present) / present.clamp(min=1) if imbalance == "weights" else None

    def mean_losses(
        self,
        outputs: Float[Tensor, "batch ..."],
        y: Float[Tensor, "batch labels"],
        smoothing: float,
        weights: Float[Tensor, " labels"] | None,
    ) -> Float[Tensor, " candidates"]:
        """Mean binary cross-entropy over labels; a label's presence counts its weight."""
        logits = stacked(outputs)
        target = (y * (1 - smoothing) + smoothing / 2).to(logits)[:, None].expand_as(logits)
        pos_weight = None if weights is None else weights.to(logits)
        each: Tensor = functional.binary_cross_entropy_with_logits(
            logits, target, pos_weight=pos_weight, reduction="none"
        )
        return each.mean(-1).mean(0)

    def answers(
        self, outputs: Float[Tensor, "batch ..."], y: Float[Tensor, "batch labels"]
    ) -> Float[Tensor, "examples candidates kept"]:
        """Labels that are found, that are there, and both."""
        found, there = (stacked(outputs) > 0).float(), y[:, None]
        return torch.stack([found.sum(-1), there.sum(-1).expand(found.shape[:2]), (found * there).sum(-1)], dim=-1)

    def score(self, answers: Float[Tensor, "examples candidates kept"], y: Tensor) -> Float[Tensor, " candidates"]:
        """Micro-F1, 2 both / (found + there); 0 where there is nothing to find and nothing found."""
        found, there, both = answers.double().sum(0).unbind(-1)
        return 2 * both / (found + there).clamp(min=1)

    def predict(self, outputs: Float[Tensor, "batch out"]) -> Float[Tensor, "examples labels"]:
        """Probabilities, each label for itself."""
        return outputs.sigmoid()

    def predicted_loss(self, predicted: Float[Tensor, "examples labels"], y: Float[Tensor, "examples labels"]) -> float:
        """Mean binary cross-entropy over labels."""
        shares = predicted.double().clamp(SMALLEST, 1 - SMALLEST)
        return float(functional.binary_cross_entropy(shares, y.double()))

    def figures(
        self, predicted: Float[Tensor, "examples labels"], y: Float[Tensor, "examples labels"]
    ) -> dict[str, float]:
        """Micro- and macro-F1, share of examples with all labels right, and mean average precision."""
        from torchmetrics.functional import classification as by

        there = y.long()
        return {
            "f1_micro": self.figure(predicted, y),
            "f1_macro": float(by.multilabel_f1_score(predicted, there, self.out, average="macro")),
            "exact_match": float(by.multilabel_exact_match(predicted, there, self.out)),
            "average_precision": float(by.multilabel_average_precision(predicted, there, self.out)),
        }

    def figure(self, predicted: Float[Tensor, "examples labels"], y: Float[Tensor, "examples labels"]) -> float:
        """Micro-F1."""
        from torchmetrics.functional.classification import multilabel_f1_score

        return float(multilabel_f1_score(predicted, y.long(), self.out, average="micro"))

    def columns(
        self, predicted: Float[Tensor, "examples labels"], y: Float[Tensor, "examples labels"]
    ) -> dict[str, Any]:
        """`labels` and `predictions`, a list each, and all `probabilities` in the label map's order."""
        return {
            "labels": self._names(y > 0),
            "predictions": self._names(predicted > 0.5),
            "probabilities": predicted.numpy(),
        }

    def _names(self, chosen: Tensor) -> list[list[str]]:
        return [[self.labels[i] for i in row.nonzero()[:, 0].tolist()] for row in chosen]
