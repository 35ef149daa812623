"""How well embeddings tell labels apart by a few examples of each: MTEB's k-shot logistic regression.

The figure that ILSE reports for classification (arXiv 2603.22665, its code; MTEB, arXiv 2210.07316): the trained head
is dropped, its vectors are embeddings. In each of 10 draws a logistic regression is fitted to k training examples of
each label (8; for Emotion 16) and scored on all test examples; the mean over draws is what is reported.

Draws are those of mteb's `AbsTaskClassification` to the bit: all positions are shuffled by a generator that starts from
the same seed in every draw, from the order in which the draw before left them; the first k of each label are taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt

from ilse.core.errors import UserError

SHOTS, EMOTION_SHOTS, DRAWS, SEED, ITERATIONS = 8, 16, 10, 42, 100
"""As mteb has them; its Emotion task alone takes 16 examples of each label."""


@dataclass(frozen=True)
class KShot:
    """Accuracy (and macro-F1) on the test rows, 0 to 1, of each draw."""

    accuracies: tuple[float, ...]
    f1s: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """Mean over draws: MTEB's main score."""
        return mean(self.accuracies)

    @property
    def spread(self) -> float:
        """Standard deviation over draws; 0 of a single one."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0

    @property
    def f1(self) -> float:
        """Mean macro-F1 over draws."""
        return mean(self.f1s)


def kshot(
    train: npt.NDArray[Any],
    train_labels: Sequence[Hashable],
    test: npt.NDArray[Any],
    test_labels: Sequence[Hashable],
    *,
    shots: int = SHOTS,
    draws: int = DRAWS,
    seed: int = SEED,
) -> KShot:
    """MTEB's k-shot figures of embeddings `train` [rows, width] and `test` [rows, width] with a label each.

    A label with fewer than `shots` training examples gives all it has, as in mteb. Raises `UserError` for embeddings
    and labels that do not belong together, or values that are not finite.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score

    _check("train", train, train_labels)
    _check("test", test, test_labels)
    accuracies, f1s = [], []
    for chosen in draw(train_labels, shots, draws, seed):
        regression = LogisticRegression(max_iter=ITERATIONS, random_state=seed)
        regression.fit(train[chosen], [train_labels[i] for i in chosen])
        found = regression.predict(test)
        accuracies.append(float(accuracy_score(test_labels, found)))
        f1s.append(float(f1_score(test_labels, found, average="macro")))
    return KShot(tuple(accuracies), tuple(f1s))


def draw(labels: Sequence[Hashable], shots: int, draws: int, seed: int) -> Iterator[list[int]]:
    """Positions of at most `shots` examples of each label, for each draw; in the order in which they were drawn."""
    order = list(range(len(labels)))
    for _ in range(draws):
        np.random.RandomState(seed).shuffle(order)
        taken: Counter[Hashable] = Counter()
        chosen = []
        for place in order:
            if taken[labels[place]] < shots:
                taken[labels[place]] += 1
                chosen.append(place)
        yield chosen


def _check(what: str, rows: npt.NDArray[Any], labels: Sequence[Hashable]) -> None:
    expected, found = f"embeddings [{len(labels)}, width], a row for each label", f"an array {list(rows.shape)}"
    if rows.ndim == 2 and len(rows) == len(labels) > 0:
        if np.isfinite(rows).all():
            return
        expected, found = "finite embeddings", f"{int((~np.isfinite(rows)).any(1).sum())} rows with other values"
    raise UserError(f"k-shot, {what}", expected=expected, found=found, next_step="give rows and labels of one split")
