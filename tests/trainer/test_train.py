"""The train stage: what it writes, and what it leaves alone when it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl
import pytest
import torch

import trainer.data.inputs
import trainer.stages.train
from ilse.core.errors import UserError
from ilse.core.params import validate
from pipeline.store import open_cache
from tests.trainer.conftest import DIM, LABELS, LAYERS, TELLING, Made, write_cache, write_task
from trainer.artifacts.artifact import load_head
from trainer.config import TrainParams
from trainer.data.subset import draw_share, draw_shots
from trainer.data.task import open_task
from trainer.rows.in_memory import Rows
from trainer.stages.train import HeadTrainer, train

Params = Callable[..., TrainParams]


def run(params: TrainParams, name: str, made: Made) -> Path:
    """Trains into the folder of the task, and returns that folder."""
    folder = made.cache.parent
    train(params, name, made.cache, made.examples, folder / "models", folder / "results")
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["last", "best", "weighted", "cayley"])
def test_what_is_written(made: Made, quick: Params, name: str) -> None:
    params = quick(options={name: {"recipe": {"epochs": 3}}})
    folder = run(params, name, made)
    heads = [load_head(folder / "models" / name / f"seed-{seed}") for seed in range(2)]
    assert sorted(path.name for path in (folder / "models" / name).iterdir()) == ["seed-0", "seed-1"]
    assert sorted(path.name for path in (folder / "results").iterdir()) == ["curves", "train"]

    curve = pl.read_csv(folder / "results" / "curves" / f"{name}.csv")
    assert curve.columns == ["head", "seed", "epoch", "train_loss", "val_loss", "val_score"]
    assert curve.select("head", "seed", "epoch").rows() == [(name, s, e) for s in range(2) for e in range(3)]
    figures = json.loads((folder / "results" / "train" / f"{name}.json").read_text())
    assert figures.keys() == {"metric", "val_score", "val_loss", "learning_rate", "train_seconds", "seeds"}
    assert figures["metric"] == "accuracy"
    assert figures["val_score"] == median(head.facts.val_score for head in heads)
    assert figures["seeds"] == 2

    for seed, head in enumerate(heads):
        facts = head.facts
        assert (facts.seed, facts.labels, facts.layer_names) == (seed, list(LABELS), list(LAYERS))
        assert facts.fingerprint == open_cache(made.cache).fingerprint
        assert facts.recipe == params.recipe_of(name).model_dump() | {"label_smoothing": 0.1}  # as it was settled
        at_best = curve.filter(seed=seed, epoch=facts.best_epoch).row(0, named=True)
        assert (facts.val_score, facts.val_loss) == pytest.approx((at_best["val_score"], at_best["val_loss"]))
        assert facts.val_score == curve.filter(seed=seed)["val_score"].max()
        assert (facts.layer_scores is not None) == (name == "best")


@pytest.mark.parametrize("name", ["last", "best", "mlp"])
@pytest.mark.parametrize("standardise", [True, False])
def test_the_saved_head_does_on_raw_rows_what_training_saw(
    made: Made, quick: Params, name: str, standardise: bool
) -> None:
    folder = run(quick(seeds=1, recipe={"standardise": standardise}), name, made)
    head = load_head(folder / "models" / name / "seed-0")
    rows = open_task(open_cache(made.cache), made.examples).training_split("validation", head.head.layers_read)
    right = (head(rows.x).argmax(1) == rows.y).double().mean()
    assert head.facts.val_score == pytest.approx(float(right))
    if name == "best":
        assert head.head.layers_read == (TELLING,)
        assert head.treatment.standardise.mean.shape == (1, DIM)


def test_statistics_are_of_the_training_rows_alone(made: Made, quick: Params) -> None:
    folder = run(quick(seeds=1), "mean", made)
    head = load_head(folder / "models" / "mean" / "seed-0")
    ids = made.table.filter(split="train")["text_id"]
    values = np.stack([made.values[text_id] for text_id in ids]).astype(np.float64)
    np.testing.assert_allclose(head.treatment.standardise.mean, values.mean(0), rtol=1e-4)
    np.testing.assert_allclose(head.treatment.standardise.scale, values.std(0), rtol=1e-4)


def test_training_again_gives_the_same_files(made: Made, quick: Params) -> None:
    folder = run(quick(), "mlp", made)
    first = files_of(folder / "models"), (folder / "results/curves/mlp.csv").read_bytes()
    run(quick(), "mlp", made)
    weights = [name for name in first[0] if name.endswith(".safetensors")]
    assert {name: files_of(folder / "models")[name] for name in weights} == {name: first[0][name] for name in weights}
    assert (folder / "results/curves/mlp.csv").read_bytes() == first[1]
    assert len({first[0][name] for name in weights}) == 2


def test_fewer_seeds_leave_no_older_ones(made: Made, quick: Params) -> None:
    run(quick(seeds=3), "last", made)
    folder = run(quick(seeds=1), "last", made)
    assert [path.name for path in (folder / "models" / "last").iterdir()] == ["seed-0"]


def test_no_test_label_reaches_training(tmp_path: Path, quick: Params) -> None:
    weights = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made = write_task(tmp_path / name)
        if name == "b":
            others = {LABELS[0]: LABELS[1], LABELS[1]: LABELS[2], LABELS[2]: LABELS[0]}
            moved = pl.when(split="test").then(pl.col("label").replace(others)).otherwise("label").alias("label")
            index = moved.replace_strict({label: i for i, label in enumerate(LABELS)}).alias("label_index")
            made.table.with_columns(moved, index).write_parquet(made.examples)
        folder = run(quick(seeds=1), "best", made)
        weights.append((folder / "models" / "best" / "seed-0" / "head.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_the_learning_rate_is_searched_once_on_validation(made: Made, quick: Params) -> None:
    """What is kept equals training at the rate that alone, of the tried ones, does best with seed 0."""
    rates = [1e-6, 0.02, 1e-5]
    files, scores = {}, {}
    for rate in rates:
        folder = run(quick(recipe={"learning_rate": rate}), "last", made)
        files[rate] = [(folder / "models" / "last" / f"seed-{n}" / "head.safetensors").read_bytes() for n in range(2)]
        scores[rate] = load_head(folder / "models" / "last" / "seed-0").facts.val_score
    chosen = max(rates, key=lambda rate: scores[rate])
    folder = run(quick(learning_rates=rates), "last", made)
    heads = [folder / "models" / "last" / f"seed-{n}" for n in range(2)]
    assert [(head / "head.safetensors").read_bytes() for head in heads] == files[chosen]
    assert [load_head(head).facts.recipe["learning_rate"] for head in heads] == [chosen, chosen]
    assert json.loads((folder / "results" / "train" / "last.json").read_text())["learning_rate"] == chosen
    assert chosen not in (rates[0], rates[-1])  # neither the first nor the last one by accident


def test_a_failing_run_leaves_the_old_files(made: Made, quick: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(quick(), "last", made)
    before = files_of(folder)
    original, seeds = trainer.stages.train.fit, []

    def failing(*given: object) -> object:
        seeds.append(given[5])
        if len(seeds) == 2:
            raise KeyboardInterrupt
        return original(*given)

    monkeypatch.setattr(trainer.stages.train, "fit", failing)
    with pytest.raises(KeyboardInterrupt):
        run(quick(recipe={"epochs": 1}), "last", made)
    assert seeds == [0, 1]
    after = files_of(folder)
    assert after.keys() - before.keys() == {"models/.unfinished/last/seed-0-at-0.02.safetensors"}
    assert {name: after[name] for name in before} == before


def test_a_diverging_run_writes_nothing(tmp_path: Path, quick: Params) -> None:
    made = write_task(tmp_path)
    ids = list(made.values)
    write_cache(tmp_path / "large.zarr", ids, np.full((len(ids), len(LAYERS), DIM), 3e38, np.float32))
    with pytest.raises(UserError, match=r"loss at epoch 0(.|\n)*train.recipe.standardise"):
        train(
            quick(recipe={"standardise": False}), "mean", tmp_path / "large.zarr", made.examples,
            tmp_path / "models", tmp_path / "results",
        )  # fmt: skip
    assert not list((tmp_path / "models").iterdir())
    assert not (tmp_path / "results").exists()


def test_an_unknown_head_is_refused_with_the_nearest(made: Made, quick: Params) -> None:
    with pytest.raises(UserError, match=r"unknown head 'cayly'(.|\n)*did you mean 'cayley'\?"):
        run(quick(), "cayly", made)
    assert not (made.cache.parent / "models").exists()


def test_one_label_is_enough_to_run_and_a_single_example_too(tmp_path: Path, quick: Params) -> None:
    made = write_task(tmp_path, {"train": 1, "validation": 1, "test": 1})
    table = made.table.with_columns(label=pl.lit("art"), label_index=pl.lit(0))
    table.write_parquet(made.examples)
    folder = run(quick(seeds=1), "cayley", made)
    assert load_head(folder / "models" / "cayley" / "seed-0").facts.val_score == 1


def test_training_takes_no_second_copy_of_the_rows(made: Made, quick: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    read, seen = [], []
    gathered, original = trainer.data.task.gathered, trainer.stages.train.fit
    monkeypatch.setattr(trainer.data.inputs, "TREATED_ROWS", 7)
    monkeypatch.setattr(trainer.data.task, "gathered", lambda *given: read.append(gathered(*given)) or read[-1])
    monkeypatch.setattr(trainer.stages.train, "fit", lambda *given: seen.extend(given[1:3]) or original(*given))
    run(quick(seeds=1, recipe={"epochs": 1}), "mean", made)
    # What is trained on lies where it was read: treating in other memory, as `Treatment` does by itself, would be seen.
    assert [rows.x.data_ptr() for rows in seen] == [x.data_ptr() for x in read]
    x = seen[0].x
    assert len(x) == 90
    torch.testing.assert_close(x.mean(0), torch.zeros(len(LAYERS), DIM), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(len(LAYERS), DIM), atol=1e-3, rtol=0)


def test_few_shots_are_the_same_for_every_head_and_others_for_every_seed(
    made: Made, quick: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[list[str]]] = {}
    whole = trainer.stages.train.fit

    def recorded(head: torch.nn.Module, rows: Rows, *rest: object) -> object:
        seen.setdefault(head.spec.name, []).append(rows.text_ids)  # type: ignore[union-attr]
        return whole(head, rows, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer.stages.train, "fit", recorded)
    for name in ("last", "weighted"):
        run(quick(shots=4), name, made)
    assert seen["last"] == seen["weighted"]
    assert seen["last"][0] != seen["last"][1]
    labels = dict(made.table.select("text_id", "label").iter_rows())
    splits = dict(made.table.select("text_id", "split").iter_rows())
    for ids in seen["last"]:
        assert sorted(labels[i] for i in ids) == sorted(LABELS * 4)
        assert {splits[i] for i in ids} == {"train"}


def test_few_shots_are_standardised_by_themselves(made: Made, quick: Params) -> None:
    folder = run(quick(shots=4), "mean", made)
    for seed in range(2):
        task = open_task(open_cache(made.cache), made.examples)
        rows = task.training_split("train")
        drawn = rows.take(draw_shots(rows.y, 4, seed, task.labels))
        head = load_head(folder / "models" / "mean" / f"seed-{seed}")
        torch.testing.assert_close(head.treatment.standardise.mean, drawn.x.mean(0))
        validation = task.training_split("validation")
        right = head(validation.x).argmax(1) == validation.y
        assert float(right.double().mean()) == pytest.approx(head.facts.val_score)


def test_more_shots_than_a_label_has_are_refused(made: Made, quick: Params) -> None:
    rarest = made.table.filter(split="train")["label"].value_counts().sort("count").row(0)
    with pytest.raises(UserError, match=rf"shots, label '{rarest[0]}'(.|\n)*set train.shots to {rarest[1]} or fewer"):
        run(quick(shots=rarest[1] + 1), "last", made)


def test_a_share_is_the_same_for_every_head_and_holds_smaller_ones(made: Made, quick: Params) -> None:
    y = torch.arange(200) % 7
    chosen = [draw_share(y, share, seed) for share, seed in ((0.1, 0), (0.5, 0), (1.0, 0), (0.1, 1), (0.001, 0))]
    assert [len(one) for one in chosen] == [20, 100, 200, 20, 1]
    assert set(chosen[0].tolist()) < set(chosen[1].tolist())
    assert chosen[0].tolist() == sorted(set(chosen[0].tolist())) != chosen[3].tolist()
    folder = run(quick(share=0.4), "mean", made)
    task = open_task(open_cache(made.cache), made.examples)
    for seed in range(2):
        rows = task.training_split("train")
        drawn = rows.take(draw_share(rows.y, 0.4, seed))
        trained = load_head(folder / "models" / "mean" / f"seed-{seed}")
        torch.testing.assert_close(trained.treatment.standardise.mean, drawn.x.mean(0), rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="shots or share, not both"):
        validate("train", TrainParams, {"shots": 4, "share": 0.5})


@pytest.mark.parametrize(("name", "alike"), [("last", True), ("best", True), ("weighted", False)])
def test_a_head_of_which_no_part_is_drawn_is_solved_once(made: Made, quick: Params, name: str, alike: bool) -> None:
    recipe = {"optimizer": "auto", "penalty": "validation", "folds": None, "refit": False, "epochs": 3}
    params, task, lines = quick(recipe=recipe), open_task(open_cache(made.cache), made.examples), list[str]()
    trainer = HeadTrainer(task, params, name, lines.append)
    (first, _), (second, saved) = trainer.of_seed(0), trainer.of_seed(1)
    _, apart = HeadTrainer(task, params, name).of_seed(1)
    assert (second is first) is alike
    assert (lines[-1] == f"{name} seed 1: the same head, since nothing in its training is random") is alike
    assert saved.facts.seed == apart.facts.seed == 1
    torch.testing.assert_close(saved.head.state_dict(), apart.head.state_dict(), rtol=0, atol=0)


def test_a_solved_head_whose_rows_are_drawn_is_solved_for_every_seed(made: Made, quick: Params) -> None:
    recipe = {"optimizer": "auto", "penalty": "validation", "folds": None, "refit": False}
    task = open_task(open_cache(made.cache), made.examples)
    trainer = HeadTrainer(task, quick(recipe=recipe, share=0.5), "last")
    (_, first), (_, second) = trainer.of_seed(0), trainer.of_seed(1)
    assert not torch.equal(first.head.readout.weight, second.head.readout.weight)
