"""Rows that count differently, against the same rows repeated: the slow, obvious twin of every weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_sample_weight_equivalence_on_dense_data
from torch import Tensor

from tests.trainer.conftest import DIM, LABELS, LAYERS, head_of, of_labels, recipe_of
from trainer.estimator import HeadClassifier
from trainer.fitting.fit import fit
from trainer.fitting.losses import figure, measured
from trainer.fitting.solved import folds_of
from trainer.heads import build_head
from trainer.heads.exit_thresholds import choose_threshold, tradeoff
from trainer.objectives import make
from trainer.rows.distinct import KEY_BYTES, distinct_rows
from trainer.rows.in_memory import IndexBatches, Rows, label_weights
from trainer.rows.weights import drawn_by_weight
from trainer.treatment import Treatment, TreatmentOptions

QUICK = {"epochs": 3, "learning_rate": 0.02, "batch_size": 16, "optimizer": "adamw"}
ROWS = 60


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any, Any]:
    """X [rows, layers, dim], y, and whole weights, 0 among them, that favour one label."""
    generator = np.random.default_rng(0)
    labels = generator.integers(len(LABELS), size=ROWS)
    values = generator.normal(size=(ROWS, len(LAYERS), DIM)) + np.eye(len(LABELS), DIM)[labels][:, None]
    weights = generator.integers(0, 3, size=ROWS) + 3 * (labels == 1) * generator.integers(0, 2, size=ROWS)
    return values.astype(np.float32), np.array(LABELS)[labels], weights


def repeated(values: Any, weights: Any, seed: int = 3) -> Any:
    """Each as often as its weight says, in another order."""
    places = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(weights)), weights))
    return [values[place] for place in places] if isinstance(values, list) else values[places]


def classifier(head: str, **changes: Any) -> HeadClassifier:
    return HeadClassifier(head, **{"device": "cpu", **changes})


@pytest.mark.parametrize(
    ("head", "changes"),
    [
        ("linear", {}),
        ("linear", {"objective": "ordinal"}),
        ("linear", {"recipe": {"folds": None}, "validation_fraction": 0.3}),
        ("last", {"recipe": {"penalty": 2.0}}),
        ("last", {"recipe": {"imbalance": "weights", "label_smoothing": 0.1}}),
        ("best", {}),
        ("best", {"objective": "ordinal", "recipe": {"folds": None}, "validation_fraction": 0.3}),
        ("mlp", {"recipe": {**QUICK, "folds": None}, "validation_fraction": 0.3}),
        ("weighted", {"recipe": {**QUICK, "folds": 3, "pca": 4}}),
        ("exits", {"recipe": QUICK, "validation_fraction": 0.3}),
    ],
)
def test_a_weight_is_a_row_given_so_often(data: tuple[Any, Any, Any], head: str, changes: dict[str, Any]) -> None:
    X, y, weights = data
    weighted = classifier(head, **changes).fit(X, y, sample_weight=weights)
    twin = classifier(head, **changes).fit(repeated(X, weights), repeated(y, weights))
    np.testing.assert_allclose(weighted.predict_proba(X), twin.predict_proba(X), atol=1e-5)
    assert weighted.validation_score_ == twin.validation_score_
    plain = classifier(head, **changes).fit(X, y)
    assert np.abs(plain.predict_proba(X) - weighted.predict_proba(X)).max() > 1e-3


@pytest.mark.parametrize("head", ["last", "mean", "best"])
def test_scikit_learns_check_of_weights(head: str) -> None:
    check_sample_weight_equivalence_on_dense_data(head, classifier(head))


def test_tokens_have_weights(data: tuple[Any, Any, Any]) -> None:
    _, y, weights = data
    generator = np.random.default_rng(1)
    texts = [generator.normal(size=(generator.integers(1, 5), 3, 6)).astype(np.float32) for _ in y]
    model = classifier("weighted", tokens={"rank": 4}, recipe={**QUICK, "folds": None}, validation_fraction=0.3)
    weighted = model.fit(texts, y, sample_weight=weights)
    told, mean = weighted.predict_proba(texts), weighted.treatment_.standardise.mean
    twin = model.fit(repeated(texts, weights), repeated(y, weights))
    np.testing.assert_array_equal(twin.predict_proba(texts), told)
    held_back = model.set_params(validation_fraction=0.0).fit(texts, y, sample_weight=weights)
    every = np.concatenate(repeated(texts, weights))
    np.testing.assert_allclose(held_back.treatment_.standardise.mean, every.mean(0), atol=1e-5)
    assert not torch.equal(held_back.treatment_.standardise.mean, mean)


@pytest.mark.parametrize(("head", "recipe"), [("linear", {}), ("mlp", {**QUICK, "folds": None})])
def test_the_order_of_rows_says_nothing(data: tuple[Any, Any, Any], head: str, recipe: dict[str, Any]) -> None:
    X, y, weights = data
    order = np.random.default_rng(5).permutation(ROWS)
    for own in (None, weights + 0.25):
        one = classifier(head, recipe=recipe).fit(X, y, sample_weight=own)
        other = classifier(head, recipe=recipe).fit(X[order], y[order], None if own is None else own[order])
        np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))


def test_a_given_penalty_stands_beside_the_sum_of_weighted_losses(data: tuple[Any, Any, Any]) -> None:
    X, y, weights = data
    own = weights * 0.7
    fitted = classifier("last", recipe={"penalty": 4.0}).fit(X, y, sample_weight=own)
    rows = StandardScaler().fit(X[:, -1], sample_weight=own).transform(X[:, -1])
    twin = LogisticRegression(C=1 / 4.0, max_iter=5_000, tol=1e-9).fit(rows, y, sample_weight=own)
    np.testing.assert_allclose(fitted.predict_proba(X), twin.predict_proba(rows), atol=1e-3)
    scaled = classifier("last", recipe={"penalty": 4.0}).fit(X, y, sample_weight=own * 100)
    assert np.abs(scaled.predict_proba(X) - twin.predict_proba(rows)).max() > 0.01


def test_a_chosen_penalty_follows_the_scale_of_the_weights(data: tuple[Any, Any, Any]) -> None:
    X, y, weights = data
    one, other = (classifier("last").fit(X, y, sample_weight=weights * by).predict_proba(X) for by in (1.0, 2.0**-40))
    np.testing.assert_array_equal(one, other)


def test_equal_weights_are_none(data: tuple[Any, Any, Any]) -> None:
    X, y, _ = data
    plain = classifier("linear").fit(X, y).predict_proba(X)
    for own in (3, np.full(ROWS, 0.1)):
        np.testing.assert_array_equal(classifier("linear").fit(X, y, sample_weight=own).predict_proba(X), plain)


def test_a_label_of_rows_that_are_left_out_is_none(data: tuple[Any, Any, Any]) -> None:
    X, y, _ = data
    fitted = classifier("last").fit(X, y, sample_weight=(y != LABELS[0]).astype(float))
    assert fitted.classes_.tolist() == sorted(LABELS[1:])


def test_it_is_scored_and_cross_validated_with_weights(data: tuple[Any, Any, Any]) -> None:
    X, y, weights = data
    fitted = classifier("last").fit(X, y)
    expected = np.average(fitted.predict(X) == y, weights=weights)
    assert fitted.score(X, y, sample_weight=weights) == pytest.approx(expected)
    assert len(cross_val_score(classifier("last"), X, y, cv=2, params={"sample_weight": weights})) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: np.where(np.arange(ROWS) == 7, -0.5, weights), r"is -0\.5 at row 7; expected 0 .* or more"),
        (lambda weights: np.where(np.arange(ROWS) == 7, np.nan, weights), "contains NaN"),
        (lambda weights: weights[:-1], r"sample_weight.shape == \(59,\), expected \(60,\)"),
        (lambda weights: weights * 0, "at least one non-zero"),
        (lambda weights: np.full(ROWS, 1e308), "sum of sample_weight is infinite"),
    ],
)
def test_weights_that_are_none(data: tuple[Any, Any, Any], change: Any, message: str) -> None:
    X, y, weights = data
    with pytest.raises(ValueError, match=message):
        classifier("last").fit(X, y, sample_weight=change(weights))


# What the classifier's weights are made of, each against rows that are repeated and not merged.


def halves(data: tuple[Any, Any, Any]) -> tuple[list[Rows], list[Rows]]:
    """Training and validation examples, with weights and repeated."""
    X, y, weights = data
    x, indices = torch.from_numpy(X), torch.from_numpy(np.unique(y, return_inverse=True)[1])
    counts = torch.from_numpy(weights)
    of_both = []
    for part in (slice(0, 40), slice(40, ROWS)):
        kept = counts[part] > 0
        some, own = Rows(x[part][kept], indices[part][kept], [""] * int(kept.sum())), counts[part][kept]
        again = Rows(some.x.repeat_interleave(own, 0), some.y.repeat_interleave(own), [])
        of_both.append((Rows(some.x, some.y, some.text_ids, own.double()), again))
    return [weighted for weighted, _ in of_both], [again for _, again in of_both]


@pytest.mark.parametrize("kind", ["multi_class", "ordinal"])
@pytest.mark.parametrize("changes", [{"refit": True}, {"refit": False, "imbalance": "weights", "label_smoothing": 0.1}])
def test_a_solved_head_is_that_of_repeated_rows(data: tuple[Any, Any, Any], kind: Any, changes: dict[str, Any]) -> None:
    found, x = [], torch.from_numpy(data[0])
    for train, validation in halves(data):
        objective = make(kind, LABELS, 0, "cosent")
        head = build_head("best", {}, layers=len(LAYERS), dim=DIM, out=objective.out)
        recipe = recipe_of(**{"optimizer": "lbfgs", "penalty": 0.5, "label_smoothing": 0.0, **changes})
        result = fit(head, train, validation, objective, recipe, 0, "cpu")
        every = [objective.predict(outputs) for outputs in head(x).detach().unbind(1)]
        found.append((result, torch.stack(every)))
    (weighted, told), (twin, expected) = found
    torch.testing.assert_close(told, expected, rtol=0, atol=1e-4)
    assert weighted.layer_scores == pytest.approx(twin.layer_scores, rel=1e-5)
    assert weighted.best.val_loss == pytest.approx(twin.best.val_loss, rel=1e-4)


@pytest.mark.parametrize(
    ("head", "changes"),
    [
        ("mlp", {"epochs": 3, "batch_size": 16}),
        ("last", {"optimizer": "lbfgs", "penalty": 0.5, "label_smoothing": 0.0}),
    ],
)
def test_figures_by_folds_are_weighted_means(data: tuple[Any, Any, Any], head: str, changes: dict[str, Any]) -> None:
    (known, _), _ = halves(data)
    result = fit(head_of(head), known, known, of_labels(), recipe_of(folds=3, **changes), 0, "cpu")
    fold, sums = folds_of(known.y, 0, 3), 0.0
    assert known.weights is not None
    for number in range(3):
        inside, outside = (known.take(part.nonzero()[:, 0]) for part in (fold != number, fold == number))
        assert outside.weights is not None
        recipe = recipe_of(folds=None, refit=False, **changes)
        curve = fit(head_of(head), inside, outside, of_labels(), recipe, 0, "cpu").curve
        sums += float(outside.weights.sum()) * np.array([(epoch.val_loss, epoch.val_score) for epoch in curve])
    found = [(epoch.val_loss, epoch.val_score) for epoch in result.curve]
    np.testing.assert_allclose(found, sums / float(known.weights.sum()), rtol=1e-4)


@pytest.mark.parametrize("kind", ["multi_class", "ordinal"])
def test_figures_are_those_of_repeated_rows(data: tuple[Any, Any, Any], kind: Any) -> None:
    (_, weighted), (_, again) = halves(data)
    objective = make(kind, LABELS, 0, "cosent")
    torch.manual_seed(0)
    head = build_head("mlp", {}, layers=len(LAYERS), dim=DIM, out=objective.out).eval()
    found, expected = (measured(head, head, objective, rows) for rows in (weighted, again))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_weighted_kappa_is_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    y, answers = (torch.randint(4, (50,), generator=generator) for _ in range(2))
    weights = torch.rand(50, generator=generator).double()
    ordinal = make("ordinal", ("a", "b", "c", "d"), 0, "cosent")
    found = figure(ordinal, answers[:, None, None].float(), y, weights)
    assert float(found) == pytest.approx(cohen_kappa_score(y, answers, weights="quadratic", sample_weight=weights))
    same = torch.zeros(3, dtype=torch.long)
    assert float(figure(ordinal, same[:, None, None].float(), same, torch.tensor([0.1, 0.2, 0.3]).double())) == 0


@pytest.mark.parametrize("options", [{}, {"clip": 1.5, "pca": 3, "whiten": True}])
def test_statistics_are_those_of_repeated_rows(options: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 2, 5, generator=generator) * torch.arange(1, 6) + 100
    counts = torch.randint(1, 5, (30,), generator=generator)
    weighted, twin = (Treatment(TreatmentOptions.model_validate(options), 2, 5) for _ in range(2))
    weighted.fit(x, chunk=7, weights=counts.double() / 3)
    twin.fit(x.repeat_interleave(counts, 0), chunk=11)
    torch.testing.assert_close(dict(weighted.state_dict()), dict(twin.state_dict()), rtol=1e-4, atol=1e-4)


def test_thresholds_of_exits_are_those_of_repeated_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(40, 3, 4, generator=generator), torch.randint(4, (40,), generator=generator)
    counts = torch.randint(1, 6, (40,), generator=generator)
    found = tradeoff(logits, y, "probability", [0, 1, 2], 0.6, counts.double())
    expected = tradeoff(logits.repeat_interleave(counts, 0), y.repeat_interleave(counts), "probability", [0, 1, 2], 0.6)
    assert (found.mean_layer, found.accuracy) == pytest.approx((expected.mean_layer, expected.accuracy))
    one = torch.zeros(40).double() + 1e-9
    one[7] = 1  # the only row that counts, right at one exit at most
    logits[7], y[7] = torch.tensor([[9.0, 0, 0, 0], [0, 1, 0, 0], [0, 2, 0, 0]]), 0
    assert choose_threshold(logits, y, "probability", 0.0, one) <= float(logits[7, 0].softmax(0)[0])


@pytest.mark.parametrize("values", [3, KEY_BYTES // 4 + 5])
def test_distinct_rows_are_those_of_a_dictionary(values: int) -> None:
    generator = np.random.default_rng(0)
    x = np.zeros((50, values), np.float32)
    x[:, 0] = generator.integers(6, size=50)  # all that differs, and of long rows outside of what is read of all
    labels, weights = generator.integers(2, size=50), generator.random(50) + 0.1
    places = np.flatnonzero(generator.random(50) < 0.9)
    twin: dict[tuple[float, int], float] = {}
    for place in places.tolist():
        key = float(x[place, 0]), int(labels[place])
        twin[key] = twin.get(key, 0) + weights[place]
    found = distinct_rows(x.__getitem__, places, labels[places], weights[places])
    assert found.weights is not None
    keys = [(float(x[place, 0]), int(labels[place])) for place in places[found.chosen]]
    assert dict(zip(keys, (found.weights * found.scale).tolist(), strict=True)) == pytest.approx(twin)
    assert found.weights.mean() == pytest.approx(1)
    order = generator.permutation(len(places))
    again = distinct_rows(x.__getitem__, places[order], labels[places][order], weights[places][order])
    np.testing.assert_array_equal(again.weights, found.weights)
    assert [(float(x[place, 0]), int(labels[place])) for place in places[order][again.chosen]] == keys


def test_a_row_is_drawn_as_often_as_its_weight_says() -> None:
    weights = torch.tensor([1.0, 0.25, 2.5, 4.0, 0.25])
    share = weights * 5 / weights.sum()
    generator = torch.Generator().manual_seed(0)
    counts = torch.stack([drawn_by_weight(weights, generator).bincount(minlength=5) for _ in range(2000)])
    assert bool((counts.sum(1) == 5).all())
    assert bool(((counts >= share.floor()) & (counts <= share.ceil())).all())
    torch.testing.assert_close(counts.double().mean(0), share.double(), rtol=0, atol=0.04)


def drawn(rows: Rows, balanced: bool) -> Tensor:
    """How often each row is in 200 epochs, by its first value."""
    batches = IndexBatches(rows, 4, 0, balanced)
    return torch.stack([x[:, 0, 0].long().bincount(minlength=4) for _ in range(200) for x, _ in batches]).sum(0) / 200


def test_weights_and_balance_together() -> None:
    x, y = torch.arange(4.0)[:, None, None], torch.tensor([0, 0, 0, 1])
    rows = Rows(x, y, [], torch.tensor([1.0, 1.0, 2.0, 8.0]).double())
    torch.testing.assert_close(drawn(rows, balanced=True), torch.tensor([0.5, 0.5, 1.0, 2.0]), rtol=0, atol=0.15)
    torch.testing.assert_close(drawn(rows, balanced=False), torch.tensor([1, 1, 2, 8]) / 3, rtol=0, atol=0.15)
    torch.testing.assert_close(label_weights(y, rows.weights), torch.tensor([12 / 2 / 4, 12 / 2 / 8]).double())
