"""A head's figure for each of its seeds, and how these vary, together, with the choice of examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, Shaped

from ilse.core.errors import UserError
from trainer.statistics.unsuitable import require_finite, require_rows, require_same

RESAMPLES = 400
"""Resamples. 400 know a standard error to 1/√(2·399) = 3.5 %, which the degrees of freedom allow for."""
UNDEFINED = 0.05
"""Share of resamples in which a figure may be undefined."""

Figure = Callable[[Shaped[np.ndarray, "rows ..."], Shaped[np.ndarray, "rows ..."]], float]
"""A function from predictions and targets of some examples to a number; higher is better."""


@dataclass(frozen=True)
class Estimate:
    """The figures of one head on `rows` examples.

    Estimates of different heads belong together if they were made of the same examples in the same way: then the
    covariances of all their figures are `deviations @ other.deviations.T`.
    """

    values: Float[np.ndarray, " seeds"]
    deviations: Float[np.ndarray, "seeds draws"]
    rows: int
    degrees: float
    """Degrees of freedom of the covariances."""

    @property
    def seeds(self) -> int:
        """Runs of the head."""
        return len(self.values)

    @property
    def value(self) -> float:
        """Mean over the seeds."""
        return float(self.values.mean())

    def less(self, other: Estimate) -> Estimate:
        """Estimate of the differences, seed by seed. Raises `UserError` for another number of seeds."""
        if self.seeds != other.seeds:
            raise UserError(
                "comparison of heads",
                expected=f"{self.seeds} seeds, as the other head has: seeds are paired",
                found=str(other.seeds),
                next_step="train both heads with the same seeds",
            )
        return replace(self, values=self.values - other.values, deviations=self.deviations - other.deviations)


def of_rows(scores: Shaped[np.ndarray, "seeds rows"], where: str = "predictions") -> Estimate:
    """Estimate of a figure that is the mean of one score per example; for accuracy, `scores` marks the right answers.

    The covariances are those of the rows over their number: what resampling them would come to, without doing it.
    Raises `UserError` (at `where`) for fewer than two examples, and for scores that are not finite.
    """
    rows = scores.shape[1]
    require_rows(rows, 2, where)
    require_finite(scores, where)
    exact = scores.astype(np.float64)
    values = exact.mean(1)
    deviations = (exact - values[:, None]) / np.sqrt(rows * (rows - 1))
    return Estimate(values, deviations, rows, float(rows - 1))


def of_figure(
    predicted: Shaped[np.ndarray, "seeds rows ..."],
    y: Shaped[np.ndarray, "others ..."],
    figure: Figure,
    where: str = "predictions",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Estimate of any figure by resampling examples (Efron 1979): `resamples` calls of `figure` per seed.

    All heads must have the same `resamples` and `seed`: these draw the same examples for all. Raises `UserError` (at
    `where`) for fewer than two examples, other numbers of predictions and targets, predictions that are not finite, and
    a figure that these examples do not define, such as the correlation of predictions that are all the same.
    """
    rows = predicted.shape[1]
    require_same("targets", rows, len(y), where)
    require_rows(rows, 2, where)
    require_finite(predicted, where)
    values = np.array([figure(of_seed, y) for of_seed in predicted], dtype=np.float64)
    if not np.isfinite(values).all():
        raise _undefined(where, f"it is undefined for seed {int(np.argmin(np.isfinite(values)))}, counted from 0")
    drawn = [[figure(s[i], y[i]) for s in predicted] for i in _draws(rows, resamples, seed)]
    deviations = _centred(np.array(drawn, dtype=np.float64).T, where)
    return Estimate(values, deviations, rows, 1 / (1 / (rows - 1) + 1 / (resamples - 1)))


def _draws(rows: int, resamples: int, seed: int) -> Iterator[Int[np.ndarray, " rows"]]:
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield generator.integers(rows, size=rows)


def _centred(drawn: Float[np.ndarray, "seeds draws"], where: str) -> Float[np.ndarray, "seeds draws"]:
    """Centred draws, whose products are covariances. The few draws that define no figure are left out."""
    defined = np.isfinite(drawn)
    lost = 1 - defined.mean()
    if lost > UNDEFINED:
        raise _undefined(where, f"it is undefined in {100 * lost:.0f} % of the resamples")
    kept = defined.sum(1, keepdims=True)
    mean = np.where(defined, drawn, 0.0).sum(1, keepdims=True) / kept
    centred: Float[np.ndarray, "seeds draws"] = np.where(defined, drawn - mean, 0.0) / np.sqrt(kept - 1)
    return centred


def _undefined(where: str, found: str) -> UserError:
    return UserError(
        where,
        expected="a figure that these predictions define",
        found=f"{found}: too few examples, or predictions that are all the same",
        next_step="give a larger test split, or leave the head out of the comparison",
    )
