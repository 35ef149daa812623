"""Holm's correction against the principle that it follows from."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.statistics import holm


def closed(p: list[float]) -> list[float]:
    """A hypothesis is as sure as the least sure set that it is in, each set by Bonferroni (Marcus et al. 1976)."""
    places = range(len(p))
    sets = [chosen for size in range(1, len(p) + 1) for chosen in combinations(places, size)]
    return [max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in places]


@given(p=st.lists(st.floats(0, 1) | st.sampled_from([0.01, 0.05, 1.0]), max_size=6))
def test_it_is_the_closed_test_of_bonferroni(p: list[float]) -> None:
    assert holm(p) == pytest.approx(closed(p))


def test_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.6]) == pytest.approx([0.04, 0.09, 0.09, 0.6])
