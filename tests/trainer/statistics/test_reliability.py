"""Calibration against torchmetrics and by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from ilse.core.errors import UserError
from trainer.statistics import calibration_error, reliability


def torchmetrics_error(probabilities: np.ndarray, y: np.ndarray, bins: int) -> float:
    tensors = torch.from_numpy(probabilities), torch.from_numpy(y)
    return float(multiclass_calibration_error(*tensors, num_classes=probabilities.shape[1], n_bins=bins))


@given(number=st.integers(0, 999), rows=st.integers(1, 200), bins=st.sampled_from([1, 7, 15]))
@settings(deadline=None, max_examples=50)
def test_torchmetrics_says_the_same(number: int, rows: int, bins: int) -> None:
    generator = np.random.default_rng(number)
    probabilities = generator.dirichlet([0.5, 0.5, 0.5], rows)
    y = generator.integers(0, 3, rows)
    table = reliability(probabilities.max(1), probabilities.argmax(1) == y, bins)
    assert calibration_error(table) == pytest.approx(torchmetrics_error(probabilities, y, bins), abs=1e-6)
    assert table["rows"].sum() == rows
    assert len(table) == bins


def test_by_hand() -> None:
    table = reliability(np.array([0.1, 0.5, 0.5, 0.9, 1.0]), np.array([True, True, False, True, False]), bins=2)
    assert table.rows() == [(0.0, 0.5, 3, pytest.approx(1.1 / 3), 2 / 3), (0.5, 1.0, 2, pytest.approx(0.95), 0.5)]
    assert calibration_error(table) == pytest.approx((3 * 0.3 + 2 * 0.45) / 5)
    assert calibration_error(table.clear()) is None


def test_a_bin_has_its_upper_end() -> None:
    table = reliability(np.array([0.0, 0.2, 0.4]), np.ones(3, dtype=bool), bins=5)
    assert table["rows"].to_list() == [2, 1, 0, 0, 0]
    assert table["accuracy"].to_list() == [1, 1, None, None, None]
    assert table["confidence"].dtype == pl.Float64


def test_certain_answers_share_the_last_bin() -> None:
    """torchmetrics 1.9 gives probability 1 a bin of its own, so that errors there do not even out."""
    probabilities, y = np.array([[0.95, 0.05], [1.0, 0.0]]), np.array([0, 1])
    table = reliability(probabilities.max(1), np.array([True, False]))
    assert calibration_error(table) == pytest.approx(0.975 - 0.5)
    assert torchmetrics_error(probabilities, y, 15) == pytest.approx((0.05 + 1) / 2)


def test_a_sum_in_float16_may_be_a_little_beyond_1() -> None:
    table = reliability(np.array([1.00005]), np.array([True]))
    assert table["rows"].to_list() == [0] * 14 + [1]


@pytest.mark.parametrize(
    ("confidence", "right", "message"),
    [
        ([0.5, 1.2], [True, True], "expected: probabilities, 0 to 1\n  found:    numbers from 0.5 to 1.2"),
        ([-0.5, 1.0], [True, True], "found:    numbers from -0.5 to 1"),
        ([0.5, np.nan], [True, True], "1 of 2 are NaN or infinite"),
        ([0.5], [True, True], "expected: probabilities of 2 examples\n  found:    1"),
        ([], [], "at least 1 example\n"),
    ],
)
def test_what_is_no_probability(confidence: list[float], right: list[bool], message: str) -> None:
    with pytest.raises(UserError, match="calibration") as caught:
        reliability(np.array(confidence, dtype=float), np.array(right, dtype=bool))
    assert message in str(caught.value)
