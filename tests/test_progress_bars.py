"""Progress bars on a terminal and beside lines, and none of those that wait where nobody watches."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import termios
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCRIPT = """
import time
from ilse.core.progress_bars import progress_bar
from ilse.core.terminal import say, speaking
with speaking({speaking}), progress_bar(3, "train", "epoch", delay=0.05) as bar:
    for number in range(3):
        time.sleep(0.15)
        bar.update()
        say(f"epoch {{number}} is done")
"""


def run(speaking: bool = True, **where: int) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT.format(speaking=speaking)]
    return subprocess.run(command, env=environment, text=True, check=True, stdin=subprocess.DEVNULL, **where)  # type: ignore[call-overload, no-any-return]


def test_a_program_gets_the_lines_alone() -> None:
    assert run(stderr=subprocess.PIPE).stderr == "".join(f"epoch {number} is done\n" for number in range(3))


def test_on_a_terminal_lines_stand_above_the_bar() -> None:
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    try:
        run(stderr=theirs)
        shown = os.read(ours, 1 << 16).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    assert "train: " in shown
    assert re.search(r"\d+/3 \[", shown)
    for number in range(3):
        # Each starts where the bar was taken away, and the bar comes again after it.
        assert re.search(rf"\r *\repoch {number} is done\r\n", shown)


def test_whoever_is_not_spoken_to_sees_nothing() -> None:
    assert run(speaking=False, stderr=subprocess.PIPE).stderr == ""
