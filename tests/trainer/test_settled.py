"""What a recipe leaves open: which heads are solved, and where folds choose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import trainer.fitting.settled
from pipeline.store import open_cache
from tests.trainer.conftest import Made, head_of, of_labels
from trainer.config import Recipe, TrainParams
from trainer.data.task import open_task
from trainer.estimator import HeadClassifier
from trainer.fitting.fit import fit
from trainer.fitting.settled import settled
from trainer.rows.in_memory import Rows
from trainer.stages.train import HeadTrainer

MakeRows = Callable[..., Rows]


def what(name: str, train: Rows, validation: Rows, **recipe: Any) -> tuple[str, Any]:
    found = settled(Recipe.model_validate(recipe), head_of(name), of_labels(), train, validation)
    return found.optimizer, found.folds


def test_linear_heads_are_solved_and_others_trained_by_folds_where_rows_are_few(rows: MakeRows) -> None:
    few = rows(80), rows(20, seed=1)
    for name in ("last", "best", "mean", "concat", "linear"):
        assert what(name, *few) == ("lbfgs", 5)
    for name in ("mlp", "weighted", "bottleneck"):
        assert what(name, *few) == ("adamw", 5)
    assert what("exits", *few) == ("adamw", None), "it needs its validation rows"
    assert what("last", rows(990), rows(11, seed=1)) == ("lbfgs", None)
    assert what("last", rows(990), rows(10, seed=1)) == ("lbfgs", 5)
    alone = rows(9)
    assert what("last", alone, alone) == ("lbfgs", None), "two rows a fold"


def test_explicit_values_win(rows: MakeRows) -> None:
    few = rows(80), rows(20, seed=1)
    assert what("last", *few, optimizer="adam") == ("adam", 5)
    assert what("last", *few, optimizer="adamw", folds=None) == ("adamw", None)
    assert what("mlp", *few, folds=3) == ("adamw", 3)
    assert what("last", *few, refit=False) == ("lbfgs", None)
    assert what("last", *few, penalty="validation") == ("lbfgs", None)
    assert what("last", *few, penalty=2.0) == ("lbfgs", 5)
    assert what("last", *few, preset="paper") == ("adam", None)
    assert Recipe.model_validate({"epochs": 3}).for_batches(1).epochs == 3
    assert Recipe.model_validate({"epochs": 3, "least_steps": 9}).for_batches(2).epochs == 5
    assert Recipe().for_batches(2).epochs == 250


def test_solved_heads_have_no_smoothed_labels_by_default(rows: MakeRows) -> None:
    few = rows(80), rows(20, seed=1)
    for name, given, expected in (("last", {}, 0.0), ("mlp", {}, 0.1), ("last", {"label_smoothing": 0.2}, 0.2)):
        found = settled(Recipe.model_validate(given), head_of(name), of_labels(), *few)
        assert found.label_smoothing == expected


def test_shots_are_all_that_is_trained_on() -> None:
    for drawn in ({"shots": 8}, {"share": 0.5}):
        found = TrainParams.model_validate(drawn).recipe_of("last")
        assert (found.folds, found.refit, found.penalty) == (None, False, "validation")
        own = {**drawn, "recipe": {"penalty": 2.0}, "options": {"last": {"recipe": {"folds": 4}}}}
        found = TrainParams.model_validate(own)
        assert (found.recipe_of("last").folds, found.recipe_of("last").refit) == (4, "auto")
        assert (found.recipe_of("best").folds, found.recipe_of("best").penalty) == (None, 2.0)


def test_what_was_settled_makes_the_same_head_when_it_is_given(rows: MakeRows) -> None:
    train, validation = rows(60), rows(20, seed=1)
    for name, recipe in (("last", {}), ("mlp", {"epochs": 3})):
        given = Recipe.model_validate(recipe)
        fits = [
            fit(head_of(name), train, validation, of_labels(), one, 0, "cpu")
            for one in (given, settled(given, head_of(name), of_labels(), train, validation))
        ]
        assert fits[0].best == fits[1].best
        for one, other in zip(*(result.head.state_dict().values() for result in fits), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["last", "mlp"])
def test_the_record_says_what_was_done(made: Made, name: str) -> None:
    said: list[str] = []
    task = open_task(open_cache(made.cache), made.examples)
    params = TrainParams.model_validate({"device": "cpu", "recipe": {"epochs": 2}, "learning_rates": [0.01, 0.02]})
    head_trainer = HeadTrainer(task, params, name, said.append)
    for seed in (0, 1):
        _, trained = head_trainer.of_seed(seed)
        facts = trained.facts
        assert (facts.recipe["optimizer"], facts.recipe["folds"]) == ("lbfgs" if name == "last" else "adamw", 5)
        assert (facts.penalty is None) == (name == "mlp")
    assert sum("135 labelled rows, 5 folds" in line for line in said) == 1
    assert len(said) == 1 + (2 if name == "last" else 3), "an optimum is the same at every rate"


def test_a_classifier_holds_no_rows_back_where_folds_choose(rows: MakeRows, monkeypatch: pytest.MonkeyPatch) -> None:
    some = rows(60)
    x, y = some.x.numpy() * 3 + 1, some.y.numpy()
    found = HeadClassifier("last", device="cpu").fit(x, y)
    torch.testing.assert_close(found.treatment_(torch.from_numpy(x[:, -1:])).mean(0), torch.zeros(1, x.shape[2]))
    monkeypatch.setattr(trainer.fitting.settled, "FEW_ROWS", 59)
    other = HeadClassifier("last", recipe={"penalty": "validation"}, device="cpu").fit(x, y)
    assert other.treatment_(torch.from_numpy(x[:, -1:])).mean(0).abs().max() > 1e-3
