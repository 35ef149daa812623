"""The scikit-learn classifier: scikit-learn's own checks, and that it is the head that `ilse train` trains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from ilse.core.errors import UserError
from pipeline.store import open_cache
from tests.trainer.conftest import DIM, LABELS, LAYERS, TELLING, Made
from trainer.estimator import HeadClassifier, rows_of

QUICK = {"epochs": 8, "learning_rate": 0.02, "batch_size": 16, "optimizer": "adamw", "folds": None}
EXPECTED_FAILURES = {
    "check_do_not_raise_errors_in_init_or_set_params": "beartype looks at arguments in our tests, and nowhere else",
}
"""Check → why it cannot pass."""


@parametrize_with_checks(
    [
        HeadClassifier(device="cpu"),
        HeadClassifier(
            "weighted", recipe={"epochs": 2, "learning_rate": 0.1, "batch_size": 32, "folds": None}, device="cpu"
        ),
    ],
    expected_failed_checks=lambda _: EXPECTED_FAILURES,
)
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def classifier(head: str = "weighted", **changes: Any) -> HeadClassifier:
    return HeadClassifier(head, **{"recipe": QUICK, "device": "cpu", **changes})


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any]:
    """X [rows, layers, dim], whose layers all tell something and the last one least, and y, names of labels."""
    generator = np.random.default_rng(0)
    labels = generator.integers(len(LABELS), size=120)
    strength = np.array([1.0, 1.0, 3.0, 0.3])[:, None]
    values = generator.normal(size=(120, len(LAYERS), DIM)) + strength * np.eye(len(LABELS), DIM)[labels][:, None]
    return (values * [[1], [10], [100], [1000]]).astype(np.float32), np.array(LABELS)[labels]


@pytest.mark.parametrize("head", ["mean", "mlp", "cayley", "exits", "gated"])
def test_heads_learn_from_rows_with_their_layers(head: str, data: tuple[Any, Any]) -> None:
    X, y = data
    fitted = classifier(head).fit(X[:90], y[:90])
    assert fitted.score(X[90:], y[90:]) > 0.45  # a third by chance
    assert (fitted.classes_.tolist(), fitted.n_layers_, fitted.n_features_in_) == (list(LABELS), 4, 4 * DIM)
    assert fitted.predict_proba(X).shape == (120, 3)


def test_rows_side_by_side_are_the_same_rows(data: tuple[Any, Any]) -> None:
    X, y = data
    stacked, flat = classifier("mlp").fit(X, y), classifier("mlp", layers=len(LAYERS)).fit(X.reshape(len(X), -1), y)
    np.testing.assert_array_equal(stacked.predict_proba(X), flat.predict_proba(X.reshape(len(X), -1)))
    np.testing.assert_array_equal(stacked.predict_proba(X.reshape(len(X), -1)), flat.predict_proba(torch.tensor(X)))


def test_best_keeps_the_layer_that_tells_and_its_treatment(data: tuple[Any, Any]) -> None:
    X, y = data
    fitted = classifier("best", validation_fraction=0.3).fit(X, y)
    assert fitted.head_.layers_read == (TELLING,)
    rows = torch.tensor(X[:, [TELLING]])
    expected = fitted.head_((rows - rows.mean(0)) / rows.std(0, correction=0)).softmax(-1)
    assert (fitted.predict_proba(X).argmax(1) == expected.argmax(1).numpy()).mean() > 0.95


def test_only_rows_that_are_trained_on_are_standardised_by(data: tuple[Any, Any]) -> None:
    X, y = data
    fitted = classifier("last", validation_fraction=0.0).fit(X, y)
    np.testing.assert_allclose(fitted.treatment_.standardise.mean[0], X[:, -1].mean(0), rtol=1e-4, atol=1e-2)
    other = classifier("last", validation_fraction=0.5).fit(X, y)
    assert not torch.allclose(other.treatment_.standardise.mean, fitted.treatment_.standardise.mean, rtol=1e-2)


def test_it_works_in_scikit_learns_tools(data: tuple[Any, Any]) -> None:
    X, y = data
    assert cross_val_score(classifier(), X, y, cv=2).mean() > 0.6
    grid = {"head": ["last", "mean"], "recipe": [QUICK, {**QUICK, "pca": 4}]}
    search = GridSearchCV(classifier(), grid, cv=2, refit=False).fit(X, y)
    assert search.best_params_["head"] == "mean"  # the last layer tells little
    steps = make_pipeline(StandardScaler(), classifier("mlp", layers=len(LAYERS), options={"fusion": "mean"}))
    flat = X.reshape(len(X), -1)
    assert steps.fit(flat, y).score(flat, y) > 0.6
    assert clone(steps).get_params()["headclassifier__options"] == {"fusion": "mean"}


def test_a_seed_is_a_fit_and_leaves_torchs_own_draws_alone(data: tuple[Any, Any]) -> None:
    X, y = data
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (classifier("mlp", random_state=seed).fit(X, y).predict_proba(X) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_labels_with_an_order(data: tuple[Any, Any]) -> None:
    X, y = data
    fitted = classifier("mean", objective="ordinal").fit(X, y)
    assert type(fitted.objective_).__name__ == "Ordinal"
    np.testing.assert_allclose(fitted.predict_proba(X).sum(1), 1, atol=1e-5)
    assert set(fitted.predict(X)) <= set(LABELS)


def test_numbers_have_the_order_of_their_values_though_they_be_strings(data: tuple[Any, Any]) -> None:
    X, y = data
    numbers = np.array([2, 10, 100])[np.unique(y, return_inverse=True)[1] % 3]
    fitted = [classifier("mean", objective="ordinal").fit(X, labels) for labels in (numbers, numbers.astype(str))]
    assert fitted[1].classes_.tolist() == ["2", "10", "100"]
    np.testing.assert_array_equal(fitted[0].predict_proba(X), fitted[1].predict_proba(X))
    np.testing.assert_array_equal(fitted[0].predict(X).astype(str), fitted[1].predict(X))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "weigthed"}, "did you mean 'weighted'"),
        ({"options": {"blocks": 1}}, "unknown key 'blocks'"),
        ({"recipe": {"epoch": 1}}, "HeadClassifier, section 'recipe'(.|\n)*did you mean 'epochs'"),
    ],
)
def test_parameters_that_there_are_not(data: tuple[Any, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        classifier(**changes).fit(*data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 3}, "X has 4 layers, but HeadClassifier is expecting 3"),
        ({"validation_fraction": 1.0}, "validation_fraction should be at least 0 and below 1, got 1.0"),
    ],
)
def test_rows_and_shares_that_do_not_fit(data: tuple[Any, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classifier(**changes).fit(*data)


def test_rows_that_are_no_whole_layers(data: tuple[Any, Any]) -> None:
    X, y = data
    with pytest.raises(ValueError, match="X has 32 features, which are no 3 layers of one width"):
        classifier(layers=3).fit(X.reshape(len(X), -1), y)
    with pytest.raises(ValueError, match="X has 2 layers, but HeadClassifier is expecting 4"):
        classifier().fit(X, y).predict(X.reshape(len(X), 2, -1))


def test_rows_of_a_cache_by_id(made: Made) -> None:
    ids = made.table["text_id"].to_list()[::-3]
    expected = np.stack([made.values[text] for text in ids])
    np.testing.assert_array_equal(rows_of(made.cache, ids), expected)
    np.testing.assert_array_equal(rows_of(open_cache(made.cache), ids, layers=[2, 0]), expected[:, [2, 0]])
    X, y = rows_of(made.cache, made.table["text_id"]), made.table["label"]
    assert classifier().fit(X, y).score(X, y) > 0.6
    with pytest.raises(UserError, match=r"cache (.|\n)*1 that are not in it, such as 'no text'"):
        rows_of(made.cache, [*ids, "no text"])
