"""Heads over the caches of two models: what they read, what they learn, and when the caches are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from click.testing import CliRunner
from torch.nn import functional

import trainer.stages.train
from ilse.cli import main
from ilse.core.errors import UserError
from pipeline.store import Cache, open_cache
from tests.trainer.conftest import DIM, LABELS, LAYERS, TELLING, Made, write_cache, write_task
from trainer.artifacts.artifact import load_head
from trainer.config import TrainParams
from trainer.controls.config import ControlParams
from trainer.data.joined import JoinedCaches, open_caches
from trainer.data.sources import Source, short_names
from trainer.data.task import Task, open_task
from trainer.fitting.assembly import head_of, objective_of
from trainer.fitting.fit import fit
from trainer.fitting.progress import fit_key
from trainer.heads import HEADS, JoinedHead, build_head, head_config
from trainer.library import fit as fit_head
from trainer.report import report
from trainer.search.candidates import CANDIDATES, fitting
from trainer.stages.analyse import analyse
from trainer.stages.control import control
from trainer.stages.evaluate import evaluate
from trainer.stages.train import train
from trainer.treatment import Treatment, TreatmentOptions

NARROW = 5
"""Width of the second model's rows."""
SECOND = ("embeddings", "block 0")


@dataclass(frozen=True)
class Two:
    """A task with two caches of its texts."""

    made: Made
    second: Path
    values: dict[str, np.ndarray]
    """Text id → its [layers, dim] in the second cache."""

    @property
    def caches(self) -> list[str]:
        return [str(self.made.cache), str(self.second)]

    def task(self) -> Task:
        return open_task(open_caches(self.caches), self.made.examples)


def second_cache(made: Made, path: Path, ids: list[str] | None = None, **capture: object) -> dict[str, np.ndarray]:
    """Another model's rows of the same texts, in the order of `ids`: by default another one than the first cache's."""
    ids = sorted(made.values) if ids is None else ids
    values = np.random.default_rng(7).normal(size=(len(ids), len(SECOND), NARROW)).astype(np.float32)
    write_cache(path, ids, values, **{"layers": SECOND, "dim": NARROW, "model": {"sha256": "22"}, **capture})
    return dict(zip(ids, values, strict=True))


@pytest.fixture
def two(made: Made, tmp_path: Path) -> Two:
    values = second_cache(made, tmp_path / "second.zarr", storage_type="float16", poolings=("mean", "last"))
    return Two(made, tmp_path / "second.zarr", values)


@pytest.fixture
def aligned(made: Made, tmp_path: Path) -> Two:
    """The same with the texts in the first cache's order, so that shards hold the same ones."""
    values = second_cache(made, tmp_path / "second.zarr", open_cache(made.cache).text_ids())
    return Two(made, tmp_path / "second.zarr", values)


def joint_rows(two: Two, ids: list[str]) -> torch.Tensor:
    """By hand: the first model's layers, then the second's with zeros behind them."""
    rows = torch.zeros(len(ids), len(LAYERS) + len(SECOND), DIM)
    for row, text in enumerate(ids):
        for layer in range(len(LAYERS)):
            rows[row, layer] = torch.from_numpy(two.made.values[text][layer])
        for layer in range(len(SECOND)):
            stored = two.values[text][layer].astype(open_storage(two))
            rows[row, len(LAYERS) + layer, :NARROW] = torch.from_numpy(stored.astype(np.float32))
    return rows


def open_storage(two: Two) -> str:
    return open_cache(two.second).header.capture.storage_type


def test_rows_are_each_texts_own_of_both_caches(two: Two) -> None:
    task = two.task()
    rows = task.training_split("train")
    assert torch.equal(rows.x, joint_rows(two, rows.text_ids))
    some = task.training_split("train", [5, 1, 4])
    assert torch.equal(some.x, rows.x[:, [5, 1, 4]])
    assert task.cache.layers == (*(f"tiny#1:{name}" for name in LAYERS), *(f"tiny#2:{name}" for name in SECOND))


def test_several_poolings_stand_side_by_side_in_each_row(made: Made, tmp_path: Path) -> None:
    other = tmp_path / "two"
    other.mkdir()
    first = write_task(other, poolings=("mean", "last"))
    second_cache(first, other / "second.zarr", poolings=("last", "mean"))
    x = open_task(open_caches([first.cache, other / "second.zarr"]), first.examples).training_split(
        "train", [0, 4], ("mean", "last")
    )
    alone = open_task(open_cache(other / "second.zarr"), first.examples)
    assert x.x.shape[2] == 2 * DIM
    assert torch.equal(x.x[:, 1, : 2 * NARROW], alone.training_split("train", [0], ("mean", "last")).x[:, 0])
    assert not x.x[:, 1, 2 * NARROW :].any()


def test_what_is_read_as_it_is_used_is_what_is_held(aligned: Two) -> None:
    task = aligned.task()
    held = task.training_split("train", [1, 3, 4])
    read = task.streamed_split("train", [1, 3, 4], memory_budget=10_000)
    assert len(read.shards()) > 3
    found = torch.cat([x for x, _ in read.chunks(7)])
    assert torch.equal(found, held.x[read.order()])
    epoch = torch.cat([x for x, _ in read.shuffled(16, seed=0)])
    assert sorted(epoch.flatten(1).tolist()) == sorted(held.x.flatten(1).tolist())


def test_caches_whose_shards_differ_are_not_read_as_they_are_used(two: Two) -> None:
    with pytest.raises(UserError, match=r"(?s)train.memory_budget\n.*room for all rows: caches are read together"):
        two.task().streamed_split("train", [0], memory_budget=10_000)


def test_a_head_is_trained_from_rows_that_are_read_as_they_are_used(
    aligned: Two, quick: Callable[..., TrainParams], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.data.inputs.memory_budget", lambda _: 10_000)
    figures = train(quick(seeds=1), "bottleneck", aligned.caches, aligned.made.examples, tmp_path / "m", tmp_path / "r")
    assert figures["val_score"] > 0.6


@pytest.mark.parametrize("change", ["missing", "other"])
def test_caches_of_other_texts_are_refused(made: Made, tmp_path: Path, change: str) -> None:
    ids = sorted(made.values)[1:]
    second_cache(made, tmp_path / "second.zarr", ids if change == "missing" else [*ids, "f" * 32])
    told = "1 texts of the first that the second lacks, and 0" if change == "missing" else "and 1 of the second"
    with pytest.raises(UserError, match=f"(?s)the same texts in both.*{told}"):
        open_caches([made.cache, tmp_path / "second.zarr"])


def test_one_capture_twice_is_refused_and_one_cache_is_itself(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.cache, tmp_path / "copy.zarr")
    with pytest.raises(UserError, match=r"(?s)another model .* in each.*the same capture in both"):
        open_caches([made.cache, tmp_path / "copy.zarr"])
    assert isinstance(open_caches([made.cache]), Cache)


def by_hand(head: JoinedHead, x: torch.Tensor) -> torch.Tensor:
    """A loop over texts, layers and coordinates: each layer by its model's map, a softmax of weights, a readout."""
    state = head.state_dict()
    widths = [DIM] * len(LAYERS) + [NARROW] * len(SECOND)
    owners = [0] * len(LAYERS) + [1] * len(SECOND)
    weights = functional.softmax(state["inner.encoder.scores"], 0)
    out = []
    for row in x:
        total = torch.zeros(NARROW)
        for layer, (width, owner) in enumerate(zip(widths, owners, strict=True)):
            weight, bias = state[f"maps.{owner}.weight"], state[f"maps.{owner}.bias"]
            for k in range(NARROW):
                total[k] += weights[layer] * (sum(weight[k, d] * row[layer, d] for d in range(width)) + bias[k])
        readout = state["inner.readout.weight"], state["inner.readout.bias"]
        out.append(functional.linear(total, *readout))
    return torch.stack(out)


def untrained(two: Two, name: str, quick: Callable[..., TrainParams], **more: object) -> torch.nn.Module:
    params = quick(**more)
    return head_of(params, name, two.task(), objective_of(params, name, two.task()), 0)


def test_a_joint_head_is_the_loop_over_models_and_layers(two: Two, quick: Callable[..., TrainParams]) -> None:
    head = untrained(two, "weighted", quick).eval()
    assert isinstance(head, JoinedHead)
    with torch.no_grad():
        for name, value in head.named_parameters():
            if "encoder" in name:
                value.normal_(generator=torch.Generator().manual_seed(3))
    x = two.task().training_split("train").x[:5] / 100
    with torch.no_grad():
        assert torch.allclose(head(x), by_hand(head, x), atol=1e-4)


def test_side_by_side_heads_read_each_models_own(two: Two, quick: Callable[..., TrainParams]) -> None:
    x = two.task().training_split("train").x
    first, second = x[:, : len(LAYERS)], x[:, len(LAYERS) :, :NARROW]
    expected = {
        "last": torch.cat([first[:, -1], second[:, -1]], 1),
        "mean": torch.cat([first.mean(1), second.mean(1)], 1),
        "max": torch.cat([first.amax(1), second.amax(1)], 1),
        "concat": torch.cat([first[:, 2], first[:, 3], second[:, 0], second[:, 1]], 1),
    }
    for name, rows in expected.items():
        head = untrained(two, name, quick, options={"concat": {"rows": 2}})
        assert torch.equal(head.encoder(x), rows), name
        assert torch.equal(head.encoder(x[:, list(head.layers_read)]), rows), f"{name}, of the layers it reads"
    chosen = untrained(two, "concat", quick, options={"concat": {"rows": [-1, 1]}})
    assert torch.equal(chosen.encoder(x), torch.cat([x[:, 1], x[:, 5, :NARROW]], 1))
    assert untrained(two, "layer", quick, options={"layer": {"layer": 4}}).encoder.width == NARROW


@pytest.mark.parametrize("name", [name for name, kind in HEADS.items() if not kind.side_by_side])
def test_every_head_reads_all_models_and_no_filling(two: Two, quick: Callable[..., TrainParams], name: str) -> None:
    head = untrained(two, name, quick).eval()
    x = torch.randn(3, len(LAYERS) + len(SECOND), DIM, generator=torch.Generator().manual_seed(0))
    filled = x.clone()
    filled[:, len(LAYERS) :, NARROW:] = torch.nan
    with torch.no_grad():
        assert torch.equal(head(filled), head(x))
    copy = build_head(**json.loads(json.dumps(head_config(head))))
    copy.load_state_dict(head.state_dict())
    with torch.no_grad():
        assert torch.equal(copy.eval()(x), head(x))


def test_gradients_are_those_of_finite_differences(two: Two, quick: Callable[..., TrainParams]) -> None:
    head = untrained(two, "bottleneck", quick).double().eval()
    x = torch.randn(2, len(LAYERS) + len(SECOND), DIM, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in head.named_parameters() if name.startswith("maps")]

    def told(rows: torch.Tensor, *maps: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(head, dict(zip(names, maps, strict=True)), (rows,))

    maps = [head.get_parameter(name).detach().clone().requires_grad_() for name in names]
    assert len(maps) == 4
    assert torch.autograd.gradcheck(told, (x, *maps))


def test_layer_norm_and_components_do_not_see_what_fills_a_row_up() -> None:
    x = torch.randn(40, 2, 6, generator=torch.Generator().manual_seed(0))
    x[:, 1, 4:] = 0
    joint = Treatment(TreatmentOptions(layer_norm=True), 2, 6, [6, 4]).fit(x)
    narrow = Treatment(TreatmentOptions(layer_norm=True), 1, 4).fit(x[:, 1:, :4])
    assert torch.allclose(joint(x)[:, 1:, :4], narrow(x[:, 1:, :4]), atol=1e-6)
    assert not joint(x)[:, 1, 4:].any()
    assert torch.allclose(joint.of_layers([1])(x[:, 1:]), joint(x)[:, 1:])
    reduced = Treatment(TreatmentOptions(pca=3), 2, 6, [6, 4]).fit(x)
    alone = Treatment(TreatmentOptions(pca=3), 1, 4).fit(x[:, 1:, :4])
    assert torch.allclose(reduced(x)[:, 1], alone(x[:, 1:, :4])[:, 0], atol=1e-5)
    with pytest.raises(UserError, match="at most 4 components"):
        Treatment(TreatmentOptions(pca=5), 2, 6, [6, 4])


def test_last_is_solved_on_both_last_layers(two: Two, quick: Callable[..., TrainParams], tmp_path: Path) -> None:
    """And to the same weights as a plain solve of the two rows side by side."""
    auto = quick(seeds=1, recipe={"optimizer": "auto"})
    train(auto, "last", two.caches, two.made.examples, tmp_path / "m", tmp_path / "r")
    head = load_head(tmp_path / "m" / "last" / "seed-0")
    assert head.facts.penalty is not None
    assert head.head.layers_read == (3, 5)
    task, places = two.task(), (3, 5)
    flat = []
    for split in ("train", "validation"):
        rows = task.training_split(split, places)
        flat.append((rows, torch.cat([rows.x[:, 0], rows.x[:, 1, :NARROW]], 1)[:, None]))
    treatment = Treatment(TreatmentOptions(), 1, DIM + NARROW).fit(flat[0][1])
    plain = [type(rows)(treatment(x), rows.y, rows.text_ids) for rows, x in flat]
    objective = objective_of(auto, "last", task)
    alone = build_head("last", layers=1, dim=DIM + NARROW, out=len(LABELS))
    found = fit(alone, plain[0], plain[1], objective, auto.recipe_of("last"), 0, "cpu")
    assert torch.allclose(head.head.readout.weight, found.head.readout.weight, atol=1e-4)


def test_best_chooses_among_the_layers_of_both(two: Two, quick: Callable[..., TrainParams], tmp_path: Path) -> None:
    turned = two.caches[::-1]
    train(quick(seeds=1), "best", turned, two.made.examples, tmp_path / "m", tmp_path / "r")
    head = load_head(tmp_path / "m" / "best" / "seed-0")
    assert head.head.layers_read == (len(SECOND) + TELLING,)
    assert head.facts.layer_names[head.head.layers_read[0]] == "tiny#2:block 1"
    assert len(head.facts.layer_scores or []) == len(LAYERS) + len(SECOND)


@pytest.mark.parametrize("name", ["best", "last", "weighted"])
def test_pairs_of_texts_are_compared_by_both_models(
    two: Two, quick: Callable[..., TrainParams], tmp_path: Path, name: str
) -> None:
    table = two.made.table
    turned = table["text_id"].gather([*range(1, table.height), 0])
    table.with_columns(pair_text_id=turned).write_parquet(tmp_path / "pairs.parquet")
    params = quick(seeds=1, embedding=6, recipe={"epochs": 2})
    train(params, name, two.caches, tmp_path / "pairs.parquet", tmp_path / "models", tmp_path / "r")
    head = load_head(tmp_path / "models" / name / "seed-0")
    task = open_task(open_caches(two.caches), tmp_path / "pairs.parquet")
    held = task.training_split("validation", head.head.layers_read)
    x, y = held.batch(torch.arange(len(held.y)))
    with torch.no_grad():
        figures = head.objective.figures(head.objective.predict(head(x)), y)
    assert figures["accuracy"] == pytest.approx(head.facts.val_score, abs=1e-6)
    ids = [text for row in table.filter(split="validation")["text_id"] for text in (row, _pair_of(table, turned, row))]
    assert torch.equal(x, joint_rows(two, ids)[:, list(head.head.layers_read)])


def _pair_of(table: pl.DataFrame, turned: pl.Series, text: str) -> str:
    return str(turned[table["text_id"].to_list().index(text)])


HEADS_TRIED = ["last", "best", "weighted", "set", "exits", "attention"]


def test_evaluation_analysis_and_controls_read_both(
    two: Two, quick: Callable[..., TrainParams], tmp_path: Path
) -> None:
    models, results, examples = tmp_path / "models", tmp_path / "results", two.made.examples
    params = quick(heads=HEADS_TRIED, seeds=1, joined_width=16, recipe={"epochs": 10})
    for name in params.heads:
        train(params, name, two.caches, examples, models, results)
    controls = ControlParams(caches={"one": two.caches[0], "other": two.caches[1]})
    for name in ("mean_probe", "last_probe", "one", "other"):
        control(controls, params, name, two.caches, examples, tmp_path / "none.parquet", models, results)
    facts = json.loads((models / "mean_probe" / "seed-0" / "answers.json").read_text())
    assert facts["model_parameters"] == 2000
    assert facts["parameters"] == (DIM + NARROW + 1) * len(LABELS), "the means of both, side by side"
    table = evaluate([*params.heads, "mean_probe", "last_probe", "one", "other"], two.caches, examples, models, results)
    assert table.filter(pl.col("head") == "weighted")["val_score"].item() > 0.6
    weights = pl.read_csv(results / "weights.csv")
    assert weights.filter(pl.col("head") == "weighted").height == len(LAYERS) + len(SECOND)
    assert {"tiny#1:block 1", "tiny#2:block 0"} <= {*weights["name"]}
    analyse(params, two.caches, examples, models, results)
    for name in ("attribution", "leave_one_out", "cka", "classes", "inputs"):
        text = (results / "analysis" / f"{name}.csv").read_text()
        assert "tiny#1:block 1" in text, name
        assert "tiny#2:block 0" in text, name
    report(results, {}, tmp_path / "report.html", None)
    assert "tiny#2:block 0" in (tmp_path / "report.html").read_text()
    found = pl.read_csv(results / "analysis" / "attribution.csv").filter(pl.col("head") == "weighted")
    assert found.sort("share")["name"].to_list()[-1] == "tiny#1:block 1", "the layer that carries the label"


def test_a_saved_head_is_the_trained_one_and_knows_its_caches(
    two: Two, quick: Callable[..., TrainParams], tmp_path: Path
) -> None:
    trained = fit_head(
        two.made.examples.parent, "weighted", caches=two.caches, recipe={"epochs": 2}, out=tmp_path / "head"
    )
    loaded = load_head(tmp_path / "head")
    assert loaded.facts == trained.facts
    assert loaded.facts.fingerprint == open_caches(two.caches).fingerprint
    assert [source.capture.dim for source in loaded.facts.sources] == [DIM, NARROW]
    x = two.task().training_split("validation").x
    with torch.no_grad():
        assert torch.equal(loaded(x), trained(x))


@pytest.mark.parametrize("change", ["swapped", "one", "changed"])
def test_other_caches_than_it_was_trained_on_are_refused(
    two: Two, quick: Callable[..., TrainParams], tmp_path: Path, change: str
) -> None:
    examples, models, results = two.made.examples, tmp_path / "models", tmp_path / "results"
    train(quick(seeds=1, recipe={"epochs": 1}), "weighted", two.caches, examples, models, results)
    caches = {"swapped": two.caches[::-1], "one": two.caches[:1], "changed": [two.caches[0], str(tmp_path / "third")]}
    second_cache(two.made, tmp_path / "third", template="Title: {text}")
    with pytest.raises(UserError, match=r"the caches, in their order, it was trained on \(tiny .*, then tiny"):
        evaluate(["weighted"], caches[change], examples, models, results)


@pytest.mark.parametrize("change", ["fingerprint", "models", "version", "order"])
def test_an_artifact_that_contradicts_itself_is_refused(
    two: Two, quick: Callable[..., TrainParams], tmp_path: Path, change: str
) -> None:
    fit_head(two.made.examples.parent, "weighted", caches=two.caches, recipe={"epochs": 1}, out=tmp_path / "head")
    file = tmp_path / "head" / "config.json"
    config = json.loads(file.read_text())
    if change == "fingerprint":
        config["facts"]["further"][0]["capture"]["fingerprint"] = "0" * 64
    elif change == "models":
        config["head"]["joined"]["models"][1]["dim"] = 10**9
    elif change == "version":
        config["format_version"] = 4
    else:
        config["facts"]["further"][0]["capture"], config["capture"] = (
            config["capture"], config["facts"]["further"][0]["capture"],
        )  # fmt: skip
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"head {tmp_path / 'head'}"):
        load_head(tmp_path / "head")


def test_a_head_that_reads_tokens_or_one_model_alone_is_refused(two: Two, quick: Callable[..., TrainParams]) -> None:
    with pytest.raises(UserError, match=r"(?s)head 'mean', tokens.*one cache, whose tokens it reads.*2 caches"):
        untrained(two, "mean", quick, options={"mean": {"tokens": {}}})
    with pytest.raises(UserError, match=r"(?s)reads layers of each of them.*one that reads no layer of cache 1"):
        untrained(two, "mlp", quick, options={"mlp": {"fusion": "last"}})
    with pytest.raises(UserError, match=r"(?s)head 'exits' over 2 caches.*6 that share nothing.*training to joint"):
        untrained(two, "exits", quick, options={"exits": {"training": "separate"}})


def test_training_that_was_cut_short_goes_on_to_the_same_head(
    two: Two, quick: Callable[..., TrainParams], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, examples = quick(seeds=1), two.made.examples
    train(params, "weighted", two.caches, examples, tmp_path / "whole", tmp_path / "r")
    monkeypatch.setattr("trainer.fitting.progress.SAVE_SECONDS", 0.0)
    real, calls = trainer.stages.train.fit, []

    def cut_short(*given: object, **more: object) -> object:
        def watch(epoch: int, _score: float) -> bool:
            calls.append(epoch)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return False

        return real(*given[:-1], watch, **more)

    monkeypatch.setattr(trainer.stages.train, "fit", cut_short)
    with pytest.raises(KeyboardInterrupt):
        train(params, "weighted", two.caches, examples, tmp_path / "cut", tmp_path / "r")
    train(params, "weighted", two.caches, examples, tmp_path / "cut", tmp_path / "r")
    assert len(calls) > 3
    first, second = (load_head(tmp_path / name / "weighted" / "seed-0").state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_width_of_the_maps_is_a_parameter(two: Two, quick: Callable[..., TrainParams]) -> None:
    head = untrained(two, "weighted", quick, joined_width=7)
    assert [tuple(part.weight.shape) for part in head.maps] == [(7, DIM), (7, NARROW)]


def test_names_of_layers_tell_models_apart(made: Made, tmp_path: Path) -> None:
    capture = open_cache(made.cache).header.capture
    named = [Source(capture, name, 1) for name in ("org/small", "large.gguf", "other/small", "small")]
    assert short_names(named) == ["small#1", "large.gguf", "small#2", "small#3"]


def test_truncated_texts_are_those_of_either(made: Made, tmp_path: Path) -> None:
    second_cache(made, tmp_path / "second.zarr")
    joined = open_caches([made.cache, tmp_path / "second.zarr"])
    assert isinstance(joined, JoinedCaches)
    joined.parts[1].truncated = lambda: np.arange(len(made.values)) == 3  # type: ignore[method-assign]
    third = sorted(made.values)[3]
    assert [joined.text_ids()[row] for row in np.flatnonzero(joined.truncated())] == [third]


def test_the_option_goes_before_the_parameter(two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    section = {"seeds": 1, "device": "cpu", "caches": two.caches[::-1]}
    Path("params.yaml").write_text(yaml.safe_dump({"train": section}))
    told = []
    monkeypatch.setattr(trainer.stages.train, "train", lambda _params, _head, places, *_others: told.append(places))
    both = [option for cache in two.caches for option in ("--cache", cache)]
    for options in ([], both, ["--cache", "data/cache.zarr"]):
        result = CliRunner().invoke(main, ["train", "last", *options])
        assert result.exit_code == 0, result.output
    Path("params.yaml").write_text(yaml.safe_dump({"train": {"seeds": 1}}))
    CliRunner().invoke(main, ["train", "last"])
    assert told == [two.caches[::-1], two.caches, ["data/cache.zarr"], ["data/cache.zarr"]]


def test_auto_leaves_out_what_reads_tokens_and_says_why(two: Two, quick: Callable[..., TrainParams]) -> None:
    kept, lines = fitting(CANDIDATES, two.task(), quick(), 0)
    assert {"last", "bottleneck", "set"} <= {candidate.head for candidate in kept}
    assert not any(candidate.tokens for candidate in kept)
    assert any("of several caches pooled rows are read" in line for line in lines)


def test_another_width_of_the_maps_is_another_fit(two: Two, quick: Callable[..., TrainParams]) -> None:
    task = two.task()
    assert fit_key(task, quick(joined_width=4), {}) != fit_key(task, quick(), {})
    alone = open_task(open_cache(two.made.cache), two.made.examples)
    assert fit_key(alone, quick(joined_width=4), {}) == fit_key(alone, quick(), {})
