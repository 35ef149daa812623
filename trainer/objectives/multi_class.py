"""One label of several: cross-entropy, chosen by accuracy."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from trainer.objectives.base import SMALLEST, stacked
from trainer.objectives.labelled import FIGURE_DIGITS, SingleLabel


class MultiClass(SingleLabel):
    """y [batch] are label indices; outputs are logits."""

    kind, metric = "multi_class", "accuracy"

    def __init__(self, labels: tuple[str, ...]) -> None:
        super().__init__(labels, len(labels))

    def each_loss(
        self, outputs: Float[Tensor, "batch ..."], y: Int[Tensor, " batch"], smoothing: float
    ) -> Float[Tensor, "batch candidates"]:
        """Cross-entropy."""
        logits = stacked(outputs)
        spread = y.repeat_interleave(logits.shape[1])
        # Row by row: with labels along the middle axis torch takes its slow way for images.
        rows: Tensor = functional.cross_entropy(
            logits.flatten(0, 1), spread, label_smoothing=smoothing, reduction="none"
        )
        each: Tensor = rows.unflatten(0, logits.shape[:2])
        return each

    def answers(
        self, outputs: Float[Tensor, "batch ..."], y: Int[Tensor, " batch"]
    ) -> Float[Tensor, "examples candidates kept"]:
        """1 where the answer is right."""
        return (stacked(outputs).argmax(-1) == y[:, None]).float()[..., None]

    def score(self, answers: Float[Tensor, "examples candidates kept"], y: Tensor) -> Float[Tensor, " candidates"]:
        """Share of right answers."""
        return answers[..., 0].double().mean(0)

    def weighed_score(
        self,
        answers: Float[Tensor, "examples candidates kept"],
        y: Int[Tensor, " examples"],
        weights: Float[Tensor, " examples"],
    ) -> Float[Tensor, " candidates"]:
        """Share of right answers, by weight."""
        shares = weights.double() / weights.double().sum()
        return (shares @ answers[..., 0].double()).round(decimals=FIGURE_DIGITS)

    def predict(self, outputs: Float[Tensor, "batch out"]) -> Float[Tensor, "examples labels"]:
        """Probabilities."""
        return outputs.softmax(-1)

    def predicted_loss(self, predicted: Float[Tensor, "examples labels"], y: Int[Tensor, " examples"]) -> float:
        """Cross-entropy."""
        return float(functional.nll_loss(predicted.double().clamp(min=SMALLEST).log(), y))

    def chosen(self, predicted: Float[Tensor, "examples labels"]) -> Int[Tensor, " examples"]:
        """The most probable one."""
        return predicted.argmax(-1)

    def figures(self, predicted: Float[Tensor, "examples labels"], y: Int[Tensor, " examples"]) -> dict[str, float]:
        """Accuracy and macro-F1."""
        chosen = self.chosen(predicted)
        return {"accuracy": float((chosen == y).double().mean()), "f1_macro": _f1_macro(chosen, y, self.out)}


def _f1_macro(chosen: Int[Tensor, " examples"], y: Int[Tensor, " examples"], labels: int) -> float:
    """The mean F1 of the labels that are met, to the bit torchmetrics' `multiclass_f1_score`.

    That counts in a table of labels × labels: 80 GB of 100,000.
    """
    right, said, there = (part.bincount(minlength=labels) for part in (y[chosen == y], chosen, y))
    met = (said + there > 0).float()
    score = 2 * right / (said + there).clamp(min=1)
    return float((met * score / met.sum()).sum())
