"""The table of classes against torchmetrics, and classes that are not there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional import classification

from ilse.core.errors import UserError
from trainer.statistics import per_class

LABELS = ("art", "law", "war")


@given(drawn=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=40))
@settings(deadline=None, max_examples=50)
def test_torchmetrics_says_the_same_where_all_classes_are_there(drawn: list[tuple[int, int]]) -> None:
    pairs = np.array([*drawn, (0, 0), (1, 1), (2, 2)])
    table = per_class(pairs[:, 0], pairs[:, 1], LABELS)
    answers, y = torch.from_numpy(pairs[:, 1].copy()), torch.from_numpy(pairs[:, 0].copy())
    for name in ("precision", "recall", "f1"):
        of = getattr(classification, f"multiclass_{name if name != 'f1' else 'f1_score'}")
        assert table[name].to_list() == pytest.approx(of(answers, y, 3, average="none").tolist())
    assert table["rows"].to_list() == np.bincount(pairs[:, 0]).tolist()
    assert table["label"].to_list() == list(LABELS)


def test_classes_without_rows_and_without_answers() -> None:
    table = per_class(np.array([0, 0, 1, 1]), np.array([0, 2, 0, 0]), LABELS)
    assert table.rows() == [
        ("art", 2, 3, pytest.approx(1 / 3), 0.5, pytest.approx(0.4)),
        ("law", 2, 0, None, 0.0, 0.0),
        ("war", 0, 1, 0.0, None, None),
    ]


@pytest.mark.parametrize(
    ("y", "predicted", "message"),
    [
        ([0, 1], [0], "expected: answers of 2 examples\n  found:    1"),
        ([], [], "at least 1 example\n"),
        ([0, 3], [0, 1], "indices of 3 labels, 0 to 2\n  found:    0 to 3"),
        ([0, 1], [-1, 1], "found:    -1 to 1"),
    ],
)
def test_answers_that_do_not_fit(y: list[int], predicted: list[int], message: str) -> None:
    with pytest.raises(UserError, match="classes") as caught:
        per_class(np.array(y, dtype=int), np.array(predicted, dtype=int), LABELS)
    assert message in str(caught.value)
