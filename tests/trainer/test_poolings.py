"""Heads over any pooling that a cache holds, and over several side by side: whatever reads rows reads those."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from ilse.core.errors import UserError
from pipeline.store import open_cache
from tests.trainer.conftest import DIM, LAYERS, Made, write_cache, write_task
from tests.trainer.controls.project import made_with_texts
from trainer import fit
from trainer.artifacts.artifact import load_head
from trainer.config import TrainParams
from trainer.data.poolings import pooling_names
from trainer.data.task import open_task
from trainer.estimator import HeadClassifier, rows_of
from trainer.export import export_head, load_exported
from trainer.heads import HEADS
from trainer.search.space import TuneParams
from trainer.stages.analyse import TABLES, analyse
from trainer.stages.evaluate import evaluate
from trainer.stages.train import train
from trainer.stages.tune import tune

HELD = ("mean", "max", "last")
BOTH = ["last", "mean"]
QUICK = {"epochs": 4, "batch_size": 16, "learning_rate": 0.02, "optimizer": "adamw", "folds": None}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A task over a cache of three poolings; not to be changed."""
    return write_task(tmp_path_factory.mktemp("task"), poolings=HELD)


def joined(made: Made, split: str, poolings: list[str] | str) -> np.ndarray:  # type: ignore[type-arg]
    """The rows of a split, by the store alone."""
    cache, table = open_cache(made.cache), made.table.filter(pl.col("split") == split)
    place = {text: row for row, text in enumerate(cache.text_ids())}
    rows = np.array([place[text] for text in table["text_id"]])
    return np.concatenate([cache.gather(rows, pooling=name) for name in pooling_names(poolings)], axis=-1)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_reads_several_poolings_side_by_side(made: Made, name: str, tmp_path: Path) -> None:
    trained = fit(made.cache.parent, name, pooling=BOTH, recipe=QUICK, device="cpu", out=tmp_path / "head")
    again = load_head(tmp_path / "head")
    assert again.facts == trained.facts
    assert again.facts.poolings == tuple(BOTH)
    x = torch.from_numpy(joined(made, "validation", BOTH))[:, list(again.head.layers_read)]
    assert x.shape[2] == 2 * DIM == again.facts.width
    with torch.inference_mode():
        torch.testing.assert_close(again(x), trained(x), rtol=0, atol=0)
        labels = open_task(open_cache(made.cache), made.examples).training_targets("validation")
        accuracy = (again(x).argmax(1) == labels).double().mean() if name not in ("exits", "gated") else None
    if accuracy is not None:
        assert float(accuracy) == pytest.approx(again.facts.val_score, abs=1e-6)


def test_the_order_is_that_of_the_parameters(made: Made) -> None:
    one, other = (fit(made.cache.parent, "mean", pooling=names, recipe=QUICK) for names in (BOTH, BOTH[::-1]))
    (first, second), swapped = one.treatment.standardise.mean.split(DIM, 1), other.treatment.standardise.mean
    torch.testing.assert_close(swapped, torch.cat([second, first], 1))
    assert not torch.equal(first, second)


def test_a_head_of_one_pooling_is_the_same_head_whatever_else_the_cache_holds(tmp_path: Path) -> None:
    alone, among = (write_task(tmp_path / name, poolings=held) for name, held in (("a", ("mean",)), ("b", HELD)))
    for made in (alone, among):
        fit(made.cache.parent, "weighted", recipe=QUICK, out=made.cache.parent / "head")
    one, other = ((made.cache.parent / "head" / "head.safetensors").read_bytes() for made in (alone, among))
    assert one == other


@pytest.mark.parametrize("treatment", [{}, {"pca": 3}])
def test_streamed_rows_train_the_same_treatment(
    made: Made, treatment: dict[str, int], capfd: pytest.CaptureFixture[str]
) -> None:
    """The budget counts the width of all poolings: one of them would fit it."""
    texts = 90 + 45
    budget = 1.5 * texts * len(LAYERS) * DIM * 4 / 1e9
    folders = {"memory": None, "streamed": budget}
    heads = {
        name: fit(made.cache.parent, "concat", pooling=BOTH, recipe=QUICK | treatment, memory_budget=given)
        for name, given in folders.items()
    }
    assert capfd.readouterr().err.count("read from the cache every epoch") == 1
    x = torch.from_numpy(joined(made, "train", BOTH))
    one, other = (head.treatment(x) for head in heads.values())
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert one.shape[2] == treatment.get("pca", 2 * DIM)


def test_a_pooling_that_the_cache_lacks_is_refused_with_those_it_has(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pooling 'first'(.|\n)*mean, max, last\n(.|\n)*train.pooling(.|\n)*extract"):
        fit(made.cache.parent, "weighted", pooling=["mean", "first"], out=tmp_path / "head")
    assert not (tmp_path / "head").exists()


def test_the_stages_follow(tmp_path: Path) -> None:
    """Training, a control, evaluation, analysis and the search, on rows of two poolings."""
    made, project = made_with_texts(tmp_path, poolings=HELD)
    params = TrainParams.model_validate(
        {"heads": ["last", "weighted"], "seeds": 1, "device": "cpu", "pooling": BOTH, "recipe": QUICK}
    )
    files = made.cache, made.examples, tmp_path / "models"
    for name in params.heads:
        train(params, name, *files, tmp_path / "results")
    project.fit("mean_probe", training=params.model_dump(include={"pooling", "seeds"}))
    write_cache(tmp_path / "other.zarr", list(made.values), np.stack(list(made.values.values())), poolings=("max",))
    project.fit("other", training={"pooling": BOTH}, caches={"other": str(tmp_path / "other.zarr")})
    assert project.facts("other")["parameters"] == 3 * (DIM + 1)  # a control's cache of one pooling is read by that one
    table = evaluate([*params.heads, "mean_probe"], *files, tmp_path / "results")
    sizes = dict(table.select("head", "parameters").rows())
    assert sizes["last"] == sizes["mean_probe"] == 3 * (2 * DIM + 1)
    head = load_head(tmp_path / "models" / "last" / "seed-0")
    x = torch.from_numpy(joined(made, "test", BOTH))[:, list(head.head.layers_read)]
    told = pl.read_parquet(tmp_path / "results" / "predictions" / "last.parquet")["prediction"].to_list()
    with torch.inference_mode():
        assert [head.facts.labels[i] for i in head(x).argmax(1)] == told
    analyse(params, *files, tmp_path / "results")
    assert all((tmp_path / "results" / "analysis" / f"{name}.csv").exists() for name in TABLES)
    search = TuneParams.model_validate(
        {"trials": 2, "storage": f"sqlite:///{tmp_path}/tune.db", "space": {"learning_rate": [0.01, 0.02]}}
    )
    assert tune(search, params, "weighted", made.cache, made.examples, tmp_path / "results").trials == 2


@pytest.mark.parametrize("to", ["torch", "onnx"])
def test_an_export_takes_the_joined_rows(made: Made, tmp_path: Path, to: str) -> None:
    trained = fit(made.cache.parent, "weighted", pooling=BOTH, recipe=QUICK, out=tmp_path / "head")
    told = export_head(tmp_path / "head", tmp_path / "out", to=to)  # type: ignore[arg-type]
    assert load_exported(tmp_path / "out").description["pooling"] == BOTH
    assert told["input"]["shape"] == ["examples", len(LAYERS), 2 * DIM]
    x = joined(made, "test", BOTH)
    with torch.inference_mode():
        expected = trained(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(load_exported(tmp_path / "out")(x)["logits"], expected, atol=1e-4)


def test_the_estimator_gets_them_from_rows_of(made: Made) -> None:
    table = made.table.filter(pl.col("split") == "train")
    X = rows_of(made.cache, table["text_id"], pooling=BOTH)
    np.testing.assert_array_equal(X, joined(made, "train", BOTH))
    found = HeadClassifier("weighted", recipe=QUICK, device="cpu").fit(X, table["label"])
    assert found.predict_proba(X).shape == (len(X), 3)
