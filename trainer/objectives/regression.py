"""A number for each example: squared error on the standardised scale, chosen by R²."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.objectives.base import Objective, stacked
from trainer.objectives.refusal import refuse, refuse_imbalance
from trainer.rows.weights import Weights


class Regression(Objective):
    """y [batch] on its own scale; the output is the score less the training mean, in training standard deviations."""

    kind, metric, out = "regression", "r2", 1

    def __init__(self, mean: float = 0.0, deviation: float = 1.0) -> None:
        super().__init__()
        self.mean, self.deviation = mean, deviation

    def learn(self, y: Tensor, imbalance: str, weights: Weights = None) -> None:
        """Mean and standard deviation of the scores."""
        refuse_imbalance(self.kind, imbalance, ("none",))
        y = y.double()
        self.mean, self.deviation = float(y.mean()), float(y.std(correction=0))
        if self.deviation == 0:
            raise refuse("training examples", "scores that differ", f"only {self.mean:g}", "give more examples")

    def losses(
        self, outputs: Float[Tensor, "batch ..."], y: Float[Tensor, " batch"], smoothing: float = 0.0
    ) -> Float[Tensor, " candidates"]:
        """Mean squared error, in training variances."""
        wanted = ((y - self.mean) / self.deviation)[:, None]
        return (stacked(outputs)[..., 0].float() - wanted.float()).square().mean(0)

    def answers(
        self, outputs: Float[Tensor, "batch ..."], y: Float[Tensor, " batch"]
    ) -> Float[Tensor, "examples candidates kept"]:
        """The predicted scores."""
        return stacked(outputs).float() * self.deviation + self.mean

    def score(self, answers: Float[Tensor, "examples candidates kept"], y: Tensor) -> Float[Tensor, " candidates"]:
        """1 - (squared error) / (variance): below 0 for a head that is worse than the mean."""
        y = y.double()[:, None]
        error = (answers[..., 0].double() - y).square().sum(0)
        return 1 - error / (y - y.mean()).square().sum().clamp(min=1e-12)

    def predict(self, outputs: Float[Tensor, "batch out"]) -> Float[Tensor, " examples"]:
        """Scores on their own scale."""
        return outputs[:, 0] * self.deviation + self.mean

    def predicted_loss(self, predicted: Float[Tensor, " examples"], y: Float[Tensor, " examples"]) -> float:
        """Mean squared error, in training variances."""
        return float(((predicted.double() - y.double()) / self.deviation).square().mean())

    def figures(self, predicted: Float[Tensor, " examples"], y: Float[Tensor, " examples"]) -> dict[str, float]:
        """R², mean absolute error (on the scores' scale), Pearson's and Spearman's correlation."""
        from torchmetrics.functional import mean_absolute_error, pearson_corrcoef, r2_score, spearman_corrcoef

        predicted, y = predicted.double(), y.double()
        with warnings.catch_warnings():  # of a constant's correlation, which is none: 0
            warnings.simplefilter("ignore", UserWarning)
            pearson, spearman = (torch.nan_to_num(each(predicted, y)) for each in (pearson_corrcoef, spearman_corrcoef))
        return {
            "r2": float(r2_score(predicted, y)),
            "mae": float(mean_absolute_error(predicted, y)),
            "pearson": float(pearson),
            "spearman": float(spearman),
        }

    def figure(self, predicted: Float[Tensor, " examples"], y: Float[Tensor, " examples"]) -> float:
        """R²; NaN where all scores are one."""
        from torchmetrics.functional import r2_score

        return math.nan if bool((y == y[0]).all()) else float(r2_score(predicted.double(), y.double()))

    def columns(self, predicted: Float[Tensor, " examples"], y: Float[Tensor, " examples"]) -> dict[str, Any]:
        """`score` and `prediction`."""
        return {"score": y.numpy(), "prediction": predicted.numpy()}

    def facts(self) -> dict[str, Any]:
        """The objective as JSON, with its scale."""
        return {"kind": self.kind, "mean": self.mean, "deviation": self.deviation}
