"""How a head's score changes from one cache to another, and whether that is shown to be within a tolerance.

    change = score on B − score on A,   of the same examples and the same head

The gate says yes where both of the hypotheses that the change is −tolerance or worse, and +tolerance or better, are
rejected at `LEVEL`. So it says yes to a change beyond the tolerance in at most 5 % of samples, and no where there are
too few examples to tell. For accuracy the test is exact (`trainer.statistics.equivalence`). For other figures it is a t
test of a bootstrap's standard error, which keeps its level roughly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats

from ilse.core.errors import UserError
from trainer.cache_drift.answer_changes import Answers
from trainer.results.significance import estimate_of, right_answers
from trainer.statistics import Change, difference

LEVEL = 0.05
LEAST_EXAMPLES = 30
"""Least number of examples for a resampled figure; with fewer, its spread is a guess."""


@dataclass(frozen=True)
class Scored:
    """A head's score on two caches.

    Parameters
    ----------
    metric
        What the score is.
    a, b
        On the first and on the second cache.
    low, high
        The 95 % interval of b − a.
    examples
        How many.
    p
        That the change is not within the tolerance; None without one.
    tolerance
        In points, 100 × the score.
    """

    metric: str
    a: float
    b: float
    low: float
    high: float
    examples: int
    p: float | None = None
    tolerance: float | None = None

    @property
    def change(self) -> float:
        """Change of the score from the first cache to the second."""
        return self.b - self.a

    @property
    def passed(self) -> bool | None:
        """Whether the change is shown to be within the tolerance; None without one."""
        return None if self.p is None else self.p <= LEVEL


def scored(told: Answers, tolerance: float | None) -> Scored:
    """Scores the answers to examples with targets.

    Raises `UserError` for a tolerance that is no number of points above 0, for answers that define no score, and for
    too few examples.
    """
    assert told.y is not None
    if tolerance is not None:
        require_tolerance(tolerance)
    margin = None if tolerance is None else tolerance / 100
    objective, y = told.trained.objective, told.y
    a, b = objective.figure(told.a, y), objective.figure(told.b, y)
    right = right_answers(objective, {"a": [told.a], "b": [told.b]}, y)
    if objective.metric == "accuracy" and right is not None:
        change = Change.of(right["a"][0], right["b"][0])
        p = None if margin is None else change.p_within(margin)
        return Scored(objective.metric, a, b, *change.interval(), len(y), p, tolerance)
    if len(y) < LEAST_EXAMPLES:
        raise _refused("examples", f"at least {LEAST_EXAMPLES} validation examples", str(len(y)), "give more examples")
    first, second = (estimate_of(objective, x[None], y, name) for x, name in ((told.a, "cache A"), (told.b, "cache B")))
    found = difference(second, first)
    if margin is None:
        p = None
    elif found.error == 0:  # the same answers to the bit
        p = 0.0
    else:
        nearest = margin - abs(found.difference)
        p = float(stats.t.sf(nearest / found.error, found.degrees))
    return Scored(objective.metric, a, b, found.low, found.high, len(y), p, tolerance)


def require_tolerance(points: float) -> None:
    """Raises `UserError` for a tolerance that is no number above 0 and below 100."""
    if not 0 < points < 100:
        raise _refused("option tolerance", "points above 0 and below 100", f"{points:g}", "give it such as 1")


def _refused(where: str, expected: str, found: str, next_step: str) -> UserError:
    return UserError(where, expected=expected, found=found, next_step=next_step)


def least_examples(tolerance: float) -> int:
    """Fewer show nothing, though no answer changes: a loss of the tolerance leaves so many as they are too often."""
    return math.ceil(math.log(LEVEL) / math.log1p(-tolerance / 100))
