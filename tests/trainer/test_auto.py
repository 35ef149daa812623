"""`ilse train auto`: what it tries in its time, that validation alone chooses, and that the winner is a head as any."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import polars as pl
import pytest
from optuna.pruners import SuccessiveHalvingPruner

import trainer.data.shared_inputs
import trainer.search.halving
from ilse.core.errors import UserError
from pipeline.store import open_cache
from tests.trainer.conftest import Made, write_task
from tests.trainer.test_kinds_of_tasks import made as kind_of_task
from tests.trainer.token_task import write_token_task
from trainer import auto, fit
from trainer.artifacts.artifact import load_head
from trainer.config import Recipe, TrainParams
from trainer.data.task import open_task
from trainer.report import report
from trainer.search.candidates import CANDIDATES, Candidate
from trainer.search.halving import Clock
from trainer.stages.auto import SCHEMA, Chosen, choose, train_auto
from trainer.stages.evaluate import evaluate
from trainer.stages.train import train

Quick = Callable[..., TrainParams]
SOLVED = {"optimizer": "auto", "penalty": "validation", "refit": False}
LAST, BEST = Candidate("last", recipe=SOLVED), Candidate("best", recipe=SOLVED)
MLP, HOPELESS = Candidate("mlp"), Candidate("weighted", recipe={"learning_rate": 1e-8})
FEW = (LAST, MLP, HOPELESS, BEST)


@pytest.fixture
def params(quick: Quick) -> Quick:
    """Parameters of short trainings, whatever the number of rows."""
    return lambda **changes: quick(
        **{**changes, "recipe": {"epochs": 8, "least_steps": 0, **changes.get("recipe", {})}}
    )


def run(made: Made, params: TrainParams, candidates: Sequence[Candidate] = FEW, minutes: int | float = 5) -> Chosen:
    return choose(open_task(open_cache(made.cache), made.examples), params, minutes, candidates)


def states(found: Chosen) -> dict[str, str]:
    return dict(found.tried.select("head", "ended").rows())


def same(found: Chosen) -> list[tuple[Any, ...]]:
    """All but the time it took."""
    return found.tried.drop("seconds").rows()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.stages.auto, "CANDIDATES", FEW)


def files(folder: Path) -> tuple[Path, Path, Path, Path]:
    return folder / "cache.zarr", folder / "examples.parquet", folder / "models", folder / "results"


class Ticking:
    """A clock's hand that goes on by so many seconds whenever it is looked at, and by `growth` as many next time."""

    def __init__(self, step: float, growth: float) -> None:
        self.time, self.step, self.growth = 0.0, step, growth

    def __call__(self) -> float:
        self.time += self.step
        self.step *= self.growth
        return self.time


def ticking(monkeypatch: pytest.MonkeyPatch, step: float, growth: float = 1) -> None:
    monkeypatch.setattr(trainer.stages.auto, "Clock", lambda minutes: Clock(minutes, Ticking(step, growth)))


def test_the_best_on_validation_is_chosen_and_all_that_was_tried_is_told(made: Made, params: Quick) -> None:
    found = run(made, params())
    assert found.candidate is BEST
    assert found.tried.schema == SCHEMA
    assert found.tried["head"].to_list() == ["last", "mlp", "weighted", "best"]
    assert states(found) == {"last": "finished", "mlp": "finished", "weighted": "behind", "best": "finished"}
    best = found.tried.filter("chosen").row(0, named=True)
    assert best["val_score"] == found.tried["val_score"].max() == pytest.approx(found.head.facts.val_score)
    assert found.tried.filter(head="weighted")["epochs"].item() in (2, 4)  # of 8: a quarter or half
    assert found.lines[0].startswith("chosen: best: validation accuracy 0.")
    assert found.lines[1].startswith("4 of 4 candidates were tried in 0.")
    assert "points ahead of the next, mlp" in found.lines[2]


def test_figures_are_of_the_validation_rows(made: Made, params: Quick) -> None:
    """Also of linear heads, which folds would judge otherwise, and which would then be solved on those rows."""
    for candidate in (LAST, BEST, MLP):
        found = run(made, params(), [candidate])
        rows = open_task(open_cache(made.cache), made.examples).training_split(
            "validation", found.head.head.layers_read
        )
        right = (found.head(rows.x).argmax(1) == rows.y).double().mean()
        assert found.head.facts.val_score == pytest.approx(float(right))
        assert found.head.facts.recipe["refit"] == (False if candidate is not MLP else "auto")


def test_who_is_behind_is_what_a_plain_count_says() -> None:
    """Curves of best figures so far: in at a quarter and at half are those in the better half of all so far."""
    study = optuna.create_study(
        direction="maximize", pruner=SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    )
    generator = np.random.default_rng(0)
    reached: dict[int, list[float]] = {1: [], 2: []}
    ended = []
    for epochs in generator.integers(4, 30, size=60).tolist():
        curve = np.maximum.accumulate(generator.random(epochs) * np.linspace(0.5, 1, epochs)).tolist()
        watching = trainer.search.halving._Watching(None, study.ask(), epochs)
        done = next((epoch + 1 for epoch in range(epochs) if watching(epoch, curve[epoch])), epochs)
        expected = epochs
        for part, quarter in ((1, 0.25), (2, 0.5)):
            at = next(epoch for epoch in range(1, epochs + 1) if epoch / epochs >= quarter)
            reached[part].append(curve[at - 1])
            if curve[at - 1] < sorted(reached[part], reverse=True)[max(1, len(reached[part]) // 2) - 1]:
                expected = at
                break
        assert (done, watching.ended) == (expected, "finished" if expected == epochs else "behind")
        ended.append(expected < epochs)
    assert 20 < sum(ended) < 55


def test_differences_are_those_of_the_answers(made: Made, params: Quick) -> None:
    found = run(made, params())
    told = {row["head"]: row for row in found.tried.iter_rows(named=True)}
    for head in ("last", "mlp"):
        points = 100 * (told["best"]["val_score"] - told[head]["val_score"])
        assert told[head]["difference_points"] == pytest.approx(points)
        assert 0 <= told[head]["p_holm"] <= 1
    assert told["weighted"]["p_holm"] is told["best"]["p_holm"] is None
    assert told["last"]["p_holm"] < 0.01


def test_of_equals_the_smaller_wins_and_a_smaller_rival_is_named(made: Made, params: Quick) -> None:
    wide, narrow = (Candidate("bottleneck", {"rank": rank}, {"learning_rate": 0.05}) for rank in (16, 4))
    found = run(made, params(recipe={"epochs": 20}), [wide, narrow])
    scores = found.tried["val_score"].to_list()
    assert (found.candidate is narrow) == (scores[1] >= scores[0])
    found = run(made, params(recipe={"epochs": 20}), [Candidate("layer", {"layer": 2}, SOLVED), BEST])
    assert found.tried["val_score"].n_unique() == 1
    assert found.tried["chosen"].to_list() == [True, False]  # as many parameters: the first
    assert found.lines[2] == "level with the next, best"

    big, small = Candidate("mlp", {"fusion": "last"}), LAST
    found = run(made, params(recipe={"epochs": 12, "learning_rate": 0.01}), [small, big])
    if found.candidate is big:
        assert "not significantly different from the smaller last (27 parameters)" in found.lines[-1]


def test_the_same_again(made: Made, params: Quick) -> None:
    first, again = run(made, params()), run(made, params())
    assert same(first) == same(again)
    ours, theirs = first.head.state_dict(), again.head.state_dict()
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_the_winner_is_what_its_recipe_gives(made: Made, params: Quick) -> None:
    found = run(made, params(), [MLP])
    facts = found.head.facts
    again = fit(made.cache.parent, "mlp", recipe=facts.recipe, device="cpu")
    assert again.facts.val_score == facts.val_score
    assert again.facts.recipe == facts.recipe
    assert all(value.equal(again.state_dict()[name]) for name, value in found.head.state_dict().items())


def test_the_first_one_is_ended_however_little_time_there_is(
    made: Made, params: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticking(monkeypatch, 60)
    found = run(made, params(), [MLP, LAST, BEST], minutes=0.1)
    assert states(found) == {"mlp": "finished"}
    assert found.tried["epochs"].to_list() == [8]
    assert "1 of 3 candidates were tried in" in found.lines[1]
    assert found.lines[1].endswith("of 0.1 minutes: give it more minutes to try others")


def test_no_epoch_begins_once_the_time_went_into_reading_rows(
    made: Made, params: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = Ticking(0.01, 1)
    monkeypatch.setattr(trainer.stages.auto, "Clock", lambda minutes: Clock(minutes, hand))
    original = trainer.data.shared_inputs.Inputs

    def slow(*given: Any) -> Any:
        hand.time += 40
        return original(*given)

    monkeypatch.setattr(trainer.data.shared_inputs, "Inputs", slow)
    found = run(made, params(), [LAST, MLP, BEST], minutes=1)
    assert states(found) == {"last": "finished"}
    assert found.lines[1].startswith("1 of 3 candidates were tried in 1.3")


def test_the_time_ends_a_training_between_two_epochs(
    made: Made, params: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that other work comes to: what fitted by the first epoch does so no more."""
    ticking(monkeypatch, 0.2, growth=1.2)
    long = Candidate("mlp", recipe={"epochs": 400, "learning_rate": 0.05})
    found = run(made, params(), [LAST, long, BEST], minutes=1)
    assert states(found) == {"last": "finished", "mlp": "out of time"}
    mlp = found.tried.filter(head="mlp").row(0, named=True)
    assert 2 < mlp["epochs"] < mlp["of_epochs"] < 400
    assert found.tried["difference_points"].is_not_null().sum() == 1  # it counts as far as it got
    assert found.lines[1].startswith("2 of 3 candidates were tried in 1.")


def test_as_many_epochs_as_fit_are_trained_with_a_schedule_of_their_own(
    made: Made, params: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticking(monkeypatch, 1)
    found = run(made, params(), [LAST, Candidate("mlp", recipe={"epochs": 400, "learning_rate": 0.05})], minutes=1.5)
    mlp = found.tried.filter(head="mlp").row(0, named=True)
    assert (mlp["ended"], mlp["epochs"], mlp["chosen"]) == ("finished", mlp["of_epochs"], True)
    assert found.head.facts.recipe["epochs"] == mlp["epochs"] < 100


def test_too_few_epochs_are_not_planned(made: Made, params: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    """With less than three to come, what is there goes on until the time is up."""
    ticking(monkeypatch, 10)
    found = run(made, params(), [LAST, Candidate("mlp", recipe={"epochs": 400})], minutes=2)
    mlp = found.tried.filter(head="mlp").row(0, named=True)
    assert (mlp["ended"], mlp["of_epochs"]) == ("out of time", 400)


def test_few_rows_get_as_many_steps_as_others(made: Made, quick: Quick) -> None:
    by_default = quick().model_copy(update={"recipe": Recipe(optimizer="adamw", folds=None, batch_size=16)})
    found = run(made, by_default, [Candidate("mean")])
    assert found.tried["of_epochs"].item() == -(-500 // -(-90 // 16))
    found = run(made, quick(), [Candidate("mean")])
    assert found.tried["of_epochs"].item() == 4
    found = run(made, quick(recipe={"least_steps": 30}), [Candidate("mean")])
    assert found.tried["of_epochs"].item() == 5


def test_tokens_are_read_where_there_are_any(tmp_path: Path, params: Quick) -> None:
    reader = Candidate("bottleneck", recipe={"epochs": 12}, tokens={"rank": 8})
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    found = run(write_token_task(tmp_path / "with"), params(), [*FEW, reader])
    assert found.candidate is reader
    assert found.head.facts.reads_tokens
    said: list[str] = []
    task = write_task(tmp_path / "without")
    choose(open_task(open_cache(task.cache), task.examples), params(), 5, [LAST, reader], say=said.append)
    assert said[0] == (
        "auto: what reads token states is left out, 1 of 2 candidates: the cache keeps none (extract.token_states)"
    )
    with pytest.raises(UserError, match="at least one that reads pooled rows"):
        run(task, params(), [reader])


def test_best_among_the_layers_of_tokens_is_judged_by_its_own_layer(tmp_path: Path, params: Quick) -> None:
    probes = Candidate("best", recipe={"epochs": 12}, tokens={"rank": 8})
    found = run(write_token_task(tmp_path), params(), [LAST, probes])
    told = found.tried.row(1, named=True)
    assert told["chosen"]
    assert found.tried.row(0, named=True)["difference_points"] == pytest.approx(
        100 * (told["val_score"] - found.tried["val_score"][0])
    )


@pytest.mark.parametrize("kind", ["similarity", "pairs", "regression", "ordinal", "multi_label"])
def test_every_kind_of_task_has_candidates(tmp_path: Path, kind: str) -> None:
    project = kind_of_task(tmp_path, kind)
    task = open_task(open_cache(tmp_path / "cache.zarr"), tmp_path / "examples.parquet")
    extra = {"objective": "ordinal"} if kind == "ordinal" else {}
    found = choose(
        task, project.params(["last"], recipe={"epochs": 3, "least_steps": 0}, **extra), 5, [LAST, MLP, BEST]
    )
    assert found.tried["chosen"].sum() == 1
    assert found.tried.filter(~pl.col("chosen"))["p_holm"].drop_nulls().is_between(0, 1).all()
    assert len(found.tried) == 3


def test_what_the_task_refuses_is_left_out_and_said(tmp_path: Path) -> None:
    project = kind_of_task(tmp_path, "similarity")
    task = open_task(open_cache(tmp_path / "cache.zarr"), tmp_path / "examples.parquet")
    said: list[str] = []
    candidates = [Candidate("gated"), Candidate("mlp")]
    found = choose(task, project.params(["last"], embedding=None), 5, candidates, say=said.append)
    assert found.candidate.head == "mlp"
    assert said[0].startswith("auto: gated is left out: expected examples of one text with one label")
    with pytest.raises(UserError, match="head 'gated'"):
        choose(task, project.params(["last"]), 5, candidates[:1])


def test_a_loss_that_is_not_finite_is_a_candidate_that_lost(made: Made, params: Quick) -> None:
    bad = Candidate("mean", recipe={"learning_rate": 1e38, "gradient_clip": 0})
    found = run(made, params(), [bad, LAST])
    assert states(found) == {"mean": "not finite", "last": "finished"}
    assert found.candidate is LAST
    assert found.tried["val_score"].to_list()[0] is None
    with pytest.raises(UserError, match="at least one whose loss is finite"):
        run(made, params(), [bad])


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_no_time_is_refused(made: Made, minutes: float) -> None:
    with pytest.raises(UserError, match=r"section 'auto', minutes"):
        auto(made.cache.parent, minutes=minutes)
    with pytest.raises(UserError, match=r"option --minutes, section 'auto', minutes"):
        TrainParams().with_minutes(minutes, ["auto"])


def test_a_mistaken_call_is_refused(made: Made, params: Quick) -> None:
    with pytest.raises(UserError, match="'auto' among the heads"):
        TrainParams().with_minutes(5, ["last", "best"])
    with pytest.raises(UserError, match="give candidates instead"):
        auto(made.cache.parent, heads=["last"])
    with pytest.raises(UserError, match="did you mean 'rank'"):
        run(made, params(), [LAST, Candidate("bottleneck", {"rnak": 3})])
    with pytest.raises(UserError, match="did you mean 'last'"):
        run(made, params(), [Candidate("lsat")])
    made.table.filter(pl.col("split") != "validation").write_parquet(made.examples)
    with pytest.raises(UserError, match="split 'validation'"):
        run(made, params())


def test_two_validation_rows_compare_nothing_that_one_could_rely_on(tmp_path: Path, params: Quick) -> None:
    for rows in (1, 2):
        folder = tmp_path / str(rows)
        folder.mkdir()
        found = run(write_task(folder, {"train": 40, "validation": rows, "test": 5}), params())
        assert found.tried["chosen"].sum() == 1
        assert found.tried["p_holm"].is_null().all() == (rows == 1)


def test_what_is_written_is_a_head_as_any(made: Made, params: Quick, few: None) -> None:
    folder = made.cache.parent
    places = files(folder)
    figures = train_auto(params(heads=["auto", "last"]), *places)
    head = load_head(folder / "models" / "auto" / "seed-0")
    assert [path.name for path in (folder / "models").iterdir()] == ["auto"]
    assert figures["val_score"] == head.facts.val_score
    assert json.loads((folder / "results/train/auto.json").read_text()) == figures
    curve = pl.read_csv(folder / "results/curves/auto.csv")
    assert set(curve["head"]) == {"auto"}
    table = pl.read_csv(folder / "results/auto/candidates.csv")
    assert table.columns == list(SCHEMA)
    assert len(table) == 4
    choice = json.loads((folder / "results/auto/choice.json").read_text())
    assert (choice["head"], choice["minutes"], choice["untried"]) == ("best", 5, 0)

    train(params(), "last", *places)
    leaders = evaluate(["auto", "last"], *places)
    row = leaders.filter(head="auto").row(0, named=True)
    assert row["chosen"]
    assert row["summary"].startswith("best of those tried: linear head on the layer")
    assert row["val_score"] == head.facts.val_score
    page = folder / "report.html"
    report(folder / "results", {}, page)
    assert "auto" in page.read_text()


@pytest.mark.parametrize("seed", range(2))
def test_the_test_labels_choose_nothing(made: Made, params: Quick, seed: int) -> None:
    before = run(made, params())
    held_out = made.table.filter(split="test")
    order = np.random.default_rng(seed).permutation(len(held_out))
    labels = held_out.select("label", "label_index")[order]
    others = held_out.with_columns(labels["label"], labels["label_index"])
    pl.concat([made.table.filter(pl.col("split") != "test"), others]).write_parquet(made.examples)
    after = run(made, params())
    assert same(after) == same(before)
    assert all(value.equal(before.head.state_dict()[name]) for name, value in after.head.state_dict().items())


def test_one_that_is_cut_short_leaves_the_older_and_begins_anew(
    made: Made, params: Quick, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = files(made.cache.parent)
    train_auto(params(), *places)
    older = {path: path.read_bytes() for path in places[2].rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        original = trainer.search.halving.HeadTrainer.of_seed

        def stopped(self: Any, seed: int, **given: Any) -> Any:
            if self._name == "best":
                raise KeyboardInterrupt
            return original(self, seed, **given)

        patch.setattr(trainer.search.halving.HeadTrainer, "of_seed", stopped)
        with pytest.raises(KeyboardInterrupt):
            train_auto(params(), *places)
    assert {path: path.read_bytes() for path in places[2].rglob("*") if path.is_file()} == older
    train_auto(params(), *places)
    assert load_head(places[2] / "auto" / "seed-0").head.spec.name == "best"


def test_from_python(made: Made) -> None:
    folder = made.cache.parent
    said: list[str] = []
    found = auto(
        folder, minutes=1, candidates=[LAST, BEST], out=folder / "chosen", say=said.append, device="cpu", shots=8
    )
    assert load_head(folder / "chosen").facts == found.head.facts
    assert not found.head.training
    assert len(said) == 2 + len(found.lines)


def test_what_is_tried_by_default_is_what_any_task_takes(made: Made) -> None:
    """And each one once, the cheap ones first, and the first of each kind before the second of any."""
    labels = [candidate.label for candidate in CANDIDATES]
    assert len({*labels}) == len(labels)
    for candidate in CANDIDATES:
        candidate.params(TrainParams())
    assert [candidate.halves for candidate in CANDIDATES[:3]] == [False, False, True]
    kinds = [(candidate.head, candidate.tokens is None) for candidate in CANDIDATES]
    assert len({*kinds[: len({*kinds})]}) == len({*kinds})
    assert kinds[2:4] == [("bottleneck", True), ("bottleneck", False)]


def test_rows_are_read_again_only_for_a_head_that_reads_others(
    made: Made, params: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    original = trainer.data.shared_inputs.Inputs
    monkeypatch.setattr(trainer.data.shared_inputs, "Inputs", lambda *given: read.append(given[3]) or original(*given))
    run(made, params(), [LAST, MLP, HOPELESS, BEST, LAST])
    assert read == [(3,), (0, 1, 2, 3), (3,)]
