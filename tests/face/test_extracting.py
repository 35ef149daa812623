"""`ilse.extract`: data and models as people have them, and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import polars as pl
import pytest
import transformers

import ilse
from tests.pipeline.conftest import tiny_model
from tests.predict.conftest import source

__all__ = ["tiny_model"]  # a fixture
TEXTS, LABELS = source()["text"].to_list(), source()["label"].to_list()


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Path]) -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def cache(model: Path, tmp_path_factory: pytest.TempPathFactory) -> ilse.Cache:
    return ilse.extract(TEXTS, LABELS, model=model, out=tmp_path_factory.mktemp("face") / "data", verbose=False)


def written(tmp_path: Path) -> Path:
    source().select("text", "label").write_csv(tmp_path / "news.csv")
    return tmp_path / "news.csv"


def dataset(split: bool) -> Any:
    """A stand-in for Hugging Face's `Dataset`, which is no dependency of ours: columns, features and label names."""

    class ClassLabel:
        def int2str(self, index: int) -> str:
            return ("art", "law", "war")[index]

    class Dataset:
        features: ClassVar = {"text": object(), "label": ClassLabel()}
        column_names: ClassVar = ["text", "label"]

        def __getitem__(self, name: str) -> list[Any]:
            return {"text": TEXTS, "label": [("art", "law", "war").index(label) for label in LABELS]}[name]

    return {"train": Dataset()} if split else Dataset()


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow", "dataset", "path"])
def test_every_kind_of_data_gives_the_same_cache(kind: str, cache: ilse.Cache, model: Path, tmp_path: Path) -> None:
    frame = source().select("text", "label")
    data = {
        "pandas": frame.to_pandas,
        "polars": lambda: frame,
        "arrow": frame.to_arrow,
        "dataset": lambda: dataset(False),
        "path": lambda: written(tmp_path),
    }[kind]()
    found = ilse.extract(data, model=model, out=tmp_path / "data", verbose=False)
    assert found.fingerprint == cache.fingerprint
    assert found.text_ids() == cache.text_ids()
    assert (found[:] == cache[:]).all()
    examples = [pl.read_parquet(Path(one.path).parent / "examples.parquet") for one in (found, cache)]
    assert examples[0].select("text_id", "label", "split").equals(examples[1].select("text_id", "label", "split"))


def test_splits_of_a_dataset_dict_are_kept(model: Path, tmp_path: Path) -> None:
    class Part:
        features: ClassVar = {"text": object(), "label": object()}
        column_names: ClassVar = ["text", "label"]

        def __init__(self, start: int) -> None:
            self.start = start

        def __getitem__(self, name: str) -> list[Any]:
            return {"text": TEXTS, "label": LABELS}[name][self.start : self.start + 30]

    parts = {"train": Part(0), "validation": Part(30), "test": Part(60)}
    ilse.extract(parts, model=model, out=tmp_path / "data", verbose=False)
    counts = pl.read_parquet(tmp_path / "data" / "examples.parquet")["split"].value_counts()
    assert dict(counts.rows()) == {"train": 30, "validation": 30, "test": 30}


def test_a_loaded_model_is_saved_once_and_gives_the_same_rows(cache: ilse.Cache, model: Path, tmp_path: Path) -> None:
    loaded = transformers.AutoModel.from_pretrained(model), transformers.AutoTokenizer.from_pretrained(model)
    found = ilse.extract(TEXTS[:9], model=loaded, out=tmp_path / "data", verbose=False)
    again = ilse.extract(TEXTS[:9], model=loaded[0], tokenizer=loaded[1], out=tmp_path / "data", verbose=False)
    assert found.text_ids() == again.text_ids() == cache.text_ids()[:9]
    # In bfloat16, where the texts beside it change a text's last bits.
    np.testing.assert_allclose(found[:], ilse.rows_of(cache, found.text_ids()), atol=0.02)
    assert (tmp_path / "data" / "model" / "config.json").is_file()
    loaded[0].config.rms_norm_eps *= 2
    with pytest.raises(ilse.UserError, match=r"another folder: out="):
        ilse.extract(TEXTS[:9], model=loaded, out=tmp_path / "data", verbose=False)


def test_texts_without_labels_are_cached_and_have_no_examples(cache: ilse.Cache, model: Path, tmp_path: Path) -> None:
    found = ilse.extract([*TEXTS[:5], TEXTS[0]], model=model, out=tmp_path / "data", verbose=False)
    assert found.text_ids() == cache.text_ids()[:5]
    with pytest.raises(ilse.UserError, match="this cache has no labels"):
        ilse.fit(found)
    assert ilse.fit(found, ["a", "b", "a", "b", "a"], head="last", verbose=False).predict(found[:1]).shape == (1,)


def test_what_is_said_goes_to_logging_and_the_terminal_only_if_wanted(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "ilse"):
        ilse.extract(TEXTS[:5], model=model, out=tmp_path / "data", verbose=False)
    assert capsys.readouterr() == ("", "")
    assert "5 texts computed, 0 reused" in caplog.messages
    ilse.extract(TEXTS[:6], model=model, out=tmp_path / "data")
    assert "1 texts computed, 5 reused" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": pd.DataFrame({"headline": ["a"], "label": ["x"]})}, r"a column 'text'(.|\n)*headline, label"),
        ({"data": pd.DataFrame({"text": ["a"], "labels": ["x"]})}, r"(?s)a column 'label'.*did you mean 'labels'"),
        ({"data": pd.DataFrame({"text": ["a"], "label": ["x"]}), "labels": ["x"]}, "labels beside data that have"),
        ({"data": ["a", "b"], "labels": ["x"]}, "text 2, target 1"),
        ({"data": ["a", " "]}, "text 1 .from 0. is empty"),
        ({"data": ["a"], "max_token": 3}, "did you mean 'max_tokens'"),
        ({"data": ["a"], "model": "nowhere"}, "no such file or folder"),
        ({"data": ["a"], "model": Path("owner/name")}, "no such file or folder"),
        ({"data": ["a"], "model": 3}, "a language model"),
        ({"data": "nowhere.csv"}, "nothing there"),
        ({"data": "nowhere.csv", "labels": ["x"]}, "labels beside a file"),
    ],
)
def test_one_clear_error(given: dict[str, Any], message: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ilse.UserError, match=message):
        ilse.extract(**{"model": model, "out": tmp_path / "data", "verbose": False, **given})
    assert not (tmp_path / "data" / "cache.zarr").exists()


def test_a_cache_is_indexed_as_an_array(cache: ilse.Cache) -> None:
    rows = np.asarray(cache)
    assert rows.shape == cache.shape == (90, 4, 32)
    assert rows.dtype == np.float32
    assert len(cache) == 90
    mask = np.arange(90) % 7 == 0
    keys: list[Any] = [
        3, -1, slice(2, 9), slice(None, None, -1), [5, 1, 5], mask, (slice(3), -1), ([4, 2], [0, 2]), (0, 0), slice(0),
    ]  # fmt: skip
    for key in keys:
        texts, layers = key if isinstance(key, tuple) else (key, slice(None))
        np.testing.assert_array_equal(cache[key], rows[texts][..., layers, :])
    assert cache[...].shape == cache.shape
    assert cache[[]].shape == (0, 4, 32)
    for wrong in (90, -91, [0, 90], (0, 4), "a", mask[:5], 1.5):
        with pytest.raises(IndexError):
            cache[wrong]
    assert "90 texts x 4 layers x 32" in repr(cache)
    assert sum(1 for _ in cache) == 90
