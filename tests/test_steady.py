"""Benchmarks on a machine that does other work: they repeat, tell their spread, or say that it is too noisy."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.steady import report, rounds_until_steady, spread

psutil = pytest.importorskip("psutil", reason="needs the extra 'test'")
ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("values", "rounds", "noisy"),
    [
        ([2.0, 2.02, 1.99, 2.01], 3, False),
        ([2.0, 9.0, 2.0, 2.1, 2.0, 2.0, 2.0], 5, False),
        ([1.0, 5.0, 1.0, 5.0, 1.0, 5.0], 6, True),
        ([-20.7, -20.7, -20.7, -20.7, -20.7, -20.7], 6, True),
        ([float("nan")] * 6, 6, True),
    ],
    ids=["steady", "steady later", "never", "no speed at all", "no number"],
)
def test_rounds_go_on_until_they_agree(values: list[float], rounds: int, noisy: bool) -> None:
    left = iter(values)
    found = rounds_until_steady(lambda: {"speed": next(left)}, least=3, most=6)
    assert len(found.values["speed"]) == rounds
    assert bool(found.noise()) == noisy


def test_one_value_has_no_spread() -> None:
    assert spread([1.0]) == float("inf")


@pytest.mark.parametrize(("values", "noisy"), [([1.0, 1.0], []), ([1.0, 9.0], ["speed"])])
def test_the_verdict_is_the_exit_code(
    values: list[float], noisy: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    left, code = iter(values), 0
    found = rounds_until_steady(lambda: {"speed": next(left)}, least=2, most=2)
    try:
        report(found.medians(), found)
    except SystemExit as ended:
        code = int(str(ended.code))
    printed = capsys.readouterr()
    document = json.loads(printed.out.splitlines()[-1])
    assert code == bool(noisy)
    assert document["too_noisy"] == noisy
    assert document["speed"] == sum(values) / 2
    assert "speed_spread" in document
    assert ("too noisy: speed differs by" in printed.err) == bool(noisy)


def test_a_process_that_is_asked_no_more_ends_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """It used to end with a traceback, below the benchmark's last line."""
    pytest.importorskip("lightning", reason="needs the extra 'train'")
    from benchmarks import training

    monkeypatch.setattr(training, "Published", lambda rows: None)
    ours, theirs = multiprocessing.Pipe()
    ours.close()
    training._epochs(1, theirs)


HOLDING = """
from benchmarks.contention import busy_cores
with busy_cores() as running:
    print(*(process.pid for process in running), flush=True)
    {then}
"""


def runs(pid: int) -> bool:
    """Whoever takes over an orphan need not have asked yet how it ended."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="cores are pinned as Linux does it")
@pytest.mark.parametrize("then", ["raise KeyboardInterrupt", "import time; time.sleep(60)"], ids=["error", "killed"])
def test_busy_processes_are_one_a_core_and_end_with_the_benchmark(then: str) -> None:
    """Also where it had no chance to end them."""
    command = [sys.executable, "-c", HOLDING.format(then=then)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as bench:
        assert bench.stdout is not None
        pids = [int(word) for word in bench.stdout.readline().split()]
        if "sleep" in then:
            bench.send_signal(signal.SIGKILL)
    assert len(pids) == len(os.sched_getaffinity(0))
    until = time.monotonic() + 60
    while any(map(runs, pids)):
        assert time.monotonic() < until, "a busy process outlived the benchmark"
        time.sleep(0.1)
