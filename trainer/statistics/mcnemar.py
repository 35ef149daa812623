"""McNemar's test: of the examples that just one of two runs got right, does one run have more than chance gives it?

It knows no seeds: it tests these very runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from scipy import stats

from trainer.statistics.unsuitable import require_rows, require_same


@dataclass(frozen=True)
class McNemar:
    """Examples that only the first got right (`b`), that only the second did (`c`), and the mid-p value."""

    b: int
    c: int
    p: float


def mcnemar(right: Bool[np.ndarray, " rows"], others: Bool[np.ndarray, " theirs"]) -> McNemar:
    """McNemar's test of two runs: binomial, with half of the observed count's probability (mid-p).

        p = 2 P(X ≤ min(b, c)) - P(X = min(b, c)),   X ~ Binomial(b + c, 1/2)

    (Fagerland, Lydersen and Laake 2013, BMC Medical Research Methodology 13:91: in none of their 9,595 scenarios was it
    above its level, and the plain exact test far below). For b = c this is 1, where they take a little less. Raises
    `UserError` for other numbers of examples, or none.
    """
    require_same("answers", len(right), len(others), "McNemar's test")
    require_rows(len(right), 1, "McNemar's test")
    b, c = int((right & ~others).sum()), int((~right & others).sum())
    fewer = min(b, c)
    p = 2 * stats.binom.cdf(fewer, b + c, 0.5) - stats.binom.pmf(fewer, b + c, 0.5)
    return McNemar(b, c, min(1.0, float(p)))


def mcnemar_over_seeds(right: Bool[np.ndarray, "seeds rows"], others: Bool[np.ndarray, "their_seeds theirs"]) -> float:
    """McNemar's test of two heads, seed s against seed s; twice the median of the p-values, at most 1.

    That is a valid p-value however these depend on each other (Meinshausen, Meier and Bühlmann 2009, JASA 104, eq. 2.2
    with γ = 1/2), and mostly a cautious one. Seeds that only one of them has are left out.
    """
    values = [mcnemar(one, other).p for one, other in zip(right, others, strict=False)]
    return values[0] if len(values) == 1 else min(1.0, 2 * float(np.median(values)))
