"""Model and head together: the same answers as through the cache, and clear words where they do not belong together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from ilse.core.errors import UserError
from ilse.predict import LabelPrediction, LabelSetPrediction, Predictor, ScorePrediction
from ilse.predict.capture import as_stored, model_params
from pipeline import store
from pipeline.model.architecture import find_blocks
from pipeline.stages.subset import Selection, subset
from pipeline.store.encoding import decode, encode
from tests.predict.conftest import Project
from trainer.artifacts.artifact import load_head

Build = Callable[..., Project]
HEADS = ("last", "best", "weighted", "concat", "cayley", "exits", "gated")


def compare(project: Project, predictor: Predictor, head: str, tolerance: float = 1e-3) -> None:
    """Class and probabilities of every test example as evaluation read them from the cache."""
    table, texts = project.predicted(head), project.texts()
    found = predictor.predictions([texts[text_id] for text_id in table["text_id"]])
    assert [p.label for p in found] == table["prediction"].to_list()
    np.testing.assert_allclose([p.probability for p in found], table["probability"], atol=tolerance)
    np.testing.assert_allclose(
        [list(p.probabilities.values()) for p in found], table["probabilities"].to_numpy(), atol=tolerance
    )
    assert table["probability"].max() - table["probability"].min() > 0.05


@pytest.mark.parametrize("head", HEADS)
def test_a_text_gets_the_answer_that_it_gets_through_the_cache(project: Build, head: str) -> None:
    made = project()
    compare(made, made.predictor(head), head)


@pytest.mark.parametrize(
    ("capture", "tolerance"),
    [
        ({"storage_type": "bfloat16"}, 1e-3),
        ({"storage_type": "float32"}, 1e-5),
        ({"storage_type": "int8"}, 0.05),  # whose rounding is a shard's own
        ({"template": "the film {text} of the", "poolings": ["max", "mean"]}, 1e-3),
        ({"layers": ["1..2"]}, 1e-3),
        ({"model": {"path": "bert"}}, 1e-3),
        ({"windows": {"tokens": 6, "stride": 4}, "max_tokens": None, "storage_type": "float32"}, 1e-5),
    ],
)
def test_so_it_is_for_every_capture(project: Build, capture: dict[str, Any], tolerance: float) -> None:
    model = capture.pop("model", {"path": "llama"})["path"]
    made = project(model=model, **capture)
    compare(made, made.predictor("cayley"), "cayley", tolerance)


@pytest.mark.parametrize("pooling", ["mean", "max", "last", ["last", "max"], ["mean", "max", "last"]])
def test_so_it_is_for_every_pooling_and_for_several_side_by_side(project: Build, pooling: str | list[str]) -> None:
    made = project(poolings=["mean", "max", "last"])
    predictor = made.predictor("cayley", pooling=pooling)
    compare(made, predictor, "cayley")
    texts, cache = list(made.texts().values()), store.open_cache(made.cache)
    names = [pooling] if isinstance(pooling, str) else pooling
    each = [cache.read(slice(0, len(texts)), pooling=name) for name in names]
    expected = np.concatenate(each, axis=-1)
    np.testing.assert_allclose(predictor.capture.rows(texts, texts).numpy(), expected, rtol=2e-3, atol=1e-5)
    assert predictor.embed([]).shape == (0, predictor.width)


def test_texts_that_the_tokenizer_does_not_know_are_refused_and_an_odd_one_is_answered(project: Build) -> None:
    predictor = project().predictor("last")
    assert len(predictor.predictions(["quite another language"])) == 1
    with pytest.raises(UserError, match=r"% of the texts' tokens are \[UNK\](.|\n)*'quite another"):
        predictor.predictions([f"quite another language here {number}" for number in range(40)])


def test_so_it_is_over_a_smaller_cache(project: Build, tmp_path: Path) -> None:
    made = project()
    for table in ("texts.parquet", "examples.parquet"):
        shutil.copy(made.folder / table, tmp_path / table)
    subset(str(made.cache), tmp_path / "cache.zarr", Selection(layers=("1..2",)))
    small = Project(tmp_path, made.model, made.objective)
    compare(small, small.predictor("weighted"), "weighted")


def test_rows_are_rounded_as_the_cache_rounds(project: Build) -> None:
    """Nearly all values are the cache's to the bit; without rounding nearly none would be."""
    made = project()
    predictor, texts = made.predictor("weighted"), list(made.texts().values())
    rows = predictor.capture.rows(texts, texts).numpy()
    stored = store.open_cache(made.cache).read(slice(0, len(texts)))
    assert (rows == stored).mean() > 0.99
    np.testing.assert_allclose(rows, stored, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_vectors_are_those_of_the_cached_rows(project: Build, head: str) -> None:
    made = project()
    predictor, texts = made.predictor(head), list(made.texts().values())
    trained = load_head(made.trained(head))
    rows = torch.from_numpy(store.open_cache(made.cache).read(slice(0, len(texts))))[:, list(trained.head.layers_read)]
    with torch.inference_mode():
        treated = trained.treatment(rows)
        expected = trained.head.encode(treated) if hasattr(trained.head, "encode") else treated[:, -1]
    found = predictor.embed(texts)
    assert found.shape == (len(texts), predictor.width)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), rtol=5e-3, atol=5e-3)


def test_label_sets_and_scores_are_told_too(project: Build) -> None:
    made = project("label sets")
    predictor, table, texts = made.predictor("weighted"), made.predicted("weighted"), made.texts()
    sets = predictor.predictions([texts[text_id] for text_id in table["text_id"]])
    assert all(isinstance(p, LabelSetPrediction) for p in sets)
    assert [list(p.labels) for p in sets] == table["predictions"].to_list()
    made = project("scores")
    predictor, table, texts = made.predictor("weighted"), made.predicted("weighted"), made.texts()
    scores = predictor.predictions([texts[text_id] for text_id in table["text_id"]])
    assert all(isinstance(p, ScorePrediction) for p in scores)
    np.testing.assert_allclose([p.score for p in scores], table["prediction"], rtol=1e-3, atol=1e-3)


def test_an_ordinal_answer_is_the_objectives_own(project: Build) -> None:
    made = project(objective="ordinal")
    compare(made, made.predictor("mean"), "mean")


def test_pairs_are_answered_as_pairs(project: Build) -> None:
    for kind, column in (("pairs with a label", "label"), ("pairs with a score", "score")):
        made = project(kind)
        predictor, table, texts = made.predictor("weighted"), made.predicted("weighted"), made.texts()
        pairs = [(texts[a], texts[b]) for a, b in table.select("text_id", "pair_text_id").rows()]
        found = predictor.predictions(pairs)
        if column == "label":
            assert [p.label for p in found] == table["prediction"].to_list()
            np.testing.assert_allclose([p.probability for p in found], table["probability"], atol=1e-3)
        else:
            np.testing.assert_allclose([p.score for p in found], table["prediction"], atol=1e-3)
            u, v = (predictor.embed(list(side)) for side in zip(*pairs, strict=True))
            cosine = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
            np.testing.assert_allclose(cosine, table["prediction"], atol=1e-3)
        assert predictor.embed(list(texts.values())).shape == (len(texts), 6)
        with pytest.raises(UserError, match=r"example 1\n(.|\n)*a pair of texts(.|\n)*'the film'"):
            predictor.predictions([("the film", "the cup"), "the film"])


def test_only_the_blocks_that_the_head_needs_are_run(project: Build, tmp_path: Path) -> None:
    made = project()
    own = shutil.copytree(made.model, tmp_path / "model")  # which nobody else holds
    predictor = Predictor.load(made.trained("layer", layer={"layer": 1}), own, device="cpu", threads=1)
    blocks = find_blocks(predictor.capture.frozen.model)
    assert [all(weight.is_meta for weight in block.parameters()) for block in blocks] == [False, True, True]
    compare(made, predictor, "layer")


def test_two_predictors_of_one_model_take_turns(project: Build) -> None:
    made = project()
    deep, texts = made.predictor("last"), list(made.texts().values())
    before = deep.embed(texts)
    shallow = made.predictor("layer", layer={"layer": 1})
    at_first = shallow.embed(texts)
    np.testing.assert_array_equal(deep.embed(texts), before)
    np.testing.assert_array_equal(shallow.embed(texts), at_first)


def test_texts_are_normalised_as_prepare_does_it_and_any_number_is_taken(project: Build) -> None:
    predictor = project().predictor("mean")
    plain = ["the film\nwins", "new law"]
    assert predictor.predictions(["\u2003the film\r\nwins \n", " new law"]) == predictor.predictions(plain)
    many = [plain[i % 2] for i in range(600)]
    streamed = predictor.stream(iter(many))
    assert next(streamed).label == predictor.predictions(plain)[0].label
    assert [p.label for p in predictor.predictions(many)] == [p.label for p in predictor.predictions(plain)] * 300
    assert predictor.predictions([]) == []
    assert predictor.embed([]).shape == (0, predictor.width)


def test_what_is_no_text_is_named_by_its_number(project: Build) -> None:
    predictor = project().predictor("mean")
    with pytest.raises(UserError, match=r"text 300\n +expected: a string\n +found: +None"):
        predictor.predictions(["the film"] * 300 + [None])
    with pytest.raises(UserError, match=r"text 2\n +expected: at least one token\n(.|\n)*leave it out"):
        predictor.predictions(["the film", "the film", " "])


def test_another_model_is_refused(project: Build, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    made = project()
    folder = made.trained("mean")
    with pytest.raises(UserError, match=r"model .*gpt2\n +expected: the model that made the cache(.|\n)*llama"):
        Predictor.load(folder, tiny_model("gpt2"))
    other = Path(shutil.copytree(made.model, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    with pytest.raises(UserError, match="name the model that the head was trained on"):
        Predictor.load(folder, other)
    with pytest.raises(UserError, match=r"nothing there"):
        Predictor.load(folder, tmp_path / "none")


def test_a_copy_of_the_model_elsewhere_is_the_same_model(project: Build, tmp_path: Path) -> None:
    made = project()
    folder = made.trained("mean")
    copy = shutil.copytree(made.model, tmp_path / "copy")
    here, there = (Predictor.load(folder, place).predictions(["the film"]) for place in (made.model, copy))
    assert here == there


def test_a_model_without_an_address_has_to_be_given(project: Build) -> None:
    folder = project().trained("mean")
    with pytest.raises(UserError, match=r"the head, llama\n(.|\n)*none given\n(.|\n)*sha256 is [0-9a-f]"):
        Predictor.load(folder)


def test_a_model_of_the_hub_is_named_by_the_head(project: Build) -> None:
    facts = load_head(project().trained("mean")).facts
    reference = {"hub": "someone/model", "revision": "0" * 40}
    facts = replace(facts, capture=replace(facts.capture, model=reference))
    assert model_params(facts, None).model_dump(exclude_none=True) == {**reference, "trust_remote_code": False}


def test_values_that_the_type_cannot_hold_are_refused(project: Build) -> None:
    made = project()
    layers = store.open_cache(made.cache).layers
    values = np.zeros((2, 4, 32), np.float32)
    values[1, 2, 3] = 70_000
    with pytest.raises(UserError, match=r"layer 'block 2', text second, dimension 3\n(.|\n)*float16 can hold"):
        as_stored("float16", layers, ["first", "second"], torch.from_numpy(values))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32"])
def test_values_are_rounded_as_those_that_are_stored(kind: str) -> None:
    generator = np.random.default_rng(0)
    sizes = 10.0 ** generator.integers(-9, 4, size=(2000, 2, 3))
    values = (generator.normal(size=sizes.shape) * sizes).astype(np.float32)
    ties = np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-9, 1 + 3 * 2.0**-8, 65_504, 2.0**-25], np.float32)
    values[0] = ties.reshape(2, 3)
    found = as_stored(kind, ["a", "b"], [""] * 2000, torch.from_numpy(values))
    np.testing.assert_array_equal(found.numpy(), decode(encode(values, kind)[0], kind))


def test_labels_come_in_the_order_of_the_label_map(project: Build) -> None:
    made = project()
    (found,) = made.predictor("mean").predictions(["the film"])
    assert isinstance(found, LabelPrediction)
    labels = pl.read_parquet(made.folder / "examples.parquet")["label"]
    assert list(found.probabilities) == labels.unique().sort().to_list()
    assert found.probability == max(found.probabilities.values())
    assert sum(found.probabilities.values()) == pytest.approx(1)
