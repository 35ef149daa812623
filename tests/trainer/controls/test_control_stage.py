"""The stage: what it writes, when, with which seeds, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from ilse.core.errors import UserError
from ilse.core.params import validate
from tests.trainer.controls.project import Project, made_with_texts
from trainer.controls.config import ControlParams
from trainer.data.subset import draw_shots


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return made_with_texts(tmp_path / "project")[1]


def test_a_control_leaves_answers_and_figures(project: Project) -> None:
    figures = project.fit("random_labels", seeds=2)
    folder = project.folder
    assert sorted(path.name for path in (folder / "models" / "random_labels").iterdir()) == ["seed-0", "seed-1"]
    assert json.loads((folder / "results" / "train" / "random_labels.json").read_text()) == figures
    assert figures.keys() == {"metric", "val_score", "val_loss", "train_seconds", "seeds"}
    facts = project.facts("random_labels", seed=1)
    assert (facts["name"], facts["seed"], facts["objective"]) == ("random_labels", 1, {"kind": "multi_class"})


@pytest.mark.parametrize("name", ["majority", "words", "mean_probe", "last_probe", "random_labels"])
def test_fitting_again_gives_the_same_answers(project: Project, tmp_path: Path, name: str) -> None:
    for folder in ("one", "other"):
        project.fit(name, folder=tmp_path / folder)
    one, other = (sorted((tmp_path / folder / "models").rglob("*.parquet")) for folder in ("one", "other"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert len(one) == (3 if name == "random_labels" else 1)


def test_controls_get_the_examples_that_the_heads_get(project: Project) -> None:
    project.fit("majority", {"shots": 3, "seeds": 2})
    for seed in range(2):
        torch.testing.assert_close(project.answers("majority", seed).predicted[0], torch.full((3,), 1 / 3))
    project.fit("words", {"shots": 3, "seeds": 2})
    assert not torch.equal(project.answers("words", 0).predicted, project.answers("words", 1).predicted)
    task = project.task
    drawn = draw_shots(task.training_targets("train"), 3, 1, task.labels)
    kept = task.training_ids("train")["text_id"].gather(drawn.numpy()).to_list()
    table = project.table
    only = table.filter((pl.col("split") != "train") | pl.col("text_id").is_in(kept))
    before = {name: project.answers(name, 1).predicted for name in ("words",)}
    project.fit("mean_probe", {"shots": 3, "seeds": 2})
    before["mean_probe"] = project.answers("mean_probe", 1).predicted
    only.write_parquet(project.folder / "examples.parquet")
    for name, predicted in before.items():
        project.fit(name)
        torch.testing.assert_close(project.answers(name).predicted, predicted)


def test_an_unknown_control_is_refused_with_the_nearest(project: Project) -> None:
    with pytest.raises(UserError, match=r"a name in controls.caches(.|\n)*did you mean 'mean_probe'"):
        project.fit("mean_prob")


def test_a_refused_control_leaves_the_old_answers(project: Project) -> None:
    project.fit("words")
    before = project.answers("words").predicted
    (project.folder / "texts.parquet").unlink()
    with pytest.raises(UserError, match=r"texts .*texts.parquet\n(.|\n)*no such file(.|\n)*--texts"):
        project.fit("words")
    assert torch.equal(project.answers("words").predicted, before)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"PAR1"), "a Parquet table with columns text_id, text"),
        (lambda path: pl.read_parquet(path).drop("text").write_parquet(path), "with columns text_id, text"),
        (lambda path: pl.read_parquet(path).head(170).write_parquet(path), r"\d+ of \d+ examples whose text is not"),
        (
            lambda path: pl.read_parquet(path).with_columns(text=pl.lit("a b !")).write_parquet(path),
            "training texts with words(.|\n)*empty vocabulary",
        ),
    ],
)
def test_texts_that_are_none_are_refused(project: Project, write: Any, message: str) -> None:
    write(project.folder / "texts.parquet")
    with pytest.raises(UserError, match=message):
        project.fit("words")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"names": ["word"]}, "unknown key 'word'(.|\n)*did you mean 'words'"),
        ({"names": ["words", "words"]}, "each name once"),
        ({"caches": {"words": "x.zarr"}}, "each name once"),
        ({"caches": {"last": "x.zarr"}}, "no head has, but last is one"),
        ({"others": ["../heads"]}, "names of folders, of which '../heads' has others"),
        ({"grid": []}, "at least 1 item"),
        ({"grid": [0.0]}, "greater than 0"),
        ({"seeds": 0}, "greater than or equal to 1"),
        ({"cache": {}}, "did you mean 'caches'"),
    ],
)
def test_parameters_that_are_wrong_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate("controls", ControlParams, values)


def test_everything_that_is_named_is_evaluated() -> None:
    params = ControlParams.model_validate({"names": ["words"], "caches": {"untrained": "u.zarr"}, "others": ["lora"]})
    assert params.all_names == ["words", "untrained", "lora"]
