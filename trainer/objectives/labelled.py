"""Common parts of objectives on labels: weights of labels, and losses of single-label examples."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from trainer.objectives.base import Objective
from trainer.rows.in_memory import label_weights
from trainer.rows.weights import Weights

FIGURE_DIGITS = 12
"""Of a weighted figure: equal ones must not differ by how sums are rounded, since the loss decides between them."""


class Labelled(Objective):
    """Targets out of a list of labels, which may be weighted against imbalance."""

    weights: Tensor | None

    def __init__(self, labels: tuple[str, ...], out: int) -> None:
        super().__init__()
        self.labels, self.out = labels, out
        self.register_buffer("weights", None, persistent=False)

    def losses(
        self, outputs: Float[Tensor, "batch ..."], y: Tensor, smoothing: float = 0.0
    ) -> Float[Tensor, " candidates"]:
        """The mean loss, weighted if `learn` was told so."""
        return self.mean_losses(outputs, y, smoothing, self.weights)

    def plain_losses(self, outputs: Float[Tensor, "batch ..."], y: Tensor) -> Float[Tensor, " candidates"]:
        """Losses in which all examples and labels count alike."""
        return self.mean_losses(outputs, y, 0.0, None)

    def mean_losses(
        self, outputs: Float[Tensor, "batch ..."], y: Tensor, smoothing: float, weights: Float[Tensor, " labels"] | None
    ) -> Float[Tensor, " candidates"]:
        """The mean over a batch with these weights of labels."""
        raise NotImplementedError


class SingleLabel(Labelled):
    """y [batch] are label indices: one label per example."""

    def learn(self, y: Tensor, imbalance: str, weights: Weights = None) -> None:
        """The labels' weights, whose mean over the training set is 1: a batch of rare labels has a large loss."""
        self.weights = label_weights(y, weights) if imbalance == "weights" else None

    def mean_losses(
        self,
        outputs: Float[Tensor, "batch ..."],
        y: Int[Tensor, " batch"],
        smoothing: float,
        weights: Float[Tensor, " labels"] | None,
    ) -> Float[Tensor, " candidates"]:
        """Mean losses over examples; with weights, each example counts as much as its label."""
        each = self.each_loss(outputs, y, smoothing)
        return each.mean(0) if weights is None else (each * weights.to(each)[y][:, None]).mean(0)

    def each_loss(
        self, outputs: Float[Tensor, "batch ..."], y: Int[Tensor, " batch"], smoothing: float
    ) -> Float[Tensor, "batch candidates"]:
        """The loss of every example."""
        raise NotImplementedError

    def weighed_score(
        self,
        answers: Float[Tensor, "examples candidates kept"],
        y: Int[Tensor, " examples"],
        weights: Float[Tensor, " examples"],
    ) -> Float[Tensor, " candidates"]:
        """The figure `metric` of examples that count so much each: that of examples which stand there so often."""
        raise NotImplementedError

    def chosen(self, predicted: Float[Tensor, "examples labels"]) -> Int[Tensor, " examples"]:
        """The label that the probabilities stand for."""
        raise NotImplementedError

    def columns(self, predicted: Float[Tensor, "examples labels"], y: Int[Tensor, " examples"]) -> dict[str, Any]:
        """`label`, `prediction`, its `probability`, and all `probabilities` in the label map's order."""
        chosen = self.chosen(predicted)
        return {
            "label": [self.labels[i] for i in y.tolist()],
            "prediction": [self.labels[i] for i in chosen.tolist()],
            "probability": predicted.gather(1, chosen[:, None])[:, 0].numpy(),
            "probabilities": predicted.numpy(),
        }
