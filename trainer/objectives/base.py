"""The base of all objectives: from a head's outputs to a loss, to the score it is chosen by, and to predictions."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from trainer.rows.weights import Weights

Kind = Literal["multi_class", "multi_label", "ordinal", "regression", "similarity"]


SMALLEST = 1e-7
"""Probability of what was predicted to be impossible."""


class Objective(nn.Module):
    """What a head is trained for.

    `outputs` below are a head's: `[batch, out]`, or `[batch, candidates, out]` of independent candidates; of heads that
    give a vector for each text (`embeds`), an example's two vectors follow each other: `[2·batch, …]`. What it learns
    of the training targets is part of its `facts`, but for weights of labels, which only the training loss has.
    """

    kind: ClassVar[Kind]
    metric: ClassVar[str]
    """What a head is chosen by, the higher the better; a key of `figures`."""
    embeds: ClassVar[bool] = False
    """The outputs are vectors of single texts, to be compared, and no answers."""
    out: int
    """Outputs that a head must have."""

    def learn(self, y: Tensor, imbalance: str, weights: Weights = None) -> None:
        """Takes what it needs from the training targets `y`, each of which counts its weight.

        Raises `UserError` for an `imbalance` that it cannot meet.
        """

    def losses(self, outputs: Float[Tensor, "batch ..."], y: Tensor, smoothing: float = 0.0) -> Float[Tensor, " terms"]:
        """The mean loss of each candidate (or term) over a batch, weighted as `learn` was told."""
        raise NotImplementedError

    def plain_losses(self, outputs: Float[Tensor, "batch ..."], y: Tensor) -> Float[Tensor, " candidates"]:
        """Losses without weights and smoothing, as validation uses them."""
        return self.losses(outputs, y)

    def answers(self, outputs: Float[Tensor, "batch ..."], y: Tensor) -> Float[Tensor, "examples candidates kept"]:
        """What `score` needs of each example; all validation outputs at once might not fit into memory."""
        raise NotImplementedError

    def score(self, answers: Float[Tensor, "examples candidates kept"], y: Tensor) -> Float[Tensor, " candidates"]:
        """The figure `metric` of each candidate over all examples, float64."""
        raise NotImplementedError

    def predict(self, outputs: Float[Tensor, "batch out"]) -> Float[Tensor, "examples ..."]:
        """What a user wants to know of each example: probabilities, or a score."""
        raise NotImplementedError

    def predicted_loss(self, predicted: Float[Tensor, "examples ..."], y: Tensor) -> float | None:
        """The plain loss of predictions, whatever made them; None where they have none.

        Probabilities count as at least `SMALLEST`: that of a label without training examples is 0, its loss infinite.
        """
        raise NotImplementedError

    def figures(self, predicted: Float[Tensor, "examples ..."], y: Tensor) -> dict[str, float]:
        """All figures of one head over all examples, `metric` first."""
        raise NotImplementedError

    def figure(self, predicted: Float[Tensor, "examples ..."], y: Tensor) -> float:
        """The one called `metric`; NaN where these predictions define none."""
        return self.figures(predicted, y)[self.metric]

    def columns(self, predicted: Float[Tensor, "examples ..."], y: Tensor) -> dict[str, Any]:
        """Targets and predictions as columns of a table."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """What rebuilds it (`objectives.restore`), as JSON can hold it."""
        return {"kind": self.kind}


def stacked(outputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch candidates out"]:
    """A single head's outputs as those of one candidate."""
    return outputs if outputs.ndim == 3 else outputs.unsqueeze(1)
