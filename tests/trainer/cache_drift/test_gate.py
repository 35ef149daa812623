"""A head on two caches: how many of its answers change, its score, and the gate, from Python and as a command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from ilse.cli import main
from ilse.core.errors import UserError
from pipeline.store import open_cache
from tests.trainer.conftest import DIM, LABELS, LAYERS, Made, write_cache, write_task
from tests.trainer.test_kinds_of_tasks import made as made_of_kind
from tests.trainer.token_task import write_token_task, write_tokens
from trainer import drift, fit
from trainer.artifacts.artifact import load_head
from trainer.cache_drift.gate import least_examples
from trainer.results.intervals import wilson

Array = np.ndarray
COUNTS = {"train": 150, "validation": 500, "test": 5}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A task with a head, a copy of its cache in int8, and one with noise of a tenth of each row; not to be changed."""
    folder = tmp_path_factory.mktemp("gate")
    made = write_task(folder, COUNTS)
    fit(folder, "best", out=folder / "head", recipe={"folds": None, "refit": False})
    ids = list(made.values)
    values = np.stack([made.values[one] for one in ids])
    write_cache(folder / "int8.zarr", ids, values, storage_type="int8")
    noise = np.random.default_rng(5).normal(size=values.shape)
    noise *= 0.1 * np.linalg.norm(values, axis=2, keepdims=True) / np.linalg.norm(noise, axis=2, keepdims=True)
    # A spread that a head of this model reads, and a mean that dwarfs it, as massive activations do.
    write_cache(folder / "noisy.zarr", ids, (values + noise).astype(np.float32))
    return made


def predicted(folder: Path, cache: Path, text_ids: list[str]) -> list[int]:
    """By hand: the head on each text's own row."""
    head, opened = load_head(folder), open_cache(cache)
    place = {text: row for row, text in enumerate(opened.text_ids())}
    (layer,) = head.head.layers_read
    readout, treatment = head.head.readout, head.treatment.standardise
    weight, bias = readout.weight.detach().numpy(), readout.bias.detach().numpy()
    rows = opened.gather(np.array([place[one] for one in text_ids]))[:, layer]
    treated = (rows - treatment.mean[0].numpy()) / treatment.scale[0].numpy()
    answers: list[int] = (treated @ weight.reshape(len(LABELS), DIM).T + bias.reshape(-1)).argmax(1).tolist()
    return answers


def test_the_figures_are_those_of_the_head_s_own_answers(project: Made) -> None:
    folder = project.cache.parent
    found = drift(project.cache, folder / "noisy.zarr", head=folder / "head", examples=project.examples)
    validation = project.table.filter(pl.col("split") == "validation")
    y = np.array(validation["label_index"].to_list())
    a, b = (np.array(predicted(folder / "head", folder / c, validation["text_id"].to_list()))
            for c in ("cache.zarr", "noisy.zarr"))  # fmt: skip
    rows = {row["metric"]: row for row in found.table.filter(pl.col("layer").is_null()).iter_rows(named=True)}
    assert rows["answers_changed"]["value"] == (a != b).mean() > 0
    assert (rows["answers_changed"]["low"], rows["answers_changed"]["high"]) == wilson(float((a != b).mean()), 500)
    assert rows["accuracy_a"]["value"] == (a == y).mean()
    assert rows["accuracy_b"]["value"] == (b == y).mean()
    assert rows["accuracy_change"]["value"] == pytest.approx((b == y).mean() - (a == y).mean())
    assert rows["accuracy_change"]["low"] < rows["accuracy_change"]["value"] < rows["accuracy_change"]["high"]
    assert found.passed is None
    assert "p_not_within" not in rows


def test_an_int8_copy_passes_and_a_noisy_one_does_not(project: Made) -> None:
    folder = project.cache.parent
    told = [
        drift(project.cache, folder / f"{b}.zarr", head=folder / "head", examples=project.examples, tolerance=1.5)
        for b in ("int8", "noisy")
    ]
    assert [one.passed for one in told] == [True, False]
    assert "within 1.5 points at an error rate of 5%: yes" in str(told[0])
    assert "within 1.5 points at an error rate of 5%: no, not shown" in str(told[1])


def test_too_few_examples_show_nothing_and_are_told(project: Made) -> None:
    """Though nothing changed: the gate says how many examples it takes."""
    folder = project.cache.parent
    found = drift(project.cache, project.cache, head=folder / "head", examples=project.examples, tolerance=0.5)
    assert found.passed is False
    assert "take 598 examples even where no answer changes, 500 are here" in str(found)
    assert (least_examples(0.5), least_examples(1.0)) == (598, 299)
    assert drift(project.cache, project.cache, head=folder / "head", examples=project.examples, tolerance=1).passed


def test_answers_to_all_texts_need_no_examples(project: Made) -> None:
    folder = project.cache.parent
    found = drift(project.cache, folder / "noisy.zarr", head=folder / "head")
    ids = open_cache(project.cache).text_ids()
    a, b = (np.array(predicted(folder / "head", folder / c, ids)) for c in ("cache.zarr", "noisy.zarr"))
    assert f"{int((a != b).sum())} of {len(ids)} texts get another answer" in str(found)
    assert found.score is None


def test_test_labels_change_nothing(project: Made, tmp_path: Path) -> None:
    folder = project.cache.parent
    wrong = project.table.with_columns(
        label_index=pl.when(pl.col("split") == "test").then(0).otherwise("label_index"),
        label=pl.when(pl.col("split") == "test").then(pl.lit(LABELS[0])).otherwise("label"),
    )
    wrong.write_parquet(tmp_path / "wrong.parquet")
    told = [
        drift(project.cache, folder / "noisy.zarr", head=folder / "head", examples=e)
        for e in (project.examples, tmp_path / "wrong.parquet")
    ]
    assert told[0].table.equals(told[1].table)


def test_a_head_that_may_know_the_examples_is_marked(tmp_path: Path) -> None:
    made = write_task(tmp_path, {"train": 60, "validation": 60})
    fit(tmp_path, "last", out=tmp_path / "head")
    assert "may have been trained on these examples" in str(
        drift(made.cache, made.cache, head=tmp_path / "head", examples=made.examples)
    )


@pytest.mark.parametrize("kind", ["multi_label", "regression", "ordinal", "similarity"])
def test_other_objectives_have_their_own_score(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.statistics.estimates.RESAMPLES", 40)
    project = made_of_kind(tmp_path, kind)
    head = "mean" if kind == "similarity" else "best"
    fit(tmp_path, head, out=tmp_path / "head", recipe={"epochs": 3, "optimizer": "adamw", "folds": None}, embedding=4)
    cache = open_cache(project.folder / "cache.zarr")
    noise = np.random.default_rng(0).normal(size=(cache.header.texts, len(LAYERS), DIM)) * 2
    values = cache.gather(np.arange(cache.header.texts))
    write_cache(tmp_path / "b.zarr", cache.text_ids(), (values + noise).astype(np.float32))
    given: dict[str, Any] = {"head": tmp_path / "head", "examples": tmp_path / "examples.parquet", "tolerance": 5}
    same, other = (drift(cache.path, b, **given) for b in (cache.path, tmp_path / "b.zarr"))
    assert same.passed is True
    assert other.passed is False
    assert other.score is not None
    assert other.score.low < other.score.change < other.score.high
    metrics = set(other.table["metric"].to_list())
    assert ("answers_changed" in metrics) == (kind in ("multi_label", "ordinal"))
    assert ("answers_moved" in metrics) == (kind in ("regression", "similarity"))
    if kind == "similarity":
        with pytest.raises(UserError, match="which texts are compared"):
            drift(cache.path, cache.path, head=tmp_path / "head")


def test_a_head_that_reads_tokens(tmp_path: Path) -> None:
    made = write_token_task(tmp_path)
    fit(tmp_path, "last", out=tmp_path / "head", options={"tokens": {"rank": 4}}, recipe={"epochs": 2, "folds": None})
    ids = list(made.values)
    noisy = [made.values[one] + np.float32(500) for one in ids]
    write_tokens(tmp_path / "b.zarr", ids, noisy)
    given: dict[str, Any] = {"head": tmp_path / "head"}
    same, other = (drift(made.cache, b, **given).table for b in (made.cache, tmp_path / "b.zarr"))
    share = [t.filter(pl.col("metric") == "answers_changed")["value"].item() for t in (same, other)]
    assert share[0] == 0 < share[1]
    write_tokens(tmp_path / "none.zarr", ids, noisy, token_states=False)
    with pytest.raises(UserError, match="the token states that the head reads"):
        drift(made.cache, tmp_path / "none.zarr", **given)


def test_what_does_not_belong_together_is_refused(project: Made, tmp_path: Path) -> None:
    folder, ids = project.cache.parent, list(project.values)
    head, values = folder / "head", np.stack(list(project.values.values()))
    write_cache(tmp_path / "other.zarr", ids, values, template="read {text}")
    write_cache(tmp_path / "wide.zarr", ids, np.concatenate([values, values], 2), dim=2 * DIM)
    other = project.table.with_columns(label=pl.col("label").str.to_uppercase())
    other.write_parquet(tmp_path / "other.parquet")
    foreign = project.table.with_columns(text_id=pl.col("text_id").str.replace("^0", "f"))
    foreign.write_parquet(tmp_path / "foreign.parquet")
    cases: list[tuple[str, dict[str, Any]]] = [
        ("one of the two caches to be of the capture", {"a": tmp_path / "other.zarr", "b": tmp_path / "other.zarr"}),
        (f"rows of width {DIM}", {"b": tmp_path / "wide.zarr"}),
        ("the labels it was trained on", {"examples": tmp_path / "other.parquet"}),
        ("the texts of all examples", {"examples": tmp_path / "foreign.parquet"}),
        ("points above 0 and below 100", {"examples": project.examples, "tolerance": 0}),
        ("a head and examples with labels", {"tolerance": 1}),
        ("a head, whose answers they judge", {"head": None, "examples": project.examples}),
        ("config.json", {"head": tmp_path}),
    ]
    for message, changes in cases:
        given = {"a": project.cache, "b": project.cache, "head": head, **changes}
        with pytest.raises(UserError, match=message):
            drift(given.pop("a"), given.pop("b"), **given)


def ilse(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["layers", *map(str, arguments)])


@pytest.mark.parametrize(("b", "code"), [("int8", 0), ("noisy", 1)])
def test_the_command_ends_with_1_where_the_gate_says_no(b: str, code: int, project: Made, tmp_path: Path) -> None:
    folder, out = project.cache.parent, tmp_path / "drift.csv"
    done = ilse(
        "--compare", project.cache, folder / f"{b}.zarr", "--head", folder / "head",
        "--examples", project.examples, "--tolerance", 1.5, "--out", out,
    )  # fmt: skip
    assert done.exit_code == code, done.output
    assert done.stderr == ""
    assert sum(line.split()[1:2] == ["embeddings"] for line in done.stdout.splitlines()) == 1
    table = pl.read_csv(out)
    assert set(table["metric"]) >= {"cka", "neighbours", "row_error", "answers_changed", "accuracy_change"}
    assert (table.filter(pl.col("metric") == "p_not_within")["value"].item() <= 0.05) == (code == 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--head", "x"), "--compare A B beside --head"),
        (("--tolerance", 1), "--compare A B beside --tolerance"),
        (("--compare", "x", "y", "--suggest"), "leave --suggest out"),
        (("--compare", "x", "y", "--cache", "z"), "leave --cache out"),
    ],
)
def test_options_of_the_other_way_to_call_it_are_refused(arguments: tuple[object, ...], said: str) -> None:
    done = ilse(*arguments, "--out", "t.csv")
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_gate_has_an_answer_where_it_has_a_tolerance(project: Made) -> None:
    folder = project.cache.parent
    found = drift(project.cache, project.cache, head=folder / "head", examples=project.examples, tolerance=5)
    assert found.score is not None
    assert replace(found.score, p=0.0501).passed is False
    assert replace(found.score, p=None).passed is None
