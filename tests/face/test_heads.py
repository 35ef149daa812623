"""`ilse.fit`, `ilse.compare` and `ilse.Predictor` on one small cache; and the classifier over texts."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import check_estimator

import ilse
from ilse.core.shadows import require_ours
from tests.pipeline.conftest import tiny_model
from tests.predict.conftest import source

__all__ = ["tiny_model"]  # a fixture
TEXTS, LABELS = source()["text"].to_list(), source()["label"].to_list()
QUICK: dict[str, Any] = {"recipe": {"epochs": 3, "folds": None, "least_steps": 0}, "device": "cpu", "verbose": False}


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Path]) -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def cache(model: Path, tmp_path_factory: pytest.TempPathFactory) -> ilse.Cache:
    out = tmp_path_factory.mktemp("face") / "data"
    return ilse.extract(TEXTS, LABELS, model=model, out=out, verbose=False)


@pytest.fixture(scope="module")
def heads(cache: ilse.Cache) -> list[ilse.TrainedHead]:
    several = [ilse.fit(cache, head="bottleneck", seed=seed, **QUICK) for seed in (0, 1)]
    return [ilse.fit(cache, head="last", **QUICK), ilse.fit(cache, head="best", **QUICK), *several]


def test_a_head_shows_what_it_is(heads: list[ilse.TrainedHead]) -> None:
    shown = repr(heads[0])
    assert shown.startswith("<TrainedHead 'last', seed 0: 1 layers of llama -> 3 labels, validation accuracy 0.")
    assert shown.endswith("99 parameters>")


def test_a_comparison_has_intervals_plots_and_a_report(heads: list[ilse.TrainedHead], tmp_path: Path) -> None:
    found = ilse.compare(heads)
    rows = {row["head"]: row for row in found.table.to_dicts()}
    assert rows.keys() == {"last", "best", "bottleneck"}
    assert (rows["bottleneck"]["seeds"], rows["last"]["seeds"], found.baseline) == (2, 1, "last")
    gain = rows["bottleneck"]
    assert gain["gain_low"] <= gain["gain_points"] <= gain["gain_high"]
    assert rows["last"]["gain_points"] is None
    assert "bottleneck" in repr(found)
    assert "bottleneck" in found._repr_html_()
    for kind in ("leaderboard", "comparison", "layers", "confusion", "calibration", "cost"):
        drawn = found.plot(kind).to_dict()
        assert drawn["$schema"].startswith("https://vega.github.io/schema/vega-lite/")
    found.plot("leaderboard").save(tmp_path / "chart.png")
    assert found.report(tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_heads_with_different_options_have_rows_of_their_own(cache: ilse.Cache) -> None:
    heads = [ilse.fit(cache, head="weighted", options={"weight_of": kind}, **QUICK) for kind in ("layer", "coordinate")]
    assert sorted(ilse.compare(heads).table["head"]) == ["weighted", "weighted-2"]
    named = ilse.compare({"by layer": heads[0], "by coordinate": [heads[1]]}, baseline="by layer")
    assert (sorted(named.table["head"]), named.baseline) == (["by coordinate", "by layer"], "by layer")


def test_a_loaded_head_is_compared_where_its_data_are_named(heads: list[ilse.TrainedHead], tmp_path: Path) -> None:
    from trainer.artifacts.artifact import load_head, save_head

    save_head(tmp_path / "head", heads[0])
    loaded = load_head(tmp_path / "head")
    with pytest.raises(ilse.UserError, match=r"(?s)a head that was loaded.*data="):
        ilse.compare([loaded])
    assert heads[0].trained_on is not None
    data = heads[0].trained_on.examples.parent
    assert ilse.compare([loaded], data).table["test"].to_list() == ilse.compare(heads[:1]).table["test"].to_list()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda heads: ilse.compare([]), "at least one trained head"),
        (lambda heads: ilse.compare({"a": [heads[0], heads[0]]}), "seed 0 twice"),
        (lambda heads: ilse.compare(heads[:1]).plot("layers"), "the head 'best'"),
        (lambda heads: ilse.fit(np.zeros((4, 2, 3))), r"rows with their labels: fit\(X, y\)"),
        (lambda heads: ilse.fit(np.zeros((4, 2, 3)), [0, 1, 0, 1], hed="last"), "unknown key 'hed'"),
        (lambda heads: ilse.fit(np.zeros((4, 2, 3)), [0, 1, 0, 1], out="x"), "'out' with rows in memory"),
        (lambda heads: ilse.fit("nowhere"), "a table of examples beside the cache"),
        (lambda heads: ilse.fit(heads[0].trained_on.examples.parent, head="wieghted"), "did you mean 'weighted'"),
        (
            lambda heads: ilse.fit(heads[0].trained_on.examples.parent, logger="tensorbord"),
            "did you mean 'tensorboard'",
        ),
        (lambda heads: ilse.fit(heads[0].trained_on.examples.parent, head="auto", logger="csv"), "leave logger out"),
        (lambda heads: ilse.Predictor.from_pretrained("nowhere"), "no such folder"),
        (lambda heads: ilse.Predictor.from_pretrained(Path("nowhere")), "head.safetensors"),
        (lambda heads: ilse.TextClassifier().fit(["a"], ["b"]), "a language model"),
    ],
)
def test_one_clear_error(call: Callable[[Any], Any], message: str, heads: list[ilse.TrainedHead]) -> None:
    with pytest.raises(ilse.UserError, match=message):
        call(heads)


class Seen(Callback):
    """A callback of a user's own."""

    def __init__(self) -> None:
        self.figures: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.figures.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def test_callbacks_and_loggers_see_every_epoch_and_change_nothing(cache: ilse.Cache, tmp_path: Path) -> None:
    seen, logger = Seen(), CSVLogger(tmp_path, name="run")
    watched = ilse.fit(cache, head="mlp", callbacks=[seen], logger=logger, **QUICK)
    assert [set(one) for one in seen.figures] == [{"train_loss", "val_loss", "val_score"}] * 3
    assert watched.facts.val_score == max(one["val_score"] for one in seen.figures)
    logged = pl.read_csv(Path(logger.log_dir) / "metrics.csv")
    assert logged["val_score"].to_list() == pytest.approx([one["val_score"] for one in seen.figures])
    alone = ilse.fit(cache, head="mlp", **QUICK)
    for (name, one), other in zip(alone.state_dict().items(), watched.state_dict().values(), strict=True):
        assert (one == other).all(), name


def test_a_callback_ends_a_fit(cache: ilse.Cache) -> None:
    seen = Seen()
    stop = EarlyStopping("val_loss", patience=1, min_delta=1e9)
    given = {**QUICK, "recipe": {**QUICK["recipe"], "epochs": 20}}
    ilse.fit(cache, head="mlp", callbacks=[seen, stop], **given)
    assert len(seen.figures) == 2


def test_a_solved_head_logs_its_path(cache: ilse.Cache, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="run")
    ilse.fit(cache, head="last", logger=logger, verbose=False)
    logged = pl.read_csv(Path(logger.log_dir) / "metrics.csv")
    assert logged.height > 3
    assert {"train_loss", "val_loss", "val_score"} <= set(logged.columns)


def test_lines_of_a_fit_go_to_logging(cache: ilse.Cache, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    with caplog.at_level(logging.INFO, "ilse"):
        ilse.fit(cache, head="last", **QUICK)
    assert any(line.startswith("last seed 0: validation accuracy") for line in caplog.messages)
    assert capfd.readouterr().err == ""
    ilse.fit(cache, head="last", **{**QUICK, "verbose": True})
    assert "last seed 0: validation accuracy" in capfd.readouterr().err


def test_a_predictor_answers_as_the_head_does(heads: list[ilse.TrainedHead], model: Path, tmp_path: Path) -> None:
    predictor = ilse.Predictor.from_head(heads[2], model, device="cpu")
    told = predictor.predictions(TEXTS[:5])
    assert predictor.predict(TEXTS[:5]) == [one.label for one in told]
    assert predictor.predict(TEXTS[0]) == told[0].label
    assert predictor.labels == ["art", "law", "war"]
    np.testing.assert_array_equal(
        predictor.predict_proba(TEXTS[:5]), np.float32([[*one.probabilities.values()] for one in told])
    )
    vectors = predictor.encode(TEXTS[:5], batch_size=2)
    np.testing.assert_allclose(vectors, predictor.embed(TEXTS[:5]), atol=0.02)  # other batches, in bfloat16
    assert predictor.encode(TEXTS[0]).shape == (predictor.width,)
    assert predictor.encode([]).shape == (0, predictor.width)
    cosines = predictor.similarity(vectors, vectors[:2])
    assert cosines.shape == (5, 2)
    np.testing.assert_allclose(np.diag(cosines), 1, rtol=1e-5)
    np.testing.assert_allclose(predictor.similarity(TEXTS[:5], TEXTS[:2]), cosines, atol=0.02)
    assert predictor.save_pretrained(tmp_path / "saved") == tmp_path / "saved"
    again = ilse.Predictor.from_pretrained(tmp_path / "saved", model, device="cpu")
    assert again.predict(TEXTS[:5]) == predictor.predict(TEXTS[:5])
    assert "pulled" in (tmp_path / "saved" / "README.md").read_text()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("mine")
    with pytest.raises(ilse.UserError, match=r"thesis\.txt"):
        predictor.save_pretrained(tmp_path / "thesis")


def test_the_text_classifier_is_scikit_learns(model: Path) -> None:
    classifier = ilse.TextClassifier(str(model), "last", device="cpu")
    check_estimator(classifier)  # of texts it can check little
    scores = cross_val_score(classifier, np.array(TEXTS), LABELS, cv=2)
    assert scores.mean() > 0.4
    classifier.fit(TEXTS, LABELS)
    assert classifier.layers_ == ("embedding", "block 1", "block 2", "final")
    assert classifier.predict_proba(TEXTS[:4]).shape == (4, 3)
    assert (pickle.loads(pickle.dumps(classifier)).predict(TEXTS[:4]) == classifier.predict(TEXTS[:4])).all()
    with pytest.raises(ilse.UserError, match=r"text 1 \(from 0\)"):
        classifier.predict(["a", 3])


def test_a_file_that_hides_ours_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_ours()
    for name in [name for name in sys.modules if name.split(".")[0] == "pipeline"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "pipeline.py").write_text("raise RuntimeError('not to be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ilse.UserError, match=r"(?s)which hides it.*rename pipeline\.py"):
        require_ours()
