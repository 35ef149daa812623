"""A fit that is cut short and gone on with equals one that was left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import trainer.fitting.fit
import trainer.fitting.progress
from tests.trainer.conftest import DIM, LABELS, LAYERS, Made, of_labels, write_task
from tests.trainer.test_stream import streamed
from trainer.config import Recipe, TrainParams
from trainer.fitting.fit import Fit, fit
from trainer.fitting.losses import validate
from trainer.fitting.progress import Progress, State, progress_key
from trainer.heads import Head, build_head
from trainer.objectives import Objective
from trainer.rows.in_memory import Examples, Rows
from trainer.stages.train import train

SHAPE = {"layers": len(LAYERS), "dim": DIM, "out": len(LABELS)}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "one cycle and dropout": ("mlp", {"dropout": 0.5}, {}),
    "candidates": ("best", {}, {}),
    "plateau": ("cayley", {"hidden": 8}, {"preset": "paper", "epochs": 6}),
    "fading supervision": ("set", {"hidden": 8, "supervision": 0.5}, {"schedule": "constant"}),
    "sampling": ("weighted", {}, {"imbalance": "sampling"}),
    "exits": ("exits", {}, {"imbalance": "weights"}),
    "patience": ("mean", {}, {"patience": 2, "learning_rate": 1e-6}),
}


class Killed(BaseException):
    """What ends a process here."""


def fitted(case: str, train: Examples, validation: Examples, progress: Progress | None = None) -> Fit:
    name, options, changes = CASES[case]
    recipe = Recipe.model_validate(
        {"epochs": 6, "batch_size": 16, "learning_rate": 0.02, "optimizer": "adamw", "folds": None, **changes}
    )
    torch.manual_seed(3)
    return fit(build_head(name, options, **SHAPE), train, validation, of_labels(), recipe, 3, "cpu", progress)


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.fitting.progress, "SAVE_SECONDS", 0.0)


def killing(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Validation ends the process in the epoch after so many."""
    seen = [0]

    def deadly(head: Head, objective: Objective, rows: Examples) -> tuple[Tensor, Tensor]:
        seen[0] += 1
        if seen[0] > after:
            raise Killed
        return validate(head, objective, rows)

    monkeypatch.setattr(trainer.fitting.fit, "validate", deadly)


def assert_same(one: Fit, other: Fit) -> None:
    assert one.curve == other.curve
    assert one.best == other.best
    states = one.head.state_dict(), other.head.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.usefixtures("every_epoch")
@pytest.mark.parametrize("source", ["memory", "stream"])
@pytest.mark.parametrize("case", CASES)
def test_it_equals_one_that_was_left_alone(
    made: Made, rows: Callable[..., Rows], tmp_path: Path, case: str, source: str
) -> None:
    if source == "stream" and case == "sampling":
        pytest.skip("streamed rows are not drawn by label")
    data: tuple[Examples, Examples] = (rows(70), rows(40, seed=1))
    if source == "stream":
        scale = 10.0 ** torch.arange(len(LAYERS))[:, None]
        parts = [streamed(made, split, blocks=1) for split in ("train", "validation")]
        data = tuple(part.treated(lambda x: x / scale) for part in parts)  # type: ignore[assignment]
    alone = fitted(case, *data)
    progress = Progress(tmp_path / "fit.safetensors", "this one")
    for after in (2, 1):  # killed twice
        with pytest.MonkeyPatch.context() as patch:
            killing(patch, after)
            with pytest.raises(Killed):
                fitted(case, *data, progress)
    resumed = fitted(case, *data, Progress(progress.path, "this one"))
    assert resumed.epochs_before == 3
    assert_same(resumed, alone)
    # A finished one is read and not computed.
    with pytest.MonkeyPatch.context() as patch:
        killing(patch, 0)
        again = fitted(case, *data, progress)
    assert again.epochs_before == len(alone.curve)
    assert_same(again, alone)


@pytest.mark.usefixtures("every_epoch")
def test_another_fit_or_a_damaged_file_is_not_gone_on_with(rows: Callable[..., Rows], tmp_path: Path) -> None:
    progress = Progress(tmp_path / "fit.safetensors", "this one")
    assert progress.load() is None
    progress.offer(State({"a": torch.ones(2)}, {"epochs_done": 1}), finished=True)
    found = progress.load()
    assert found is not None
    assert found.tensors["a"].tolist() == [1, 1]
    assert found.facts == {"epochs_done": 1}
    assert replace(progress, key="another").load() is None
    progress.path.write_bytes(progress.path.read_bytes()[:-3])
    assert progress.load() is None
    assert fitted("candidates", rows(70), rows(40), progress).epochs_before == 0


def test_it_is_written_at_most_every_so_often(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "fit.safetensors", "")
    progress.offer(State({}, {}), finished=False)
    assert not progress.path.exists()
    progress.offer(State({}, {}), finished=True)
    assert progress.path.exists()


def test_the_key_is_of_everything_that_counts() -> None:
    assert progress_key({"a": 1, "b": [2]}) == progress_key({"b": [2], "a": 1}) != progress_key({"a": 1, "b": [3]})


STAGE = """
import sys
from pathlib import Path
import torch
import trainer.fitting.progress
from trainer.config import TrainParams
from trainer.stages.train import train

trainer.fitting.progress.SAVE_SECONDS = 0.0
torch.set_num_threads(1)
folder = Path(sys.argv[1])
params = TrainParams.model_validate_json(sys.argv[2])
train(params, "cayley", folder / "cache.zarr", folder / "examples.parquet", folder / "models", folder / "results")
"""


@pytest.mark.slow
def test_a_killed_stage_goes_on(
    tmp_path: Path, quick: Callable[..., TrainParams], capfd: pytest.CaptureFixture[str]
) -> None:
    """A process that is killed with -9 in its second seed: the heads in the end are those of one that ran through."""
    made = write_task(tmp_path)
    params = quick(recipe={"epochs": 40}, options={"cayley": {"hidden": 16}})
    train(params, "cayley", made.cache, made.examples, tmp_path / "alone", tmp_path / "results")
    command = [sys.executable, "-c", STAGE, str(tmp_path), params.model_dump_json(exclude_unset=True)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    second = tmp_path / "models" / ".unfinished" / "cayley" / "seed-1-at-0.02.safetensors"
    while not second.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "models" / "cayley").exists()
    capfd.readouterr()
    train(params, "cayley", made.cache, made.examples, tmp_path / "models", tmp_path / "results")
    assert capfd.readouterr().err.count("resumed after epoch") == 2
    assert os.listdir(tmp_path / "models") == ["cayley"]
    for seed in range(2):
        one, other = (tmp_path / name / "cayley" / f"seed-{seed}" / "head.safetensors" for name in ("alone", "models"))
        assert one.read_bytes() == other.read_bytes()


def test_other_parameters_start_anew(
    made: Made, quick: Callable[..., TrainParams], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(epochs: int) -> None:
        params, folder = quick(seeds=1, recipe={"epochs": epochs}), made.cache.parent
        train(params, "mean", made.cache, made.examples, folder / "models", folder / "results")

    monkeypatch.setattr(trainer.fitting.progress, "SAVE_SECONDS", 0.0)
    with pytest.MonkeyPatch.context() as patch:
        killing(patch, 1)
        with pytest.raises(Killed):
            run(epochs=3)
    run(epochs=4)
    assert "resumed" not in capfd.readouterr().err
