"""Commands without their start-up: a process that has the imports behind it forks one for each.

Importing torch and transformers takes longer than everything else that a tiny extraction does. The quick campaign saves
it; what runs in the fork is what `python -m` runs, it is a process of its own, and `kill -9` kills it alike.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Without polars, and the project's own modules, which import it: it starts threads, and they do not survive a fork.
HEAVY = (
    "torch.export",
    "jaxtyping",
    "tokenizers",
    "tqdm",
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
    "zarr.storage",
    "obstore.store",
    "distributed.cli.dask_worker",
    "distributed.cli.dask_scheduler",
    "dask.cli",
    "pydantic",
    "yaml",
    "psutil",
    "filelock",
)


class Forked:
    """A forked command, with what the campaign uses of `subprocess.Popen`."""

    def __init__(self, pid: int, ended: threading.Event) -> None:
        self.pid, self.returncode = pid, 0
        self._ended = ended

    def end(self, code: int) -> None:
        """Notes its end."""
        self.returncode = code
        self._ended.set()

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        return self.returncode if self._ended.is_set() else None

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end. Raises `subprocess.TimeoutExpired`."""
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("forked", timeout or 0)
        return self.returncode

    def kill(self) -> None:
        """`kill -9`."""
        os.kill(self.pid, signal.SIGKILL)


class Warm:
    """The process that forks; `start` takes what `python -m` takes."""

    def __init__(self, environment: dict[str, str], modules: Sequence[str] = HEAVY) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.faults.warm", *modules],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._lock, self._running = threading.Lock(), dict[int, Forked]()
        self._born, self._newest = threading.Semaphore(0), 0
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, command: list[str], folder: Path, environment: dict[str, str], said: str) -> Forked:
        """Forks a process that runs the module `command[0]` with the rest as its arguments; it writes into `said`."""
        assert self._server.stdin is not None
        with self._lock:
            request = {"command": command, "folder": str(folder), "environment": environment, "said": said}
            self._server.stdin.write(json.dumps(request) + "\n")
            self._born.acquire()
            return self._running[self._newest]

    def end(self) -> None:
        """Ends the process that forks."""
        self._server.kill()
        self._server.wait()

    def _listen(self) -> None:
        assert self._server.stdout is not None
        for line in self._server.stdout:
            pid, code = json.loads(line)
            if code is None:
                self._running[pid], self._newest = Forked(pid, threading.Event()), pid
                self._born.release()
            else:
                self._running[pid].end(code)


def serve() -> None:
    """Forks for every line of standard input, and says on standard output who was born and who has ended."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else every fork goes through all of it once more at its end, and copies its pages
    while True:
        ready, _, _ = select.select([0], [], [], 0.01)
        if ready:
            line = _line()
            if not line:
                return
            pid = os.fork()
            if pid == 0:
                return _become(json.loads(line))
            _say(pid, None)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                _say(ended[0], os.waitstatus_to_exitcode(ended[1]))


def _line() -> bytes:
    """One line, byte by byte: what follows it belongs to the next turn."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line


def _say(pid: int, code: int | None) -> None:
    os.write(1, f"{json.dumps([pid, code])}\n".encode())


def _become(request: dict[str, Any]) -> None:
    """Makes this process what `python -m` would have made, and runs the module."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    said = os.open(request["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(said, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.orig_argv = ["python", "-m", *request["command"]]
    sys.argv = list(request["command"])
    importlib.import_module("benchmarks.faults.inside.sitecustomize")  # as Python's own start-up does
    runpy.run_module(request["command"][0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve()
