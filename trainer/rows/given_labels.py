"""What stands beside the rows that somebody has in memory, for `HeadClassifier`: their labels and weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import _check_sample_weight, assert_all_finite, column_or_1d

from ilse.core.label_order import in_order


def given_labels(y: Any, texts: int) -> npt.NDArray[Any]:
    """The labels, checked as scikit-learn checks them beside rows. Raises `ValueError` as it does."""
    if y is None:
        raise ValueError("HeadClassifier requires y to be passed, but the target y is None")
    labels: npt.NDArray[Any] = column_or_1d(y, warn=True)
    if labels.dtype.kind == "f":
        assert_all_finite(labels, input_name="y")
    if len(labels) != texts:
        raise ValueError(f"Found input variables with inconsistent numbers of samples: {[texts, len(labels)]}")
    return labels


def given_weights(sample_weight: Any, y: npt.NDArray[Any]) -> npt.NDArray[np.float64] | None:
    """What each row counts; None where nothing is given.

    Raises `ValueError` as scikit-learn does for another length, NaN, or zeros alone, and for a negative weight.
    """
    if sample_weight is None:
        return None
    weights: npt.NDArray[np.float64] = _check_sample_weight(sample_weight, y, dtype=np.float64)
    if (weights < 0).any():
        place = int((weights < 0).argmax())
        raise ValueError(
            f"sample_weight is {weights[place]:g} at row {place}; expected 0 (the row is left out) or more"
        )
    if not weights.any():
        raise ValueError("Sample weights must contain at least one non-zero number.")
    if weights.max() > np.finfo(np.float64).max / len(weights):
        raise ValueError("the sum of sample_weight is infinite; divide the weights by their largest")
    return weights


def by_value(classes: npt.NDArray[Any], indices: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Strings that are numbers in the order of their values, and where each row's label then stands."""
    if not all(isinstance(label, str) for label in classes.tolist()):
        return classes, indices
    place = {name: index for index, name in enumerate(in_order(classes.tolist()))}
    moved = np.array([place[name] for name in classes.tolist()])
    return classes[np.argsort(moved)], moved[indices]
