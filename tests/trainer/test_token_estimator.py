"""The scikit-learn classifier on tokens: lists of texts, padding that changes nothing, and its checks."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from ilse.core.errors import UserError
from tests.trainer.token_task import write_token_task
from trainer.estimator import HeadClassifier, tokens_of

LAYERS, DIM = 3, 6
QUICK = {"epochs": 6, "learning_rate": 0.02, "batch_size": 16, "compute_type": "float32"}
TELLING = 1


@pytest.fixture(scope="module")
def data() -> tuple[list[Any], Any]:
    """Texts of 1 to 9 tokens, one of which tells the label in the middle layer."""
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=120)
    texts = []
    for label in labels:
        text = generator.normal(size=(generator.integers(1, 10), LAYERS, DIM)).astype(np.float32)
        text[generator.integers(len(text)), TELLING, label] += 6
        texts.append(text * np.float32([[1], [10], [100]]))
    return texts, np.array(["art", "law", "war"])[labels]


def classifier(head: str = "weighted", **changes: Any) -> HeadClassifier:
    return HeadClassifier(head, **{"tokens": {"rank": 8}, "recipe": QUICK, "device": "cpu", **changes})


def padded(texts: list[Any], filling: float, left: bool = False, more: int = 0) -> Any:
    """A masked array, with `filling` in the places that are no tokens."""
    places = max(map(len, texts)) + more
    values = np.full((len(texts), places, LAYERS, DIM), filling, np.float32)
    hidden = np.ones(values.shape, bool)
    for row, text in enumerate(texts):
        own = slice(places - len(text), places) if left else slice(0, len(text))
        values[row, own], hidden[row, own] = text, False
    return np.ma.masked_array(values, hidden)


def test_it_learns_what_one_token_tells(data: tuple[list[Any], Any]) -> None:
    texts, y = data
    fitted = classifier(recipe={**QUICK, "epochs": 25}).fit(texts[:90], y[:90])
    assert fitted.score(texts[90:], y[90:]) > 0.7  # a third by chance
    assert (fitted.n_layers_, fitted.n_features_in_) == (LAYERS, LAYERS * DIM)
    told = fitted.predict_proba(texts)
    assert told.shape == (120, 3)
    assert np.allclose(told.sum(1), 1, atol=1e-5)
    assert fitted.predict(texts).tolist() == fitted.classes_[told.argmax(1)].tolist()


@pytest.mark.parametrize(("filling", "left", "more"), [(0.0, False, 0), (np.nan, True, 3), (1e30, False, 5)])
def test_padding_changes_no_bit(data: tuple[list[Any], Any], filling: float, left: bool, more: int) -> None:
    texts, y = data
    ragged = classifier().fit(texts, y)
    other = classifier().fit(padded(texts, filling, left, more), y)
    expected = ragged.predict_proba(texts)
    assert np.array_equal(other.predict_proba(texts), expected)
    assert np.array_equal(ragged.predict_proba(padded(texts, filling, left, more)), expected)


def test_only_tokens_of_training_texts_standardise(data: tuple[list[Any], Any]) -> None:
    texts, y = data
    fitted = classifier(validation_fraction=0.0).fit(texts, y)
    every = np.concatenate(texts)
    assert np.allclose(fitted.treatment_.standardise.mean, every.mean(0), atol=1e-3)
    assert np.allclose(fitted.treatment_.standardise.scale, every.std(0), rtol=1e-3)
    held = classifier(validation_fraction=0.5, recipe={**QUICK, "folds": None}).fit(texts, y)
    assert not np.allclose(held.treatment_.standardise.mean, every.mean(0), atol=1e-3)


def test_a_prediction_is_the_loop_over_texts(data: tuple[list[Any], Any]) -> None:
    texts, y = data
    fitted = classifier("mean", tokens={"rank": 4, "pool": "max"}).fit(texts, y)
    state, treatment = fitted.head_.state_dict(), fitted.treatment_.standardise
    rows = []
    for text in texts[:10]:
        z = (torch.from_numpy(text) - treatment.mean) / treatment.scale
        mapped = [
            torch.relu(z[:, layer] @ state["reader.map.weight"][layer].T + state["reader.map.bias"][layer])
            for layer in range(LAYERS)
        ]
        row = torch.stack([layer.amax(0) for layer in mapped]).mean(0)
        rows.append(row @ state["inner.readout.weight"].T + state["inner.readout.bias"])
    assert np.allclose(fitted.predict_proba(texts[:10]), torch.stack(rows).softmax(-1), atol=1e-5)


def test_tokens_of_a_cache_are_the_texts_own(tmp_path: Path) -> None:
    made = write_token_task(tmp_path)
    ids = made.table["text_id"].to_list()[:7]
    found = tokens_of(made.cache, ids)
    assert all(np.array_equal(one, made.values[text]) for one, text in zip(found, ids, strict=True))
    some = tokens_of(made.cache, ids, [2, 0])
    assert all(np.array_equal(one, made.values[text][:, [2, 0]]) for one, text in zip(some, ids, strict=True))
    with pytest.raises(UserError, match="1 that are not in it"):
        tokens_of(made.cache, ["f" * 32])
    labels = made.table["label"].to_list()[:7]
    assert classifier(recipe={**QUICK, "epochs": 1}).fit(found, labels).predict(found).shape == (7,)


def test_best_keeps_one_layer_and_chosen_layers_are_read(data: tuple[list[Any], Any]) -> None:
    texts, y = data
    assert classifier("best", validation_fraction=0.3).fit(texts, y).head_.layers_read == (TELLING,)
    chosen = classifier(tokens={"rank": 8, "layers": [1, -1]}).fit(texts, y)
    assert chosen.head_.layers_read == (1, 2)
    changed = [np.concatenate([np.zeros_like(text[:, :1]), text[:, 1:]], 1) for text in texts]
    assert np.array_equal(chosen.predict_proba(changed), chosen.predict_proba(texts))


def test_it_is_cloned_pickled_and_cross_validated(data: tuple[list[Any], Any]) -> None:
    texts, y = data
    model = classifier("mlp", recipe={**QUICK, "pca": 4, "folds": None})
    assert clone(model).get_params() == model.get_params()
    fitted = model.fit(texts, y)
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict_proba(texts), fitted.predict_proba(texts))
    assert np.array_equal(clone(model).fit(texts, y).predict_proba(texts), fitted.predict_proba(texts))
    quick = classifier(recipe={**QUICK, "epochs": 2})
    assert len(cross_val_score(quick, texts, y, cv=2)) == len(cross_val_score(quick, padded(texts, 0.0), y, cv=2)) == 2


def test_its_default_recipe_is_that_of_token_heads() -> None:
    assert HeadClassifier(tokens={})._recipe().epochs == 12
    assert HeadClassifier(tokens={}, recipe={"epochs": 3})._recipe().learning_rate == 2e-3
    assert HeadClassifier(tokens={}, recipe={"epochs": 3})._recipe().epochs == 3
    assert HeadClassifier()._recipe().epochs == 30


def test_what_is_no_text_of_tokens_is_refused(data: tuple[list[Any], Any]) -> None:
    texts, y = data
    fitted = classifier(recipe={**QUICK, "epochs": 1}).fit(texts, y)
    partly = padded(texts, 0.0)
    partly.mask[3, 0, 0, 0] = True
    wrong = {
        "text 1 of X has no token": [texts[0], texts[1][:0]],
        "text 0 of X has 2 axes": [texts[0][:, 0]],
        "text 0 of X has 2 layers of 6 values; expected 3 layers of 6": [texts[0][:, :2]],
        "text 3 of X is masked in part at place 0": partly,
        "one array without a mask": np.zeros((2, 4, LAYERS, DIM)),
        "NaN or infinity": [np.full((2, LAYERS, DIM), np.nan)],
        "X has no texts": [],
    }
    for told, X in wrong.items():
        with pytest.raises(ValueError, match=told):
            fitted.predict(X)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        classifier().fit(texts, y[:-1])
    with pytest.raises(UserError, match="rank"):
        classifier(tokens={"rnak": 3}).fit(texts, y)
    with pytest.raises(UserError, match=r"HeadClassifier\(tokens=…\)"):
        classifier(options={"tokens": {}}).fit(texts, y)
