"""Starts the real commands in processes of their own, and waits for how they end."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults.hook import INSIDE, Hook
from benchmarks.faults.warm import Forked, Warm

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 300.0
"""Seconds after which a command counts as one that hangs."""
HUNG = -9000
"""Exit code of a command that hung and was killed."""
Env = Mapping[str, str]
NOTHING: Env = {}


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative for a signal) and all it said."""

    code: int
    said: str


class Running:
    """A command in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes] | Forked, said: Path) -> None:
        self.process, self._said = process, said

    def wait(self, patience: float = PATIENCE) -> Ended:
        """Waits for its end; one that hangs is killed, with its children."""
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
            code = HUNG
        return Ended(code, self._said.read_text(errors="replace"))

    def ended_within(self, seconds: float) -> bool:
        """Waits for its end as long as that, and lets it go on."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """`kill -9` of the command and of what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Starter:
    """Starts `python -m ...` with the hook in it; `warm` names the modules that are imported once, for all."""

    def __init__(self, root: Path, warm: Sequence[str] = (), environment: Env = NOTHING) -> None:
        self.root = root
        self._commands = itertools.count()
        self._started: list[Running] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FAULTS_"))},
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{INSIDE}{os.pathsep}{ROOT}",
            "TOKENIZERS_PARALLELISM": "false",
            **environment,
        }
        self._warm = Warm(self.environment, warm) if warm else None

    def start_module(
        self,
        command: list[str],
        folder: Path,
        hook: Hook | None = None,
        before: Sequence[str] = (),
        environment: Env = NOTHING,
        said: Path | None = None,
    ) -> Running:
        """Starts `python -m command`, in a session of its own. What it says goes to the file `said`, which lies beside
        the folder unless it is given: the disk under it may be full.
        """
        variables = {**self.environment, **(hook.environment() if hook else {}), **environment}
        said = said or folder.with_suffix(f".said{next(self._commands)}")
        if self._warm and not before:
            running = Running(self._warm.start(command, folder, variables, str(said)), said)
        else:
            whole = [*before, sys.executable, "-m", *command]
            with said.open("w") as file:
                streams: Any = {"stdout": file, "stderr": file, "stdin": subprocess.DEVNULL}
                process = subprocess.Popen(whole, cwd=folder, env=variables, start_new_session=True, **streams)
            running = Running(process, said)
        self._started.append(running)
        return running

    def end(self) -> None:
        """Ends what an error of the campaign itself has left running."""
        for running in self._started:
            if running.process.poll() is None:
                os.killpg(running.process.pid, signal.SIGKILL)
                running.process.wait()
        if self._warm:
            self._warm.end()
