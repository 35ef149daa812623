"""A prediction that is cut short and run again: what was finished is not computed again, and the bytes are the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from filelock import FileLock

import ilse.predict.command
from ilse.core.errors import UserError
from ilse.predict.inputs import Fields
from ilse.predict.outputs import Answers
from tests.predict.conftest import Project, source

Build = Callable[..., Project]
PART = 16
PARTS = 6
"""Of the 90 texts."""
SLOW = """
import sys, time
from pathlib import Path
import ilse.predict.command as command
from ilse.predict.inputs import Fields
from ilse.predict.outputs import Answers

table = Answers.table
def slow(self, part):
    time.sleep(0.1)
    return table(self, part)

Answers.table, command.PART = slow, 16
head, source, out, model = map(Path, sys.argv[1:])
command.predict(head, str(source), out, None, Fields(), 1, model, Path("none.yaml"))
"""


class Stopped(Exception):
    """Stands for whatever ends a run."""


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first row of every part that was computed; parts are small."""
    rows: list[int] = []
    table = Answers.table

    def counting(self: Answers, part: pl.DataFrame) -> pl.DataFrame:
        rows.append(part["row"][0])
        return table(self, part)

    monkeypatch.setattr(Answers, "table", counting)
    monkeypatch.setattr(ilse.predict.command, "PART", PART)
    return rows


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    source().write_csv(tmp_path / "in.csv")
    return tmp_path / "in.csv"


def predict(made: Project, texts: Path, out: Path, top_k: int = 1) -> bytes:
    head = made.trained("mean")
    ilse.predict.command.predict(head, str(texts), out, None, Fields(), top_k, made.model, Path("none.yaml"))
    return out.read_bytes()


def stopped_after(made: Project, texts: Path, out: Path, parts: int, **more: Any) -> None:
    """A run that ends when it has finished so many parts."""
    with pytest.MonkeyPatch.context() as patch:
        table, left = Answers.table, iter(range(parts))

        def stopping(self: Answers, part: pl.DataFrame) -> pl.DataFrame:
            if next(left, None) is None:
                raise Stopped
            return table(self, part)

        patch.setattr(Answers, "table", stopping)
        with pytest.raises(Stopped):
            predict(made, texts, out, **more)


def kept(out: Path) -> list[Path]:
    return sorted(out.parent.glob(f".{out.name}.unfinished/*/*.parquet"))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_run_goes_on_where_it_was_stopped(
    project: Build, texts: Path, computed: list[int], ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made, out = project(), texts.with_name(f"out.{ending}")
    whole = predict(made, texts, texts.with_name(f"whole.{ending}"))
    for finished in (1, 3):
        stopped_after(made, texts, out, finished)
    assert not out.exists()
    assert len(kept(out)) == 4
    computed.clear()
    assert predict(made, texts, out) == whole
    assert computed == [4 * PART, 5 * PART]
    assert f"4 of {PARTS} parts were there from an earlier run" in capsys.readouterr().err
    assert {path.name for path in texts.parent.iterdir()} == {"in.csv", out.name, f"whole.{ending}"}


@pytest.mark.slow
def test_a_killed_process_leaves_what_it_finished(project: Build, texts: Path, computed: list[int]) -> None:
    made, out = project(), texts.with_name("out.csv")
    whole = predict(made, texts, texts.with_name("whole.csv"))
    out.write_text("what was there before")
    arguments = (made.trained("mean"), texts, out, made.model)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, arguments)], stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    while len(kept(out)) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = len(kept(out))
    assert out.read_text() == "what was there before"
    computed.clear()
    assert predict(made, texts, out) == whole
    assert 2 <= finished < PARTS
    assert computed == [number * PART for number in range(finished, PARTS)]
    assert not kept(out)


def test_another_question_starts_anew(project: Build, texts: Path, computed: list[int]) -> None:
    made, out = project(), texts.with_name("out.csv")
    stopped_after(made, texts, out, 3)
    computed.clear()
    stopped_after(made, texts, out, 1, top_k=2)  # other options
    assert computed == [0]
    predict(made, texts, out)
    assert not kept(out)  # of neither


def test_parts_of_rows_that_changed_are_made_again_whatever_size_and_time_say(
    project: Build, texts: Path, computed: list[int]
) -> None:
    made, out = project(), texts.with_name("out.csv")
    stopped_after(made, texts, out, 3)
    stat, before = texts.stat(), texts.read_text()
    row = before.split("\n")[1 + PART]  # of the second part
    texts.write_text(before.replace(row, row.swapcase(), 1))
    os.utime(texts, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (texts.stat().st_size, texts.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    computed.clear()
    predict(made, texts, out)
    assert computed == [number * PART for number in (1, 3, 4, 5)]
    assert out.read_bytes() == predict(made, texts, texts.with_name("whole.csv"))


def test_a_damaged_part_is_made_again(project: Build, texts: Path, computed: list[int]) -> None:
    made, out = project(), texts.with_name("out.csv")
    whole = predict(made, texts, texts.with_name("whole.csv"))
    stopped_after(made, texts, out, 3)
    second = max(kept(out), key=lambda part: pl.read_parquet(part)["row"][0] == PART)
    second.write_bytes(second.read_bytes()[:100])
    computed.clear()
    assert predict(made, texts, out) == whole
    assert computed == [number * PART for number in (1, 3, 4, 5)]


def test_two_runs_into_one_output_are_refused(project: Build, texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / ".out.csv.unfinished"
    folder.mkdir()
    with FileLock(folder / "lock"), pytest.raises(UserError, match=r"prediction to .*out.csv\n.*one run at a time"):
        predict(project(), texts, tmp_path / "out.csv")


def test_a_row_that_is_not_well_formed_is_named_and_the_parts_before_it_kept(
    project: Build, texts: Path, computed: list[int]
) -> None:
    made, out = project(), texts.with_name("out.csv")
    with texts.open("a") as file:
        file.write("too,few\n")
    with pytest.raises(UserError, match=r"in.csv, line 92\n +expected: 5 fields"):
        predict(made, texts, out)
    assert not out.exists()
    assert len(kept(out)) == PARTS - 1
