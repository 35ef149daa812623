"""The search: the same budget for every head, stopped and gone on with, shared by processes."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import optuna
import polars as pl
import pytest
import yaml
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

import trainer.stages.tune
from ilse.core.errors import UserError
from ilse.core.params import load_section, validate
from ilse.core.yaml_edit import set_values
from tests.trainer.conftest import Made, write_task
from trainer.config import TrainParams
from trainer.search.space import Range, TuneParams, section_of, with_values
from trainer.stages.tune import Tuned, tune

Quick = Callable[..., TrainParams]


def tuning(folder: Path, **changes: Any) -> TuneParams:
    space = {
        "learning_rate": {"low": 0.001, "high": 0.1, "log": True},
        "dropout": [0.0, 0.5],
        "hidden": {"low": 2, "high": 9},
    }
    given = {"trials": 4, "storage": f"sqlite:///{folder}/tune.db", "space": space, **changes}
    return validate("tune", TuneParams, given)


def run(made: Made, params: TrainParams, head: str = "mlp", **changes: Any) -> Tuned:
    folder = made.cache.parent
    return tune(tuning(folder, **changes), params, head, made.cache, made.examples, folder / "results")


def trials(made: Made, head: str = "mlp") -> pl.DataFrame:
    return pl.read_csv(made.cache.parent / "results" / "tune" / f"{head}.csv")


def test_the_first_trial_is_what_stood_there_and_the_best_is_no_worse(made: Made, quick: Quick) -> None:
    params = quick(options={"mlp": {"hidden": 5}})
    found = run(made, params)
    table = trials(made)
    first = table.row(0, named=True)
    assert (first["learning_rate"], first["dropout"], first["hidden"]) == (0.02, 0.1, 5)
    assert found.before == pytest.approx(first["val_score"])
    assert found.after == table["val_score"].max()
    assert found.after >= (found.before or 0)
    assert found.trials == len(table) == 4
    assert set(table["dropout"]) <= {0.0, 0.1, 0.5}
    written = json.loads((made.cache.parent / "results" / "tune" / "mlp.json").read_text())
    assert written["options"] == section_of("mlp", found.values)
    assert set(written["options"]) == {"dropout", "hidden", "recipe"}
    assert "mlp: validation" in found.line()


def test_it_goes_on_to_the_number_asked_for(made: Made, quick: Quick, capfd: pytest.CaptureFixture[str]) -> None:
    run(made, quick(), trials=2)
    few = trials(made)
    assert run(made, quick(), trials=5).trials == 5
    assert capfd.readouterr().err.count("mlp trial") == 5
    assert trials(made).head(2).equals(few)
    run(made, quick(), trials=5)
    assert "trial" not in capfd.readouterr().err


def test_it_goes_on_after_what_it_found_was_applied(made: Made, quick: Quick) -> None:
    found = run(made, quick(), trials=2)
    values = {**found.values, "dropout": 0.1}  # a choice of the study's, whichever was best
    assert run(made, with_values(quick(), "mlp", values), trials=3).trials == 3


def test_the_same_seed_draws_the_same(made: Made, quick: Quick) -> None:
    tables = []
    for name in ("one", "other"):
        run(made, quick(), storage=f"sqlite:///{made.cache.parent}/{name}.db")
        tables.append(trials(made).drop("seconds"))
    assert tables[0].equals(tables[1])


def test_every_head_has_its_own_study_and_keys(made: Made, quick: Quick) -> None:
    run(made, quick())
    run(made, quick(), head="mean")
    assert len(trials(made, "mean")) == 4
    run(made, quick(), head="last")
    assert "dropout" not in trials(made, "last").columns


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"learning_rat": [0.1]}}, "did you mean 'learning_rate'"),
        ({"space": {"hidden": [8, 0]}}, "a trial's parameters(.|\n)*hidden"),
        ({"space": {"learning_rate": {"low": 0.1, "high": 0.01}}}, "low < high"),
        ({"space": {"weight_decay": {"low": 0, "high": 0.01, "log": True}}}, "above 0 for log"),
        ({"space": {"epochs": []}}, "at least one value"),
        ({"storage": "nosuch://db"}, "tune.storage"),
        ({"trials": 0}, "trials"),
    ],
)
def test_what_cannot_be_searched_is_said(made: Made, quick: Quick, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(made, quick(), **changes)
    assert not (made.cache.parent / "results").exists()


def test_a_study_of_other_data_or_parameters_is_refused(made: Made, quick: Quick) -> None:
    run(made, quick())
    with pytest.raises(UserError, match=r"name another tune\.storage"):
        run(made, quick(recipe={"epochs": 5}))
    pl.read_parquet(made.examples).head(120).write_parquet(made.examples)
    with pytest.raises(UserError, match="trials on other data"):
        run(made, quick())


def test_a_trial_behind_the_others_ends_early(made: Made, quick: Quick) -> None:
    params, rates = quick(recipe={"epochs": 12}), {"learning_rate": [0.05, 1e-7, 1e-8]}
    run(made, params, head="last", trials=20, space=rates)
    states = trials(made, "last")
    ended = states.filter(state="pruned")
    assert 0 < len(ended) < 15
    assert set(ended["learning_rate"]) <= {1e-7, 1e-8}
    assert ended["val_score"].is_null().all()
    run(made, params, head="last", trials=20, space=rates, pruning=False, storage=f"sqlite:///{made.cache.parent}/b.db")
    assert set(trials(made, "last")["state"]) == {"complete"}


def test_the_path_of_a_solved_head_is_compared_as_epochs_are(made: Made, quick: Quick) -> None:
    space = {"label_smoothing": [0.0, 0.1, 0.9]}
    found = run(made, quick(recipe={"optimizer": "auto", "refit": False}), head="best", trials=8, space=space)
    assert found.after == trials(made, "best")["val_score"].max()
    assert "complete" in trials(made, "best")["state"]


def test_a_loss_that_is_not_finite_is_a_trial_that_failed(made: Made, quick: Quick) -> None:
    space = {"learning_rate": [1e38]}
    params = quick(recipe={"learning_rate": 1e38, "gradient_clip": 0})
    with pytest.raises(UserError, match="loss was not finite"):
        run(made, params, head="last", trials=2, space=space)


def test_the_mean_over_seeds_counts(made: Made, quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = trainer.stages.tune.fit

    def recorded(*given: Any, **more: Any) -> Any:
        result = original(*given, **more)
        seen.append(result.best.val_score)
        return result

    monkeypatch.setattr(trainer.stages.tune, "fit", recorded)
    found = run(made, quick(), head="last", trials=1, seeds=3)
    assert len(seen) == 3
    assert found.after == pytest.approx(sum(seen) / 3)


SEARCH = """
import sys
from pathlib import Path
import torch
import trainer.stages.tune
from trainer.config import TrainParams
from trainer.search.space import TuneParams

torch.set_num_threads(1)
trainer.stages.tune.HEARTBEAT_SECONDS = int(sys.argv[4])
folder = Path(sys.argv[1])
params = TrainParams.model_validate_json(sys.argv[2])
tuning = TuneParams.model_validate_json(sys.argv[3])
trainer.stages.tune.tune(tuning, params, "mlp", folder / "cache.zarr", folder / "examples.parquet", folder / "results")
"""


def start(folder: Path, params: TrainParams, search: TuneParams, heartbeat: int) -> subprocess.Popen[str]:
    given = [str(folder), params.model_dump_json(exclude_unset=True), search.model_dump_json(), str(heartbeat)]
    return subprocess.Popen([sys.executable, "-c", SEARCH, *given], stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_search_goes_on(tmp_path: Path, quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed with -9 within a trial: no finished one is lost, and the one that was cut short is tried again."""
    made = write_task(tmp_path)
    params, search = quick(recipe={"epochs": 60}), tuning(tmp_path, trials=6, pruning=False)
    process = start(tmp_path, params, search, heartbeat=1)
    assert process.stderr is not None
    done = [process.stderr.readline(), process.stderr.readline()]
    assert all(line.startswith("mlp trial") for line in done), done
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    study = optuna.load_study(study_name="mlp", storage=search.storage)
    running = [trial for trial in study.trials if trial.state.name == "RUNNING"]
    before = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert len(running) == 1
    time.sleep(2.5)  # two heartbeats of a second, and some
    monkeypatch.setattr(trainer.stages.tune, "HEARTBEAT_SECONDS", 1)
    found = tune(search, params, "mlp", made.cache, made.examples, tmp_path / "results")
    assert found.trials == 6
    table = trials(made)
    assert table["trial"].to_list()[: len(before)] == [trial.number for trial in before]
    assert running[0].number not in table["trial"]
    again = [trial.params for trial in study.get_trials() if trial.number > running[0].number]
    assert running[0].params in again


def test_searches_that_start_together_make_one_storage(tmp_path: Path) -> None:
    """Optuna's tables are made by one of them; without another look, this fails ten times of ten."""
    together = threading.Barrier(4)

    def opens(_: int) -> None:
        together.wait()
        trainer.stages.tune._storage(f"sqlite:///{tmp_path / 'new.db'}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(opens, range(4)))


@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.FAIL])
def test_one_of_many_takes_up_a_trial_or_gives_it_up(tmp_path: Path, state: TrialState) -> None:
    """SQLite locks no rows: by Optuna's own storage, of eight that ask at once several were told that they have it."""
    address = f"sqlite:///{tmp_path / 'shared.db'}"
    study = optuna.create_study(storage=trainer.stages.tune._storage(address), study_name="shared")
    storages = [trainer.stages.tune._storage(address) for _ in range(8)]
    together = threading.Barrier(8)

    def takes(storage: RDBStorage, trial_id: int) -> bool:
        together.wait()
        try:
            return storage.set_trial_state_values(trial_id, state)
        except UpdateFinishedTrialError:
            return False

    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            waiting = optuna.trial.create_trial(state=TrialState.WAITING)
            number = storages[0].create_new_trial(study._study_id, template_trial=waiting)
            if state is TrialState.FAIL:
                assert storages[0].set_trial_state_values(number, TrialState.RUNNING)
            assert sum(pool.map(takes, storages, [number] * 8)) == 1


def test_a_search_whose_trial_another_process_gave_up_goes_on(
    made: Made, quick: Quick, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As of a computer that slept in mid-trial."""
    original, search = trainer.stages.tune.fit, tuning(made.cache.parent, trials=3)

    def given_up(*given: Any, **more: Any) -> Any:
        monkeypatch.setattr(trainer.stages.tune, "fit", original)
        study = optuna.load_study(study_name="mlp", storage=search.storage)
        [running] = [trial for trial in study.trials if trial.state is TrialState.RUNNING]
        assert trainer.stages.tune._storage(search.storage).set_trial_state_values(running._trial_id, TrialState.FAIL)
        return original(*given, **more)

    monkeypatch.setattr(trainer.stages.tune, "fit", given_up)
    assert run(made, quick(), trials=3).trials == 3
    assert "another process believed a trial of this one dead" in capfd.readouterr().err
    assert set(trials(made)["state"]) == {"complete"}


@contextmanager
def locked(made: Made) -> Iterator[None]:
    """The storage as another program has it that writes."""
    with closing(sqlite3.connect(made.cache.parent / "tune.db", check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.rollback()


@pytest.mark.parametrize("moment", ["at the start", "in mid-run"])
def test_a_storage_that_another_program_keeps_locked_is_said_to_be(
    made: Made, quick: Quick, monkeypatch: pytest.MonkeyPatch, moment: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run(made, quick(), trials=1)
    monkeypatch.setattr(trainer.stages.tune, "PATIENCE_SECONDS", 0.3)
    with ExitStack() as stack:
        if moment == "at the start":
            stack.enter_context(locked(made))
        else:
            monkeypatch.setattr(trainer.stages.tune, "_tell", lambda *_: stack.enter_context(locked(made)))
        with pytest.raises(UserError, match=r"tune\.storage, sqlite(.|\n)*another program has kept locked for 0 s"):
            run(made, quick(), trials=4)
    assert "Traceback" not in capfd.readouterr().err
    monkeypatch.undo()
    assert run(made, quick(), trials=4).trials == 4


def test_a_storage_that_is_locked_for_a_while_is_waited_for(
    made: Made, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than SQLite waits by itself."""
    given = ExitStack()

    def tell(*_: object) -> None:
        monkeypatch.setattr(trainer.stages.tune, "_tell", lambda *_: None)
        given.enter_context(locked(made))
        threading.Timer(6, given.close).start()

    monkeypatch.setattr(trainer.stages.tune, "_tell", tell)
    assert run(made, quick(), trials=3).trials == 3


@pytest.mark.slow
def test_two_processes_share_a_study(tmp_path: Path, quick: Quick) -> None:
    write_task(tmp_path)
    params, search = quick(recipe={"epochs": 30}), tuning(tmp_path, trials=10)
    processes = [start(tmp_path, params, search, heartbeat=30) for _ in range(2)]
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    counts = [text.count("mlp trial") for text in said]
    assert 10 <= sum(counts) <= 11, "one that began before the last one ended"
    assert min(counts) >= 1
    numbers = [trial.number for trial in optuna.load_study(study_name="mlp", storage=search.storage).trials]
    assert len(set(numbers)) == len(numbers) == sum(counts)


PARAMS = """# what a comment says
train: # stays
  heads: [last,   mlp]
  recipe: { epochs: 7 } # also here
  options:
    last: {}
    mlp: { fusion: mean }

tune:
  trials: 3
"""


def test_what_was_found_is_written_into_the_parameters_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS)
    values = {"hidden": 32, "learning_rate": 0.003}
    set_values(path, "train.options.mlp", section_of("mlp", values))
    set_values(path, "train.options.last", section_of("last", {"learning_rate": 0.01}))
    params = load_section("train", TrainParams, path)
    assert params.head_options("mlp")["hidden"] == 32
    assert params.head_options("mlp")["fusion"] == "mean"
    assert (params.recipe_of("mlp").learning_rate, params.recipe_of("mlp").epochs) == (0.003, 7)
    assert params.recipe_of("last").learning_rate == 0.01
    text = path.read_text()
    assert text.index("# what a comment says") < text.index("# stays") < text.index("# also here") < text.index("tune:")
    before, after = yaml.safe_load(PARAMS), yaml.safe_load(text)
    after["train"]["options"] = before["train"]["options"]
    assert after == before


def test_ranges_are_whole_where_their_ends_are() -> None:
    assert isinstance(Range.model_validate({"low": 2, "high": 9}).low, int)
    assert isinstance(Range.model_validate({"low": 2.0, "high": 9}).low, float)
