"""Heads that read tokens, from a cache to the leaderboard."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ilse.core.errors import UserError
from ilse.core.files.table_files import read_csv
from pipeline.store import open_cache
from tests.trainer.conftest import Made, write_task
from tests.trainer.token_task import write_token_task
from trainer.artifacts.artifact import CONFIG, TOKENS_VERSION, load_head, save_head
from trainer.config import TrainParams
from trainer.data.task import open_task
from trainer.estimator import HeadClassifier
from trainer.heads import HEADS
from trainer.stages.analyse import analyse
from trainer.stages.evaluate import evaluate
from trainer.stages.train import HeadTrainer, train


@pytest.fixture
def token_task(tmp_path: Path) -> Made:
    return write_token_task(tmp_path)


def params_of(quick: Callable[..., TrainParams], *heads: str, **changes: object) -> TrainParams:
    """Of heads that all read tokens."""
    options = {name: {"tokens": {"rank": 4}} for name in heads}
    return quick(heads=list(heads), options=options, **changes)


def test_every_head_is_trained_saved_and_evaluated(
    token_task: Made, tmp_path: Path, quick: Callable[..., TrainParams]
) -> None:
    params = params_of(quick, *HEADS, seeds=1, recipe={"epochs": 2})
    for name in HEADS:
        train(params, name, token_task.cache, token_task.examples, tmp_path / "models", tmp_path / "results")
    table = evaluate(list(HEADS), token_task.cache, token_task.examples, tmp_path / "models", tmp_path / "results")
    assert sorted(table["head"].to_list()) == sorted(HEADS)
    loaded = load_head(tmp_path / "models" / "best" / "seed-0")
    assert loaded.facts.reads_tokens
    assert len(loaded.head.layers_read) == 1


def test_tokens_tell_what_their_mean_hides(token_task: Made, quick: Callable[..., TrainParams]) -> None:
    task = open_task(open_cache(token_task.cache), token_task.examples)
    recipe = {"epochs": 15}
    tokens, _ = HeadTrainer(task, params_of(quick, "bottleneck", recipe=recipe), "bottleneck").of_seed(0)
    pooled, _ = HeadTrainer(task, quick(heads=["bottleneck"], recipe=recipe), "bottleneck").of_seed(0)
    assert tokens.best.val_score > pooled.best.val_score + 0.1


def test_a_classifier_of_rows_refuses_a_head_that_reads_tokens() -> None:
    with pytest.raises(UserError, match=r"options of the head itself\n.*'tokens'\n.*HeadClassifier\(tokens=…\)"):
        HeadClassifier("mean", options={"tokens": {}}).fit(np.zeros((6, 4, 8)), [0, 1] * 3)


def test_a_head_whose_facts_say_something_else_is_refused(
    token_task: Made, tmp_path: Path, quick: Callable[..., TrainParams]
) -> None:
    task = open_task(open_cache(token_task.cache), token_task.examples)
    _, trained = HeadTrainer(task, params_of(quick, "mean", recipe={"epochs": 1}), "mean").of_seed(0)
    save_head(tmp_path / "head", trained)
    file = tmp_path / "head" / CONFIG
    config = json.loads(file.read_text())
    assert config["format_version"] == TOKENS_VERSION
    for changed in (
        config | {"format_version": 4},
        config | {"facts": config["facts"] | {"pooling": "mean"}},
        config | {"head": {key: value for key, value in config["head"].items() if key != "tokens"}},
    ):
        file.write_text(json.dumps(changed))
        with pytest.raises(UserError, match="head"):
            load_head(tmp_path / "head")


def test_token_heads_are_analysed(token_task: Made, tmp_path: Path, quick: Callable[..., TrainParams]) -> None:
    heads = ["bottleneck", "attention", "exits"]
    params = params_of(quick, *heads, seeds=1, recipe={"epochs": 2})
    for name in heads:
        train(params, name, token_task.cache, token_task.examples, tmp_path / "models", tmp_path / "results")
    analyse(params, token_task.cache, token_task.examples, tmp_path / "models", tmp_path / "results")
    shares = read_csv(tmp_path / "results" / "analysis" / "attribution.csv")
    assert len(shares) == len(heads) * 4
    assert shares["share"].sum() == pytest.approx(len(heads), abs=1e-4)


def test_a_cache_of_pooled_rows_is_refused(tmp_path: Path, quick: Callable[..., TrainParams]) -> None:
    made = write_task(tmp_path)
    task = open_task(open_cache(made.cache), made.examples)
    with pytest.raises(UserError, match="token states, for a head with the option 'tokens'"):
        HeadTrainer(task, params_of(quick, "mean"), "mean")


def test_explicit_values_of_the_recipe_win(quick: Callable[..., TrainParams]) -> None:
    of_tokens: dict[str, Any] = {"options": {"mean": {"tokens": {}}}}
    plain = TrainParams.model_validate(of_tokens)
    assert (plain.recipe_of("mean").epochs, plain.recipe_of("mean").learning_rate) == (12, 2e-3)
    assert (plain.recipe_of("last").epochs, plain.recipe_of("last").learning_rate) == (30, 1e-3)
    shared = TrainParams.model_validate({"recipe": {"epochs": 7}, **of_tokens})
    assert (shared.recipe_of("mean").epochs, shared.recipe_of("mean").learning_rate) == (7, 2e-3)
    own = TrainParams.model_validate({"options": {"mean": {"tokens": {}, "recipe": {"learning_rate": 0.1}}}})
    assert (own.recipe_of("mean").epochs, own.recipe_of("mean").learning_rate) == (12, 0.1)
    paper = TrainParams.model_validate({"recipe": {"preset": "paper"}, **of_tokens})
    assert (paper.recipe_of("mean").epochs, paper.recipe_of("mean").learning_rate) == (50, 1e-3)
