"""What each control answers, against the obvious: counts, a direct fit by scikit-learn, and chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from ilse.core.errors import UserError
from tests.trainer.conftest import LABELS, Made, write_cache
from tests.trainer.controls.project import Project, made_with_texts, write_texts
from tests.trainer.test_kinds_of_tasks import made as made_of_kind
from trainer.controls import CONTROLS
from trainer.rows.in_memory import told_of_all

GRID = [0.01, 0.1, 1.0, 10.0, 100.0]


@pytest.fixture
def both(tmp_path: Path) -> tuple[Made, Project]:
    return made_with_texts(tmp_path / "project")


@pytest.fixture
def project(both: tuple[Made, Project]) -> Project:
    return both[1]


def of_kind(folder: Path, kind: str) -> Project:
    """A task of another kind, whose texts are words without a meaning."""
    made_of_kind(folder, kind)
    project = Project(folder)
    ids = sorted({text for column in project.task.training_ids("train").columns for text in project.table[column]})
    write_texts(folder, ids, [f"some text number{i}" for i in range(len(ids))])
    return project


def test_majority_tells_the_training_frequencies(project: Project) -> None:
    figures = project.fit("majority")
    train, validation = (project.table.filter(split=split)["label"] for split in ("train", "validation"))
    shares = [float((train == label).mean()) for label in LABELS]  # type: ignore[arg-type]
    answers = project.answers("majority")
    np.testing.assert_allclose(answers.predicted, np.tile(shares, (45, 1)), rtol=1e-6)
    most = LABELS[int(np.argmax(shares))]
    assert figures["val_score"] == pytest.approx((validation == most).mean())
    losses = [-np.log(shares[LABELS.index(label)]) for label in validation]
    assert figures["val_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert (answers.facts.parameters, answers.facts.model_parameters, figures["seeds"]) == (3, 0, 1)


def test_majority_tells_the_mean_score_and_each_labels_share(tmp_path: Path) -> None:
    scores = of_kind(tmp_path / "scores", "regression")
    scores.fit("majority")
    mean = scores.table.filter(split="train")["score"].mean()
    np.testing.assert_allclose(scores.answers("majority").predicted, np.full(60, mean), rtol=1e-6)
    several = of_kind(tmp_path / "several", "several")
    several.fit("majority")
    lists = several.table.filter(split="train")["label_indices"].to_list()
    shares = [np.mean([label in row for row in lists]) for label in range(3)]
    np.testing.assert_allclose(several.answers("majority").predicted[7], shares, rtol=1e-6)


def test_words_find_the_word_that_tells(project: Project) -> None:
    assert project.fit("words")["val_score"] == 1.0
    told = project.answers("words").predicted.argmax(1).tolist()
    assert told == project.table.filter(split="test")["label_index"].to_list()
    assert project.facts("words")["model_parameters"] == 0


def test_words_that_only_test_texts_have_count_for_nothing(project: Project) -> None:
    """Vocabulary and idf are those of the training texts."""
    project.fit("words")
    before = project.answers("words").predicted
    texts = pl.read_parquet(project.folder / "texts.parquet")
    test = project.table.filter(split="test")["text_id"].to_list()
    told = pl.when(pl.col("text_id").is_in(test)).then(pl.col("text") + " unheard of").otherwise("text")
    texts.with_columns(told.alias("text")).write_parquet(project.folder / "texts.parquet")
    project.fit("words")
    torch.testing.assert_close(project.answers("words").predicted, before)


def mean_of_layers(made: Made, split: str, layers: slice = slice(None)) -> np.ndarray:
    """[examples, dim]: standardised by the training rows, layer by layer, then averaged."""
    rows = {
        name: np.stack([made.values[text] for text in made.table.filter(split=name)["text_id"]]).astype(np.float64)
        for name in ("train", split)
    }
    mean, deviation = rows["train"].mean(0), rows["train"].std(0)
    return ((rows[split] - mean) / deviation)[:, layers].mean(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("name", "layers"), [("mean_probe", slice(None)), ("last_probe", slice(-1, None))])
def test_the_probe_is_a_direct_fit_whose_penalty_validation_chooses(
    both: tuple[Made, Project], name: str, layers: slice
) -> None:
    made, project = both
    figures = project.fit(name, grid=GRID)
    y = {split: made.table.filter(split=split)["label_index"].to_numpy() for split in ("train", "validation")}
    exact = {"max_iter": 9000, "tol": 1e-8}
    fits = [LogisticRegression(C=c, **exact).fit(mean_of_layers(made, "train", layers), y["train"]) for c in GRID]
    x = mean_of_layers(made, "validation", layers)
    losses = [-np.log(fit.predict_proba(x)[np.arange(45), y["validation"]]).mean() for fit in fits]
    merits = [(fit.score(x, y["validation"]), -loss) for fit, loss in zip(fits, losses, strict=True)]
    best = max(range(len(GRID)), key=lambda i: merits[i])
    assert figures["val_score"] == pytest.approx(merits[best][0])
    assert figures["val_loss"] == pytest.approx(losses[best], rel=1e-3)
    expected = fits[best].predict_proba(mean_of_layers(made, "test", layers))
    np.testing.assert_allclose(project.answers(name).predicted, expected, atol=1e-3)
    facts = project.answers(name).facts
    assert (facts.parameters, facts.model_parameters) == (3 * 8 + 3, 1000)


def test_scores_are_fitted_by_ridge_regression(tmp_path: Path) -> None:
    project = of_kind(tmp_path / "p", "regression")
    project.fit("mean_probe", grid=[0.5])
    task = project.task
    train, test = (told_of_all(rows, lambda x: x) for rows in (task.training_split("train"), task.unlabelled()))
    mean, deviation = train.double().mean(0), train.double().std(0, correction=0)
    x, x_test = (((rows - mean) / deviation).mean(1).numpy() for rows in (train, test))
    model = Ridge(alpha=2.0).fit(x, task.training_targets("train").numpy())
    np.testing.assert_allclose(project.answers("mean_probe").predicted, model.predict(x_test), rtol=1e-4)


def test_labels_in_random_order_teach_nothing(project: Project) -> None:
    project.fit("random_labels", seeds=12)
    labels = torch.tensor(project.table.filter(split="test")["label_index"].to_numpy())
    accuracies = [
        float((project.answers("random_labels", seed).predicted.argmax(1) == labels).double().mean())
        for seed in range(12)
    ]
    assert np.mean(accuracies) == pytest.approx(1 / 3, abs=0.08)
    assert len(set(accuracies)) > 1, "each seed permutes otherwise"
    project.fit("mean_probe")
    learned = (project.answers("mean_probe").predicted.argmax(1) == labels).double().mean()
    assert learned > np.mean(accuracies) + 0.15


def test_several_labels_are_each_fitted_by_themselves(tmp_path: Path) -> None:
    project = of_kind(tmp_path / "p", "several")
    assert project.fit("mean_probe")["val_score"] > 0.3
    predicted = project.answers("mean_probe").predicted
    assert predicted.shape == (60, 3)
    assert not torch.allclose(predicted.sum(-1), torch.ones(60))


@pytest.mark.parametrize(("layers", "read"), [(1, "layer 'block 0'"), (2, "the mean of 2 layers")])
def test_another_cache_is_read_at_the_layers_it_keeps(
    both: tuple[Made, Project], tmp_path: Path, layers: int, read: str
) -> None:
    """A cache whose last layer is the label itself, and whose first one is noise; of other width, layers and order."""
    made, project = both
    ids = made.table["text_id"].to_list()[::-1]
    labels = made.table["label_index"].to_numpy()[::-1]
    values = np.random.default_rng(0).normal(size=(len(ids), 2, 3)).astype(np.float32)
    values[:, 1] = np.eye(3)[labels]
    names = ("embeddings", "block 0")[-layers:]
    write_cache(tmp_path / "other.zarr", ids, values[:, -layers:], layers=names, dim=3)
    figures = project.fit("oracle", caches={"oracle": str(tmp_path / "other.zarr")})
    told = project.answers("oracle").predicted.argmax(1).tolist()
    right = np.mean(np.equal(told, made.table.filter(split="test")["label_index"].to_list()))
    assert (figures["val_score"] == right == 1.0) if layers == 1 else (0.6 < right < 1.0), "noise is in the mean"
    assert project.facts("oracle")["summary"] == f"tiny: linear model on {read}"


def test_another_cache_without_the_texts_is_refused(both: tuple[Made, Project], tmp_path: Path) -> None:
    made, project = both
    ids = made.table["text_id"].to_list()[5:]
    write_cache(tmp_path / "other.zarr", ids, np.ones((len(ids), 4, 8), dtype=np.float32))
    with pytest.raises(UserError, match=r"other.zarr\n(.|\n)*5 of 180 examples whose text is not in it"):
        project.fit("other", caches={"other": str(tmp_path / "other.zarr")})
    with pytest.raises(UserError, match="nothing there"):
        project.fit("other", caches={"other": str(tmp_path / "none.zarr")})


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("kind", ["pairs", "similarity", "ordinal", "several", "regression"])
def test_every_kind_of_task_is_answered_or_refused_with_what_there_is(tmp_path: Path, kind: str, name: str) -> None:
    project = of_kind(tmp_path / "p", kind)
    training = {"objective": "ordinal"} if kind == "ordinal" else {}
    asked = {"pairs": "multi_class", "several": "multi_label"}.get(kind, kind)
    if CONTROLS[name].answers(asked, kind in ("pairs", "similarity")):  # type: ignore[arg-type]
        figures = project.fit(name, training)
        assert project.answers(name).facts.val_score <= 1
        assert (figures["val_loss"] is None) == (kind == "similarity")
    else:
        there = {
            "pairs": "majority, mean_probe, last_probe, random_labels",
            "similarity": "words, mean_probe, last_probe",
        }[kind]
        with pytest.raises(
            UserError, match=rf"control '{name}'\n(.|\n)*two texts per example\n.*these examples there are {there}"
        ):
            project.fit(name, training)


def test_alike_texts_share_words(tmp_path: Path) -> None:
    """Of two texts with so many equal words, the cosine grows with them."""
    project = of_kind(tmp_path / "p", "similarity")
    words = {}
    for first, second, score in project.table.select("text_id", "pair_text_id", "score").iter_rows():
        words[first] = " ".join(f"shared{i}" for i in range(5))
        words[second] = " ".join(f"shared{i}" if i < score else f"another{i}" for i in range(5))
    write_texts(project.folder, list(words), list(words.values()))
    assert project.fit("words")["val_score"] == pytest.approx(1.0, abs=0.02)


def test_a_cosine_of_rows_is_that_of_the_mean_layers(tmp_path: Path) -> None:
    project = of_kind(tmp_path / "p", "similarity")
    project.fit("mean_probe")
    task = project.task
    train, test = task.training_split("train"), told_of_all(task.unlabelled(), lambda x: x.unflatten(0, (-1, 2)))
    rows = train.x.double()
    mean = ((test - rows.mean(0)) / rows.std(0, correction=0)).mean(2)
    expected = torch.nn.functional.cosine_similarity(mean[:, 0], mean[:, 1], dim=-1)
    np.testing.assert_allclose(project.answers("mean_probe").predicted, expected, atol=1e-4)
    project.fit("last_probe")
    raw = torch.nn.functional.cosine_similarity(*test[:, :, -1].unbind(1), dim=-1)
    np.testing.assert_allclose(project.answers("last_probe").predicted, raw, atol=1e-4)


def test_a_label_without_training_examples_has_no_probability(project: Project) -> None:
    table = project.table.filter((pl.col("split") != "train") | (pl.col("label") != "law"))
    table.write_parquet(project.folder / "examples.parquet")
    for name in ("majority", "words", "mean_probe"):
        assert np.isfinite(project.fit(name)["val_loss"])
        assert project.answers(name).predicted[:, 1].max() == 0
    table.filter((pl.col("split") != "train") | (pl.col("label") == "war")).write_parquet(
        project.folder / "examples.parquet"
    )
    for name in ("words", "mean_probe"):
        project.fit(name)
        assert project.answers(name).predicted.argmax(1).tolist() == [2] * 45


def test_rows_that_do_not_fit_are_streamed_to_the_same_answers(project: Project, tmp_path: Path) -> None:
    project.fit("mean_probe")
    whole = project.answers("mean_probe").predicted
    project.fit("mean_probe", {"memory_budget": 12e-6})
    torch.testing.assert_close(project.answers("mean_probe").predicted, whole, rtol=1e-3, atol=1e-4)
