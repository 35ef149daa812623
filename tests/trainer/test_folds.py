"""Figures of one kind for all heads: folds of all labelled rows, against a loop of trainings on each fold's rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import trainer.fitting.fit
from ilse.core.errors import UserError
from pipeline.store import TokenSpec, open_cache
from tests.trainer.conftest import LAYERS, TELLING, Made, head_of, of_labels, recipe_of
from tests.trainer.token_task import write_token_task
from trainer.config import Recipe, TrainParams
from trainer.data.poolings import TOKENS
from trainer.data.task import Task, open_task
from trainer.estimator import HeadClassifier
from trainer.fitting.fit import Fit, fit
from trainer.fitting.folded import train_by_folds
from trainer.fitting.solved import folds_of
from trainer.heads import Head, build_head
from trainer.objectives import make
from trainer.rows.in_memory import PairRows, Part, Rows
from trainer.rows.token_rows import TokenRows
from trainer.stages.train import HeadTrainer

MakeRows = Callable[..., Rows]
FOLDS = 3


def folded(name: str, train: Rows, validation: Rows, options: dict[str, Any] | None = None, **changes: Any) -> Fit:
    recipe = recipe_of(folds=FOLDS, **changes)
    return fit(head_of(name, **(options or {})), train, validation, of_labels(), recipe, 0, "cpu")


def by_hand(name: str, known: Rows, **changes: Any) -> list[tuple[float, float, float]]:
    """By epoch the training's loss, and loss and accuracy of the rows that were left out."""
    fold = folds_of(known.y, 0, FOLDS)
    curves = []
    for number in range(FOLDS):
        inside, outside = known.take((fold != number).nonzero()[:, 0]), known.take((fold == number).nonzero()[:, 0])
        found = fit(head_of(name), inside, outside, of_labels(), recipe_of(**changes), 0, "cpu").curve
        curves.append([(e.train_loss, len(outside.y) * e.val_loss, len(outside.y) * e.val_score) for e in found])
    sums = np.array(curves).sum(0) / [FOLDS, len(known.y), len(known.y)]
    return [tuple(epoch) for epoch in sums.tolist()]


def at_epochs(head: Head, known: Rows, epochs: list[int], patch: pytest.MonkeyPatch, **changes: Any) -> Fit:
    """A training on all rows, with each candidate in the state after its epoch."""
    numbers = itertools.count()

    def figure(*_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        number = next(numbers)
        return torch.ones(len(epochs)).double(), torch.tensor([float(number == epoch) for epoch in epochs]).double()

    with patch.context() as within:
        within.setattr(trainer.fitting.fit, "validate", figure)
        return fit(head, known, known, of_labels(), recipe_of(**changes), 0, "cpu")


@pytest.mark.parametrize("name", ["mean", "mlp", "weighted"])
def test_a_trained_heads_figures_are_those_of_rows_left_out(
    rows: MakeRows, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    train, validation = rows(50), rows(20, seed=1)
    known = train.joined(validation)
    result = folded(name, train, validation)
    expected = by_hand(name, known)
    found = [(epoch.train_loss, epoch.val_loss, epoch.val_score) for epoch in result.curve]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    best = max(range(len(expected)), key=lambda epoch: (expected[epoch][2], -expected[epoch][1]))
    assert result.best == result.curve[best]
    twin = at_epochs(head_of(name), known, [best], monkeypatch)
    for key, value in result.head.state_dict().items():
        assert torch.equal(value, twin.head.state_dict()[key])
    assert not result.head.training


def test_each_layer_of_best_has_its_own_epoch(rows: MakeRows, monkeypatch: pytest.MonkeyPatch) -> None:
    train, validation = rows(60), rows(20, seed=1)
    found = train_by_folds(head_of("best"), train, validation, of_labels(), recipe_of(folds=FOLDS), 0, "cpu")
    epochs = found.best.epoch.tolist()
    assert len(set(epochs)) > 1
    twin = head_of("best")
    at_epochs(twin, train.joined(validation), epochs, monkeypatch)
    for key, value in twin.state_dict().items():
        assert torch.equal(found.best.state[key], value)
    result = folded("best", train, validation)
    assert result.head.layers_read == (TELLING,)
    assert result.layer_scores == found.best.score.tolist()
    assert result.best.epoch == epochs[TELLING]


def test_a_solved_head_is_judged_by_the_same_folds(rows: MakeRows) -> None:
    train, validation = rows(50), rows(20, seed=1)
    known = train.joined(validation)
    result = folded("mean", train, validation, optimizer="auto", penalty=2.0, label_smoothing=0.0)
    fold, right = folds_of(known.y, 0, FOLDS), 0
    for number in range(FOLDS):
        inside, outside = known.take((fold != number).nonzero()[:, 0]), known.take((fold == number).nonzero()[:, 0])
        alone = fit(head_of("mean"), inside, inside, of_labels(),
                    recipe_of(optimizer="auto", penalty=2.0, label_smoothing=0.0), 0, "cpu")  # fmt: skip
        right += int((alone.head(outside.x).argmax(1) == outside.y).sum())
    assert result.best.val_score == right / len(known.y)
    assert (result.penalty, len(result.curve)) == (2.0, 1)
    whole = fit(head_of("mean"), known, known, of_labels(),
                recipe_of(optimizer="auto", penalty=2.0, label_smoothing=0.0), 0, "cpu")  # fmt: skip
    torch.testing.assert_close(dict(result.head.state_dict()), dict(whole.head.state_dict()))


def test_patience_and_least_steps_are_those_of_the_folds_together(rows: MakeRows) -> None:
    train, validation = rows(50), rows(20, seed=1)
    long = folded("mlp", train, validation, least_steps=40, learning_rate=0.2).curve
    assert len(long) == 14, "40 steps of 3 batches, the fewest of a fold's 46 rows"
    short = folded("mlp", train, validation, least_steps=40, learning_rate=0.2, patience=1).curve
    merits = [(epoch.val_score, -epoch.val_loss) for epoch in long]
    first = next(epoch for epoch in range(1, 14) if merits[epoch] <= max(merits[:epoch]))
    assert first < 13
    assert short == long[: first + 1]


def test_without_validation_the_training_rows_are_all(rows: MakeRows) -> None:
    some = rows(90)
    model = HeadClassifier("mlp", recipe={"epochs": 8, "folds": FOLDS}, validation_fraction=0.0, device="cpu")
    model.fit(some.x.numpy(), some.y.numpy())
    assert model.validation_score_ < model.score(some.x.numpy(), some.y.numpy())


def test_the_objective_learns_from_all_rows_in_the_end(rows: MakeRows) -> None:
    train, validation = (
        Rows(part.x, part.y.double() * 3 + part.x[:, TELLING, 0].double(), part.text_ids)
        for part in (rows(50), rows(20, seed=1))
    )
    objective = make("regression", (), 0, "cosent")
    head = build_head("mlp", {}, layers=len(LAYERS), dim=train.x.shape[2], out=objective.out)
    result = fit(head, train, validation, objective, recipe_of(folds=FOLDS), 0, "cpu")
    y = train.joined(validation).y
    assert objective.mean == pytest.approx(float(y.mean()))  # type: ignore[attr-defined]
    assert np.isfinite(result.best.val_score)


def test_a_watch_is_told_the_end(rows: MakeRows) -> None:
    told: list[tuple[int, float]] = []
    result = fit(head_of("mlp"), rows(50), rows(20, seed=1), of_labels(), recipe_of(folds=FOLDS), 0, "cpu",
                 watch=lambda epoch, score: bool(told.append((epoch, score))))  # fmt: skip
    assert told == [(result.best.epoch, result.best.val_score)]


def test_a_part_is_some_of_the_rows(rows: MakeRows) -> None:
    whole, chosen = rows(30), torch.tensor([7, 3, 20])
    part, taken = Part(whole, chosen), whole.take(chosen)
    assert part.text_ids == taken.text_ids
    for one, other in zip(part.chunks(2), taken.chunks(2), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    for one, other in zip(part.shuffled(2, 1), taken.shuffled(2, 1), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert torch.equal(part.y, taken.y[part.order()])


def test_pairs_are_joined(made: Made) -> None:
    following = pl.col("text_id").shift(1).over("split").fill_null(pl.col("text_id"))
    made.table.with_columns(pair_text_id=following).write_parquet(made.examples)
    task = task_of(made)
    train, validation = (task.training_split(split) for split in ("train", "validation"))
    assert isinstance(train, PairRows)
    assert isinstance(validation, PairRows)
    whole = train.joined(validation)
    assert whole.text_ids == [*train.text_ids, *validation.text_ids]
    for one, other in zip(whole.batch(whole.order()), both(train, validation), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_tokens_are_joined(tmp_path: Path, kind: str) -> None:
    made = write_token_task(tmp_path, token_states=TokenSpec(LAYERS, None, kind) if kind == "int8" else True)
    train, validation = (task_of(made).training_split(split, None, TOKENS) for split in ("train", "validation"))
    assert isinstance(train, TokenRows)
    assert isinstance(validation, TokenRows)
    whole = train.joined(validation)
    (x, y), parts = whole.batch(whole.order()), [part.batch(part.order()) for part in (train, validation)]
    assert torch.equal(x.values, torch.cat([part.values for part, _ in parts]))
    assert torch.equal(x.lengths, torch.cat([part.lengths for part, _ in parts]))
    assert torch.equal(y, torch.cat([labels for _, labels in parts]))


def both(*parts: Any) -> list[torch.Tensor]:
    return [torch.cat(of) for of in zip(*(part.batch(part.order()) for part in parts), strict=True)]


def task_of(made: Made) -> Task:
    return open_task(open_cache(made.cache), made.examples)


def params_of(head: str, options: dict[str, Any] | None = None, **changes: Any) -> TrainParams:
    recipe = {"epochs": 3, "folds": FOLDS, "optimizer": "auto", **changes.pop("recipe", {})}
    section = {"heads": [head], "device": "cpu", "recipe": recipe, "options": {head: options or {}}, **changes}
    return TrainParams.model_validate(section)


@pytest.mark.parametrize("pairs", [False, True])
def test_heads_that_read_tokens_are_judged_so_too(tmp_path: Path, pairs: bool) -> None:
    task = task_of(write_token_task(tmp_path, pairs=pairs))
    result, trained = HeadTrainer(task, params_of("mean", {"tokens": {}}), "mean").of_seed(0)
    assert len(result.curve) == 3
    assert trained.facts.val_score == result.best.val_score


def test_the_stage_keeps_the_folds_figure(made: Made) -> None:
    result, trained = HeadTrainer(task_of(made), params_of("mlp"), "mlp").of_seed(0)
    assert trained.facts.recipe["folds"] == FOLDS
    assert trained.facts.best_epoch == result.best.epoch
    assert trained.facts.val_score == result.best.val_score


@pytest.mark.parametrize("optimizer", ["adamw", "auto"])
def test_what_cannot_be_folded_is_refused(made: Made, optimizer: str) -> None:
    def run(head: str, **changes: Any) -> None:
        HeadTrainer(task_of(made), params_of(head, recipe={"optimizer": optimizer}, **changes), head).of_seed(0)

    with pytest.raises(UserError, match=r"train.recipe.folds(.|\n)*read as they are used(.|\n)*memory_budget"):
        run("mean", memory_budget=12e-6)
    with pytest.raises(UserError, match=r"'exits'(.|\n)*train.options.exits.recipe.folds to null"):
        run("exits")
    params = params_of("mean", recipe={"optimizer": optimizer, "folds": 136})
    with pytest.raises(UserError, match=r"train.recipe.folds(.|\n)*at most 135(.|\n)*136"):
        HeadTrainer(task_of(made), params, "mean").of_seed(0)


def test_folds_train_on_all_rows() -> None:
    with pytest.raises(ValueError, match="refit: true or auto with folds"):
        Recipe(folds=5, refit=False)
