"""McNemar's test against counting all that could have been."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from ilse.core.errors import UserError
from trainer.statistics import McNemar, mcnemar, mcnemar_over_seeds


def runs(b: int, c: int, both: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Two runs, of which the first alone is right `b` times and the second alone `c` times."""
    first = np.array([True] * b + [False] * c + [True] * both + [False])
    second = np.array([False] * b + [True] * c + [True] * both + [False])
    return first, second


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 5), (1, 7), (3, 4), (4, 3), (5, 5), (9, 2)])
def test_it_counts_the_ways_to_be_further_apart(b: int, c: int) -> None:
    ways = [sum(sides) for sides in product((0, 1), repeat=b + c)]
    fewer = min(b, c)
    known = (2 * sum(way < fewer for way in ways) + sum(way == fewer for way in ways)) / len(ways)
    found = mcnemar(*runs(b, c))
    assert (found.b, found.c) == (b, c)
    assert found.p == pytest.approx(known)


def test_the_papers_example() -> None:
    """Fagerland et al. 2013, table 1 (Bentur et al. 2009): 1 against 7 children; exact 0.070, mid-p 0.039."""
    found = mcnemar(*runs(1, 7))
    assert found == McNemar(1, 7, found.p)
    assert found.p == pytest.approx(0.0390625)


def test_of_several_seeds_twice_the_median() -> None:
    first, second = (np.stack(side) for side in zip(runs(0, 9), runs(2, 7), runs(4, 5), strict=True))
    middle = mcnemar(*runs(2, 7)).p
    assert mcnemar_over_seeds(first, second) == pytest.approx(2 * middle)
    assert mcnemar_over_seeds(first[:1], second) == pytest.approx(mcnemar(*runs(0, 9)).p)
    assert mcnemar_over_seeds(first[1:], second[1:]) == pytest.approx(middle + mcnemar(*runs(4, 5)).p)
    assert mcnemar_over_seeds(first[2:].repeat(2, 0), second[2:].repeat(2, 0)) == 1


def test_runs_on_other_examples_and_on_none() -> None:
    with pytest.raises(UserError, match="McNemar's test\n  expected: answers of 5 examples\n  found:    6"):
        mcnemar(np.ones(5, dtype=bool), np.ones(6, dtype=bool))
    with pytest.raises(UserError, match="at least 1 example\n"):
        mcnemar(np.ones(0, dtype=bool), np.ones(0, dtype=bool))
