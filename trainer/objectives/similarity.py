"""Similarity of two texts: the cosine of their vectors, chosen by Spearman's correlation with the gold scores.

Three losses, on scores y in the training scores' range, s = (y - low) / (high - low):

    mse           (low + (high - low) (cos(u, v) + 1) / 2 - y)²            (ILSE, arXiv 2603.22665, its code)
    cosent        log(1 + Σ_{s_i > s_j} exp(λ (cos_j - cos_i))),  λ = 20  (Su 2022; as in sentence-transformers)
    contrastive   alike (s ≥ 1/2): ½ d²,  else ½ max(0, m - d)²,  d = 1 - cos, m = 1/2   (Hadsell et al. 2006)
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from trainer.objectives.base import Objective, stacked
from trainer.objectives.refusal import refuse, refuse_imbalance
from trainer.rows.weights import Weights

SimilarityLoss = Literal["cosent", "mse", "contrastive"]
SHARPNESS, MARGIN = 20.0, 0.5


class Similarity(Objective):
    """y [batch] are scores on their own scale; outputs are vectors, of the two texts of an example in turn."""

    kind, metric, embeds = "similarity", "spearman", True

    def __init__(self, width: int, loss: SimilarityLoss = "cosent", low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        self.out, self.loss, self.low, self.high = width, loss, low, high

    def learn(self, y: Tensor, imbalance: str, weights: Weights = None) -> None:
        """The scores' range."""
        refuse_imbalance(self.kind, imbalance, ("none",))
        self.low, self.high = float(y.min()), float(y.max())
        if self.low == self.high:
            raise refuse("training examples", "scores that differ", f"only {self.low:g}", "give more examples")

    def losses(
        self, outputs: Float[Tensor, "texts ..."], y: Float[Tensor, " batch"], smoothing: float = 0.0
    ) -> Float[Tensor, " candidates"]:
        """The loss that was chosen; smoothing is for labels."""
        cosine, scaled = cosines(outputs), ((y - self.low) / (self.high - self.low)).float()[:, None]
        if self.loss == "mse":
            return ((self.high - self.low) * ((cosine + 1) / 2 - scaled)).square().mean(0)
        if self.loss == "contrastive":
            distance = 1 - cosine
            apart = functional.relu(MARGIN - distance)
            return torch.where(scaled >= 0.5, distance.square(), apart.square()).mean(0) / 2
        return cosent(cosine, scaled)

    def answers(
        self, outputs: Float[Tensor, "texts ..."], y: Float[Tensor, " batch"]
    ) -> Float[Tensor, "examples candidates kept"]:
        """The cosines."""
        return cosines(outputs)[..., None]

    def score(self, answers: Float[Tensor, "examples candidates kept"], y: Tensor) -> Float[Tensor, " candidates"]:
        """Spearman's correlation; 0 for a candidate whose cosines are all the same."""
        from torchmetrics.functional import spearman_corrcoef

        found = [float(spearman_corrcoef(column, y.double())) for column in answers[..., 0].double().T]
        return torch.nan_to_num(torch.tensor(found, dtype=torch.float64))

    def predict(self, outputs: Float[Tensor, "texts out"]) -> Float[Tensor, " examples"]:
        """The cosines."""
        return cosines(outputs)[:, 0]

    def predicted_loss(self, predicted: Float[Tensor, " examples"], y: Float[Tensor, " examples"]) -> None:
        """None: the losses are of batches that are compared, and of cosines that were trained to them."""

    def figures(self, predicted: Float[Tensor, " examples"], y: Float[Tensor, " examples"]) -> dict[str, float]:
        """Spearman's and Pearson's correlation."""
        from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef

        predicted, y = predicted.double(), y.double()
        return {
            "spearman": float(torch.nan_to_num(spearman_corrcoef(predicted, y))),
            "pearson": float(torch.nan_to_num(pearson_corrcoef(predicted, y))),
        }

    def figure(self, predicted: Float[Tensor, " examples"], y: Float[Tensor, " examples"]) -> float:
        """Spearman's correlation. By scipy: torchmetrics ranks ties one by one, and a resampled example is a tie."""
        from scipy.stats import spearmanr

        alike = bool((predicted == predicted[0]).all() or (y == y[0]).all())
        return math.nan if alike else float(spearmanr(predicted.numpy(), y.numpy()).statistic)

    def columns(self, predicted: Float[Tensor, " examples"], y: Float[Tensor, " examples"]) -> dict[str, Any]:
        """`score` and the cosine as `prediction`."""
        return {"score": y.numpy(), "prediction": predicted.numpy()}

    def facts(self) -> dict[str, Any]:
        """The objective as JSON, with width, loss and the range of the scores."""
        return {"kind": self.kind, "width": self.out, "loss": self.loss, "low": self.low, "high": self.high}


def cosines(outputs: Float[Tensor, "texts ..."]) -> Float[Tensor, "examples candidates"]:
    """Cosine of each example's two consecutive vectors, for each candidate; float32."""
    u, v = stacked(outputs).float().unflatten(0, (-1, 2)).unbind(1)
    cosine: Tensor = functional.cosine_similarity(u, v, dim=-1)
    return cosine


def cosent(cosine: Float[Tensor, "batch candidates"], scaled: Float[Tensor, "batch 1"]) -> Float[Tensor, " candidates"]:
    """Pairs of examples in the wrong order cost the more, the further apart their cosines are."""
    ahead = scaled > scaled.T  # [i, j]: i is to be the more alike
    wrong = (SHARPNESS * (cosine[None] - cosine[:, None])).masked_fill(~ahead[..., None], -torch.inf)
    none = cosine.new_zeros(1, cosine.shape[1])
    return torch.logsumexp(torch.cat([none, wrong.flatten(0, 1)]), dim=0)
