"""MTEB runs a head as it runs any encoder, and its figures are ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torchmetrics.functional import spearman_corrcoef

from pipeline import store
from tests.predict.conftest import Project, source
from tests.predict.kshot import kshot

mteb = pytest.importorskip("mteb")
from datasets import Dataset, DatasetDict  # noqa: E402
from mteb.abstasks import AbsTaskClassification  # noqa: E402
from mteb.abstasks.sts import AbsTaskSTS  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models import EncoderProtocol, ModelMeta  # noqa: E402

from ilse.predict.mteb_encoder import MTEBEncoder  # noqa: E402

Build = Callable[..., Project]


def metadata(name: str, kind: str, main_score: str) -> TaskMetadata:
    return TaskMetadata(
        name=name, description="A task in memory.", reference=None, dataset={"path": "memory/memory", "revision": "0"},
        type=kind, category="t2c" if kind == "Classification" else "t2t", modalities=["text"], eval_splits=["test"],
        eval_langs=["eng-Latn"], main_score=main_score, date=None, domains=None, task_subtypes=None, license=None,
        annotations_creators=None, dialect=None, sample_creation=None, bibtex_citation=None,
    )  # fmt: skip


def halves() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Training and test rows; labels as numbers."""
    labels = ["art", "law", "war"]
    table = source().with_columns(pl.col("label").replace_strict({name: i for i, name in enumerate(labels)}))
    return table.head(60), table.tail(30)


class MadeUpTopics(AbsTaskClassification):
    metadata = metadata("MadeUpTopics", "Classification", "accuracy")

    def load_data(self, **_: Any) -> None:
        parts = zip(("train", "test"), halves(), strict=True)
        self.dataset = DatasetDict(
            {name: Dataset.from_dict(half.select("text", "label").to_dict(as_series=False)) for name, half in parts}
        )
        self.data_loaded = True


class MadeUpSimilarity(AbsTaskSTS):
    metadata = metadata("MadeUpSimilarity", "STS", "cosine_spearman")
    min_score, max_score = 0, 20

    def load_data(self, **_: Any) -> None:
        pairs = halves()[1].select(sentence1="text", sentence2="other", score="score")
        self.dataset = DatasetDict({"test": Dataset.from_dict(pairs.to_dict(as_series=False))})
        self.data_loaded = True


def scores(encoder: MTEBEncoder, task: Any) -> dict[str, Any]:
    result = mteb.evaluate(encoder, tasks=[task], cache=None, co2_tracker=False, show_progress_bar=False)
    return result.task_results[0].scores["test"][0]


def test_similarity_is_our_figure_on_the_same_vectors(project: Build) -> None:
    predictor = project("pairs with a score").predictor("weighted")
    found = scores(MTEBEncoder(predictor), MadeUpSimilarity())
    _, test = halves()
    u, v = (torch.from_numpy(predictor.embed(test[side].to_list())) for side in ("text", "other"))
    ours = spearman_corrcoef(torch.cosine_similarity(u.double(), v.double()), torch.tensor(test["score"].to_list()))
    assert found["cosine_spearman"] == pytest.approx(float(ours), abs=1e-6)
    assert found["spearman"] == pytest.approx(float(ours), abs=1e-6)
    assert found["main_score"] == found["cosine_spearman"]


@pytest.mark.parametrize("shots", [8, 2])
def test_k_shot_figures_are_ours(project: Build, shots: int) -> None:
    """Draw by draw: the same rows are drawn, and the same regression is fitted to them in the same order."""
    predictor = project().predictor("weighted")
    task = MadeUpTopics()
    task.samples_per_label = shots
    found = scores(MTEBEncoder(predictor), task)
    train, test = halves()
    rows = [predictor.embed(half["text"].to_list()) for half in (train, test)]
    # mteb encodes just the rows that some draw takes: beside other texts a vector's last bits may differ, no answer.
    ours = kshot(rows[0], train["label"].to_list(), rows[1], test["label"].to_list(), shots=shots)
    assert list(ours.accuracies) == [draw["accuracy"] for draw in found["scores_per_experiment"]]
    assert list(ours.f1s) == [draw["f1"] for draw in found["scores_per_experiment"]]
    assert found["main_score"] == pytest.approx(ours.accuracy)
    assert ours.spread > 0


def test_of_the_same_vectors_k_shot_figures_are_ours_to_the_bit() -> None:
    """Without a model in between: vectors by the text's place, so that both sides see the same bits."""
    train, test = halves()
    generator = np.random.default_rng(0)
    table = {text: generator.normal(size=5) for half in (train, test) for text in half["text"]}

    class Fixed(MTEBEncoder):
        def __init__(self) -> None:
            self.mteb_model_meta = ModelMeta.create_empty({"name": "made/up"})

        def encode(self, inputs: Any, **_others: Any) -> Any:
            return np.stack([table[text] for batch in inputs for text in batch["text"]])

    found = scores(Fixed(), MadeUpTopics())
    rows = [np.stack([table[text] for text in half["text"]]) for half in (train, test)]
    ours = kshot(rows[0], train["label"].to_list(), rows[1], test["label"].to_list())
    assert list(ours.accuracies) == [draw["accuracy"] for draw in found["scores_per_experiment"]]
    assert list(ours.f1s) == [draw["f1"] for draw in found["scores_per_experiment"]]


def test_mteb_files_results_under_the_head_and_its_weights(project: Build) -> None:
    made = project()
    first, second = (MTEBEncoder(made.predictor("mean", mean={"mlp_layers": depth})) for depth in (0, 1))
    assert isinstance(first, EncoderProtocol)
    meta = first.mteb_model_meta
    assert (meta.name, meta.embed_dim, meta.max_tokens) == ("ilse-cache/mean-llama", 32, 10)
    frozen = store.open_cache(made.cache).header.model_parameters
    assert meta.n_parameters == first.predictor.trained.parameters_trained + frozen
    assert meta.revision != second.mteb_model_meta.revision
    assert meta.revision == MTEBEncoder(first.predictor).mteb_model_meta.revision
