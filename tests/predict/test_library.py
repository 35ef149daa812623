"""Use without DVC: the README's lines run, and give what the stages give."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import transformers

from ilse.core.errors import UserError
from ilse.predict import Predictor
from pipeline import extract, library, store
from tests.predict.conftest import Project, source
from trainer import fit

Build = Callable[..., Project]
EXTRACT: dict[str, Any] = {
    "compute_type": "float32", "max_tokens": 10, "batch_tokens": 64, "shard_rows": 64, "threads": 1,
}  # fmt: skip
"""As in `project`."""
RECIPE = {
    "epochs": 12, "batch_size": 16, "learning_rate": 0.01, "compute_type": "float32", "optimizer": "adamw",
    "folds": None,
}  # fmt: skip


@pytest.fixture
def model(project: Build) -> Path:
    return project().model


def arguments(kind: str) -> tuple[list[Any], dict[str, Any]]:
    """Targets as one has them in memory, and the second texts of pairs."""
    table = source()
    if kind == "label sets":
        return [set(row.split("|")) if row else [] for row in table["labels"]], {}
    return table["score"].to_list(), {"pairs": table["other"].to_list()}


def test_the_lines_of_the_readme_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(import ilse\n.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "path" / "or").mkdir(parents=True)
    (tmp_path / "path" / "or" / "hub-id").symlink_to(model)
    texts, labels = source()["text"].to_list(), source()["label"].to_list()
    made: dict[str, Any] = {"texts": texts, "labels": labels}
    exec(lines, made)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("head ")
    assert said[-1].strip("[]'") in set(labels)
    assert made["heads"][0].facts.val_score > 0


def test_a_call_leaves_its_process_as_it_was(model: Path, tmp_path: Path) -> None:
    def state() -> tuple[Any, ...]:
        # Not Python's: beartype draws the items that it looks at in our tests.
        numbers = str(np.random.get_state()), torch.get_rng_state().tolist()
        said = transformers.utils.logging
        return numbers, said.get_verbosity(), said.is_progress_bar_enabled(), list(warnings.filters)

    texts, labels = source()["text"].to_list(), source()["label"].to_list()
    transformers.utils.logging.set_verbosity_info()
    transformers.utils.logging.enable_progress_bar()
    before = state()
    try:
        data = extract(texts, labels, model=model, out=tmp_path / "data", **EXTRACT)
        assert state() == before
        fit(data, "weighted", recipe=RECIPE, out=tmp_path / "head")
        assert state() == before
        Predictor.load(tmp_path / "head", model).predictions(texts[:3])
        assert state() == before
        with pytest.raises(UserError):
            extract(texts, labels, model=tmp_path, out=tmp_path / "other", **EXTRACT)
        assert state() == before
    finally:
        transformers.utils.logging.set_verbosity_warning()


@pytest.mark.parametrize("kind", ["label sets", "pairs with a score"])
def test_tables_and_cache_are_those_of_the_stages(project: Build, kind: str, tmp_path: Path) -> None:
    made, (targets, pairs) = project(kind), arguments(kind)
    out = extract(source()["text"].to_list(), targets, model=made.model, out=tmp_path / "data", **pairs, **EXTRACT)
    for table in ("texts.parquet", "examples.parquet"):
        assert (out / table).read_bytes() == (made.folder / table).read_bytes()
    ours, theirs = store.open_cache(out / "cache.zarr"), store.open_cache(made.cache)
    assert (ours.header, ours.text_ids()) == (theirs.header, theirs.text_ids())
    assert (ours.read(slice(None)) == theirs.read(slice(None))).all()


def test_a_head_is_that_of_the_stage(project: Build, tmp_path: Path) -> None:
    made = project()
    expected = made.trained("mlp", mlp={"hidden": 8})
    head = fit(made.folder, "mlp", options={"hidden": 8}, recipe=RECIPE, device="cpu", out=tmp_path / "mlp")
    assert (tmp_path / "mlp" / "head.safetensors").read_bytes() == (expected / "head.safetensors").read_bytes()
    assert head.facts.val_score == Predictor.load(tmp_path / "mlp", made.model).trained.facts.val_score
    assert not head.training


def test_texts_that_are_added_are_computed_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, labels = source()["text"].to_list(), source()["label"].to_list()
    splits = ["train", "dev", "test"] * 30
    given: dict[str, Any] = {"model": model, "out": tmp_path / "data", **EXTRACT, "shard_rows": 16}
    extract(texts[:75], labels[:75], splits=splits[:75], **given)
    extract(texts, labels, splits=splits, **given)
    assert "15 texts computed, 75 reused" in capsys.readouterr().err
    counts = pl.read_parquet(tmp_path / "data" / "examples.parquet")["split"].value_counts().rows()
    assert dict(counts) == {"train": 30, "validation": 30, "test": 30}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ["a"]}, r"extract\(\)\n.*as many targets(.|\n)*text 3, target 1"),
        ({"texts": [], "targets": []}, "text 0, target 0"),
        ({"texts": ["a", None, "c"]}, r"extract\(\), text 1 \(from 0\)\n.*a string\n.*None"),
        ({"max_token": 3}, "unknown key 'max_token'(.|\n)*did you mean 'max_tokens'"),
        ({"prepare": {"sed": 3}}, "unknown key 'sed'(.|\n)*did you mean 'seed'"),
        ({"splits": ["train", "tset", "test"]}, "a split named(.|\n)*'tset'(.|\n)*did you mean 'test'"),
        ({"targets": ["x", "x", "x"]}, "at least one example in each split|at least two labels"),
    ],
)
def test_what_does_not_fit_is_refused(model: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    given = {"texts": ["a", "b", "c"], "targets": ["x", "y", "x"], "model": model, "out": tmp_path / "data"}
    as_users_have_it = inspect.unwrap(library.extract)  # without beartype, which looks at one text, by chance
    with pytest.raises(UserError, match=message):
        as_users_have_it(**{**given, **change})
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "weigthed"}, "did you mean 'weighted'"),
        ({"seeds": 3}, r"fit\(\)\n.*a head and a seed\n.*'seeds'"),
        ({"shot": 3}, r"fit\(\), section 'train'(.|\n)*did you mean 'shots'"),
        ({"options": {"hiden": 3}}, "unknown key 'hiden'"),
        ({"data": "nowhere"}, "cache nowhere/cache.zarr"),
    ],
)
def test_a_fit_that_there_is_not_is_refused(project: Build, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit(**{"data": project().folder, "head": "mlp", **change})
