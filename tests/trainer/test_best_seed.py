"""Of a folder with several seeds, the one that is best on validation is used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ilse.core.errors import UserError
from tests.trainer.conftest import Made, recipe_of
from trainer.artifacts.best_seed import best_seed, seed_folders
from trainer.config import TrainParams
from trainer.stages.train import train


def set_facts(folder: Path, **facts: float) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["facts"] |= facts
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def head(made: Made, tmp_path: Path) -> Path:
    """A head of three seeds."""
    params = TrainParams(heads=["last"], seeds=3, recipe=recipe_of())
    train(params, "last", made.cache, made.examples, tmp_path / "models", tmp_path / "results")
    return tmp_path / "models" / "last"


def test_it_is_the_best_on_validation_then_the_surest_then_the_first(head: Path) -> None:
    for seed in seed_folders(head):
        set_facts(seed, val_score=0.5, val_loss=1.0)
    assert best_seed(head) == head / "seed-0"
    set_facts(head / "seed-2", val_loss=0.5)
    assert best_seed(head) == head / "seed-2"
    set_facts(head / "seed-1", val_score=0.75)
    assert best_seed(head) == head / "seed-1"


def test_a_seed_and_what_is_no_head_are_left_as_they_are(head: Path, tmp_path: Path) -> None:
    assert best_seed(head / "seed-2") == head / "seed-2"
    assert best_seed(tmp_path / "nothing") == tmp_path / "nothing"


def test_a_damaged_seed_is_named(head: Path) -> None:
    (head / "seed-1" / "config.json").write_text("{")
    with pytest.raises(UserError, match="seed-1"):
        best_seed(head)
