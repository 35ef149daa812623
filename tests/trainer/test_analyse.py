"""The analyse stage: its tables by hand from the saved heads, that the test split is not read, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from ilse.core.errors import UserError
from ilse.core.files.ownership import ANALYSIS
from pipeline.store import open_cache
from tests.trainer.conftest import LABELS, LAYERS, TELLING, write_task
from tests.trainer.test_kinds_of_tasks import KINDS, made
from trainer.artifacts.artifact import load_head
from trainer.config import TrainParams
from trainer.data.task import Task, open_task
from trainer.stages.analyse import TABLES, analyse
from trainer.stages.train import train

HEADS = ["last", "best", "weighted", "attention", "gated", "exits", "concat"]
RECIPE = {"epochs": 5, "batch_size": 16, "learning_rate": 0.02, "optimizer": "adamw", "folds": None}
PARAMS = TrainParams.model_validate(
    {"seeds": 2, "device": "cpu", "heads": HEADS, "recipe": RECIPE, "options": {"concat": {"rows": [0, 2]}}}
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task, its trained heads and their analyses; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    write_task(folder)
    for name in HEADS:
        train(PARAMS, name, *files(folder), folder / "results")
    run(folder)
    return folder


def files(folder: Path) -> tuple[Path, Path, Path]:
    return folder / "cache.zarr", folder / "examples.parquet", folder / "models"


def run(folder: Path, params: TrainParams = PARAMS, results: str = "results") -> None:
    analyse(params, *files(folder), folder / results)
    assert ANALYSIS.foreign(folder / results / "analysis") is None


def table_of(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_csv(folder / "results" / "analysis" / f"{name}.csv")


def rows_of(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    held = open_task(open_cache(folder / "cache.zarr"), folder / "examples.parquet").training_split("validation")
    return held.x, held.y


def test_tables_and_their_columns(trained: Path) -> None:
    columns = {
        "leave_one_out": "head,layer,name,drop_points,low,high",
        "attribution": "head,layer,name,share,low,high",
        "entropy": "head,entropy,low,high,untrained",
        "inputs": "head,layer,name,mean,low,high",
        "cka": "layer_a,layer_b,name_a,name_b,cka",
        "classes": "label,layer,name,recall,rows",
    }
    folder = trained / "results" / "analysis"
    assert {path.name for path in folder.iterdir()} == {*(f"{name}.csv" for name in columns), "caveats.json"}
    for name, header in columns.items():
        assert (folder / f"{name}.csv").read_text().splitlines()[0] == header
    caveats = json.loads((folder / "caveats.json").read_text())
    assert caveats == {name: module.CAVEAT for name, module in TABLES.items()}
    assert all(text.endswith(".") and "\n" not in text for text in caveats.values())


def test_heads_of_several_layers_have_each_of_them_once(trained: Path) -> None:
    for name in ("leave_one_out", "attribution"):
        found = table_of(trained, name)
        of_all = [(head, layer, LAYERS[layer]) for head in HEADS[2:-1] for layer in range(len(LAYERS))]
        assert found.select("head", "layer", "name").rows() == [
            *of_all,
            *(("concat", layer, LAYERS[layer]) for layer in (0, 2)),
        ]
        assert (found["low"] <= found["high"]).all()


def test_the_telling_layer_matters_most(trained: Path) -> None:
    for name, figure in (("leave_one_out", "drop_points"), ("attribution", "share"), ("classes", "recall")):
        mean = table_of(trained, name).group_by("layer").agg(pl.col(figure).mean()).sort(figure)
        assert mean["layer"][-1] == TELLING


def test_seeds_make_a_mean_and_a_range(trained: Path) -> None:
    """By hand: each seed's head with the layer's standardised row at 0."""
    x, y = rows_of(trained)
    of_seed = []
    for seed in range(2):
        head = load_head(trained / "models" / "weighted" / f"seed-{seed}")
        z = head.treatment(x)
        with torch.no_grad():
            whole = (head.head(z).argmax(1) == y).double().mean()
            z[:, TELLING] = 0
            of_seed.append(100 * float(whole - (head.head(z).argmax(1) == y).double().mean()))
    found = table_of(trained, "leave_one_out").filter(head="weighted", layer=TELLING).row(0, named=True)
    assert found["drop_points"] == pytest.approx(np.mean(of_seed), abs=1e-5)
    assert (found["low"], found["high"]) == pytest.approx((min(of_seed), max(of_seed)), abs=1e-5)


def test_shares_sum_to_one(trained: Path) -> None:
    sums = table_of(trained, "attribution").group_by("head").agg(pl.col("share").sum())
    assert sums["share"].to_list() == pytest.approx([1.0] * 5, abs=1e-5)
    entropy = table_of(trained, "entropy")
    assert entropy["head"].to_list() == HEADS[2:]
    assert entropy.select((pl.all().exclude("head") >= 0) & (pl.all().exclude("head") <= 1)).to_numpy().all()


def test_weights_by_input_are_those_of_attention_and_gate(trained: Path) -> None:
    found = table_of(trained, "inputs")
    assert found["head"].unique(maintain_order=True).to_list() == ["attention", "gated"]
    x, _ = rows_of(trained)
    heads = [load_head(trained / "models" / "gated" / f"seed-{seed}") for seed in range(2)]
    weights = torch.cat([head.head.input_weights(head.treatment(x)) for head in heads])  # type: ignore[misc]
    for row in found.filter(head="gated").to_dicts():
        values = weights[:, row["layer"]].numpy()
        expected = (values.mean(), *np.quantile(values, (0.1, 0.9)))
        assert (row["mean"], row["low"], row["high"]) == pytest.approx(expected, abs=1e-5)


def test_recall_adds_up_to_the_accuracy_that_best_chose_by(trained: Path) -> None:
    """The probes are those of seed 0 once more; each label's recall counts as often as the label is there."""
    found = table_of(trained, "classes")
    assert found["label"].unique(maintain_order=True).to_list() == list(LABELS)
    scores = load_head(trained / "models" / "best" / "seed-0").facts.layer_scores
    accuracy = found.group_by("layer").agg((pl.col("recall") * pl.col("rows")).sum() / pl.col("rows").sum())
    assert accuracy.sort("layer")["recall"].to_list() == pytest.approx(scores, abs=1e-5)
    _, y = rows_of(trained)
    assert found.filter(layer=0)["rows"].to_list() == y.bincount().tolist()


def test_a_label_without_validation_rows_is_left_out(trained: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(trained, tmp_path / "project"))
    examples = pl.read_parquet(project / "examples.parquet")
    examples.filter((pl.col("split") != "validation") | (pl.col("label") != "law")).write_parquet(
        project / "examples.parquet"
    )
    run(project)
    assert table_of(project, "classes")["label"].unique(maintain_order=True).to_list() == ["art", "war"]


def test_the_test_split_is_not_read(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Path(shutil.copytree(trained, tmp_path / "project"))
    examples = pl.read_parquet(project / "examples.parquet")
    examples.filter(pl.col("split") != "test").write_parquet(project / "examples.parquet")
    for door in ("held_out", "held_out_streamed"):
        monkeypatch.delattr(Task, door)
    run(project, results="again")
    for path in (trained / "results" / "analysis").iterdir():
        assert (project / "again" / "analysis" / path.name).read_bytes() == path.read_bytes()


def test_rows_that_do_not_fit_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_task(tmp_path, {"train": 60, "validation": 200, "test": 1})
    train(PARAMS, "attention", *files(tmp_path), tmp_path / "results")
    run(tmp_path, PARAMS.model_copy(update={"heads": ["attention"]}))
    whole = {name: table_of(tmp_path, name).rows() for name in ("leave_one_out", "attribution", "entropy", "inputs")}
    for door in ("training_split", "held_out"):
        monkeypatch.delattr(Task, door)
    run(tmp_path, PARAMS.model_copy(update={"heads": ["attention"], "memory_budget": 1.1e-5}))
    for name, rows in whole.items():
        for one, other in zip(rows, table_of(tmp_path, name).rows(), strict=True):
            numbers = [[value for value in row if not isinstance(value, str)] for row in (one, other)]
            assert numbers[0] == pytest.approx(numbers[1], abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task(tmp_path: Path, kind: str) -> None:
    changes, _, _, _ = KINDS[kind]
    project = made(tmp_path, kind)
    params = project.params(["last", "bottleneck"], **changes)
    for head in params.heads:
        train(params, head, *files(tmp_path), tmp_path / "results")
    run(tmp_path, params)
    for name, figure in (("leave_one_out", "drop_points"), ("attribution", "share")):
        found = table_of(tmp_path, name)
        assert found["head"].unique().to_list() == ["bottleneck"]
        assert found["layer"][found[figure].arg_max()] == TELLING
    with (tmp_path / "results" / "analysis" / "classes.csv").open() as file:
        assert (len(list(csv.DictReader(file))) > 0) == (kind in ("pairs", "ordinal"))


@pytest.mark.parametrize(
    ("heads", "change", "message"),
    [
        (["cayley"], None, r"head .*cayley\n(.|\n)*run 'ilse train cayley' first"),
        (["weighted"], {"template": "other {text}"}, r"the capture it was trained on(.|\n)*train the head again"),
    ],
)
def test_what_is_refused(
    trained: Path, tmp_path: Path, heads: list[str], change: dict[str, Any] | None, message: str
) -> None:
    project = Path(shutil.copytree(trained, tmp_path / "project"))
    if change:
        shutil.rmtree(project / "cache.zarr")
        write_task(project, **change)
    before = table_of(project, "attribution")
    with pytest.raises(UserError, match=message):
        run(project, PARAMS.model_copy(update={"heads": heads}))
    assert table_of(project, "attribution").equals(before), "the old tables stay"
