"""One label of several: cross-entropy, chosen by accuracy."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_f1_score

from trainer.objectives.base import Objective, stacked
from trainer.rows import Examples, label_weights


class MultiClass(Objective):
    """y [batch] are label indices; outputs are logits."""

    kind, metric = "multi_class", "accuracy"
    weights: Tensor | None

    def __init__(self, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.labels, self.out = labels, len(labels)
        self.register_buffer("weights", None, persistent=False)

    def learn(self, train: Examples, imbalance: str) -> None:
        """The labels' weights, whose mean over the training set is 1: a batch of rare labels has a large loss."""
        self.weights = label_weights(train.y) if imbalance == "weights" else None

    def losses(
        self, outputs: Float[Tensor, "batch ..."], y: Int[Tensor, " batch"], smoothing: float = 0.0
    ) -> Float[Tensor, " candidates"]:
        """Cross-entropy; with weights each example counts its label's, and the mean is over examples."""
        each = _cross_entropies(outputs, y, smoothing)
        return each.mean(0) if self.weights is None else (each * self.weights.to(each)[y][:, None]).mean(0)

    def plain_losses(
        self, outputs: Float[Tensor, "batch ..."], y: Int[Tensor, " batch"]
    ) -> Float[Tensor, " candidates"]:
        """Cross-entropy, every example the same."""
        return _cross_entropies(outputs, y, 0.0).mean(0)

    def answers(
        self, outputs: Float[Tensor, "batch ..."], y: Int[Tensor, " batch"]
    ) -> Float[Tensor, "examples candidates kept"]:
        """1 where the answer is right."""
        return (stacked(outputs).argmax(-1) == y[:, None]).float()[..., None]

    def score(self, answers: Float[Tensor, "examples candidates kept"], y: Tensor) -> Float[Tensor, " candidates"]:
        """Share of right answers."""
        return answers[..., 0].double().mean(0)

    def predict(self, outputs: Float[Tensor, "batch out"]) -> Float[Tensor, "examples labels"]:
        """Probabilities."""
        return outputs.softmax(-1)

    def figures(self, predicted: Float[Tensor, "examples labels"], y: Int[Tensor, " examples"]) -> dict[str, float]:
        """Accuracy and macro-F1."""
        return {
            "accuracy": float((predicted.argmax(-1) == y).double().mean()),
            "f1_macro": float(multiclass_f1_score(predicted, y, self.out, average="macro")),
        }

    def columns(self, predicted: Float[Tensor, "examples labels"], y: Int[Tensor, " examples"]) -> dict[str, Any]:
        """`label`, `prediction`, its `probability`, and all `probabilities` in the label map's order."""
        return {
            "label": [self.labels[i] for i in y.tolist()],
            "prediction": [self.labels[i] for i in predicted.argmax(-1).tolist()],
            "probability": predicted.amax(-1).numpy(),
            "probabilities": predicted.numpy(),
        }


def _cross_entropies(
    outputs: Float[Tensor, "batch ..."], y: Int[Tensor, " batch"], smoothing: float
) -> Float[Tensor, "batch candidates"]:
    logits = stacked(outputs)
    spread = y.repeat_interleave(logits.shape[1])
    # Row by row: with labels along the middle axis torch takes its slow way for images.
    rows: Tensor = functional.cross_entropy(logits.flatten(0, 1), spread, label_smoothing=smoothing, reduction="none")
    each: Tensor = rows.unflatten(0, logits.shape[:2])
    return each
