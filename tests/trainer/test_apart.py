"""A fit leaves its caller's process as it was, and is one process whatever launched it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
import torch

from tests.trainer.conftest import Made, head_of, of_labels, recipe_of
from trainer.fitting.fit import Fit, fit
from trainer.fitting.isolation import quiet, seeded
from trainer.rows.in_memory import Rows

ROOT = Path(__file__).parent.parent.parent
LAUNCHERS = {
    "srun": {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "job", "SLURM_NTASKS": "2", "SLURM_PROCID": "1",
             "SLURM_LOCALID": "1", "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "localhost"},
    "a shell under Slurm": {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "bash", "SLURM_NTASKS": "2"},
    "torchrun": {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "LOCAL_RANK": "1", "GROUP_RANK": "0", "WORLD_SIZE": "2",
                 "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "1"},
    "LSF": {"LSB_JOBID": "1", "LSB_DJOB_RANKFILE": "/nonexistent", "JSM_NAMESPACE_LOCAL_RANK": "0",
            "JSM_NAMESPACE_SIZE": "2", "JSM_NAMESPACE_RANK": "1"},
    "Kubeflow": {"KUBERNETES_PORT": "1", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "1", "RANK": "1",
                 "WORLD_SIZE": "2"},
    "Lightning's own": {"PL_TRAINER_NUM_NODES": "2", "PL_TRAINER_DEVICES": "2", "PL_TRAINER_STRATEGY": "ddp"},
}  # fmt: skip


def fitted(rows: Callable[..., Rows], seed: int = 0) -> Fit:
    return fit(head_of("mlp", seed), rows(40), rows(20, seed=1), of_labels(), recipe_of(epochs=2), seed, "cpu")


def test_neither_import_nor_call_changes_the_process(made: Made) -> None:
    ids = made.table["text_id"]
    pl.DataFrame({"text_id": ids, "text": ids}).write_parquet(made.cache.parent / "texts.parquet")
    command = [sys.executable, "-m", "tests.trainer.undisturbed", str(made.cache.parent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_fit_is_one_process_whatever_launched_this_one(
    launcher: str, rows: Callable[..., Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fitted(rows)
    for name, value in LAUNCHERS[launcher].items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    found = fitted(rows)
    assert dict(os.environ) == before
    assert [epoch.val_loss for epoch in found.curve] == [epoch.val_loss for epoch in expected.curve]


def test_ctrl_c_ends_a_fit_and_is_heeded_afterwards(rows: Callable[..., Rows]) -> None:
    def stop(epoch: int, score: float) -> bool:
        raise KeyboardInterrupt

    before = [signal.getsignal(number) for number in signal.valid_signals()]
    torch.manual_seed(5)
    numbers = torch.get_rng_state()
    head = head_of("mlp", seed=5)
    drawn = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        fit(head, rows(40), rows(20), of_labels(), recipe_of(), 0, "cpu", watch=stop)
    assert [signal.getsignal(number) for number in signal.valid_signals()] == before
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not torch.equal(drawn, numbers)


def test_fits_in_threads_are_those_that_follow_one_another(rows: Callable[..., Rows]) -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        with seeded(seed):
            return list(fitted(rows, seed).head.state_dict().values())

    expected = [weights(seed) for seed in range(4)]
    before = torch.get_rng_state()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(weights, range(4)))
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_last_that_asks_for_quiet_gives_the_level_back() -> None:
    logger = logging.getLogger("a library")
    logger.setLevel(logging.DEBUG)
    one, other = quiet("a library"), quiet("a library")
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert logger.level == logging.WARNING
    other.__exit__(None, None, None)
    assert logger.level == logging.DEBUG
    with quiet("a library"):
        assert logger.level == logging.WARNING
    logger.setLevel(logging.ERROR)
    with quiet("a library"):
        assert logger.level == logging.ERROR
