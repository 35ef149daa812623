"""Several comparisons at once: the more heads, the more often one is ahead by chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979, Scandinavian Journal of Statistics 6), in the order given.

    The k-th smallest of m is multiplied by m - k + 1, none falls below a smaller one's, none exceeds 1. Refusing those
    below α then refuses a true hypothesis with probability at most α, however the tests depend on each other.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = p[order] * np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return [float(value) for value in corrected]
