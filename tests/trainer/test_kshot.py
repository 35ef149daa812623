"""The k-shot protocol by itself; that it is mteb's is shown in `tests/inference/test_mteb_encoder.py`."""

from __future__ import annotations

from collections import Counter
from statistics import pstdev

import numpy as np
import pytest

from ilse.errors import UserError
from trainer.kshot import KShot, draw, kshot

pytest.importorskip("sklearn", reason="the protocol fits scikit-learn's logistic regression")

LABELS = ["b"] * 40 + ["a"] * 30 + ["c"] * 3


def clusters(labels: list[str], distance: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(len(labels), 6))
    return noise + distance * np.array([[ord(label) == ord("a") + k for k in range(6)] for label in labels])


def test_every_draw_takes_so_many_of_each_label_or_all_there_are() -> None:
    draws = list(draw(LABELS, 8, 10, 42))
    assert len({tuple(sorted(chosen)) for chosen in draws}) == 10
    for chosen in draws:
        assert len(set(chosen)) == len(chosen)
        assert Counter(LABELS[place] for place in chosen) == {"a": 8, "b": 8, "c": 3}


def test_a_seed_fixes_the_draws_and_more_draws_begin_with_the_same() -> None:
    assert list(draw(LABELS, 8, 3, 42)) == list(draw(LABELS, 8, 10, 42))[:3]
    assert list(draw(LABELS, 8, 3, 42)) != list(draw(LABELS, 8, 3, 43))


def test_labels_that_lie_apart_are_told_apart_and_noise_is_not() -> None:
    test = ["a"] * 50 + ["b"] * 50
    train = [label for label in LABELS if label != "c"]
    apart = kshot(clusters(train, 9, 0), train, clusters(test, 9, 1), test)
    assert (apart.accuracy, apart.f1, apart.spread) == (1, 1, 0)
    noise = kshot(clusters(train, 0, 0), train, clusters(test, 0, 1), test)
    assert 0.3 < noise.accuracy < 0.7
    assert noise.spread > 0


def test_more_shots_help() -> None:
    train, test = ["a", "b"] * 100, ["a", "b"] * 200
    few, many = (
        kshot(clusters(train, 1.5, 0), train, clusters(test, 1.5, 1), test, shots=shots, draws=20) for shots in (1, 64)
    )
    assert many.accuracy > few.accuracy + 0.05


def test_mean_and_spread_are_over_draws() -> None:
    found = KShot((0.5, 0.7, 0.9), (0.1, 0.2, 0.6))
    assert found.accuracy == pytest.approx(0.7)
    assert found.spread == pytest.approx(pstdev(found.accuracies) * (3 / 2) ** 0.5)
    assert found.f1 == pytest.approx(0.3)
    assert KShot((0.5,), (0.5,)).spread == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((3, 2)), r"k-shot, test\n +expected: embeddings \[4, width\].*\n +found: +an array \[3, 2\]"),
        (np.zeros(4), r"found: +an array \[4\]"),
        (np.array([[0.0], [np.nan], [1], [np.inf]]), "2 rows with other values"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        kshot(np.zeros((4, 2)), list("aabb"), rows, list("abab"))
