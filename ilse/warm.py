"""`python -m ilse.warm dvc repro`: the same command, whose stages start at once.

Each stage is a process of its own, and most of a short one's time goes into the import of PyTorch, transformers and
Lightning. Here one process imports them, beside the first stages, and forks for each `ilse` that the command starts.
What is forked imports `ilse` and its halves by itself, from where the caller would, and has the caller's arguments,
environment, folder and open files. Until the packages are there, and wherever that process is not, `ilse` is the
program that is installed; so it is on systems other than Linux.

The file runs by its path too, and then holds no module of ours: `ilse` would be imported from here for everyone.
"""

from __future__ import annotations

import gc
import json
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LARGE = (
    "torch", "polars", "zarr", "pydantic", "jaxtyping", "lightning.pytorch", "torchmetrics", "transformers",
    "transformers.models.auto.modeling_auto", "sklearn.linear_model", "sklearn.feature_extraction.text", "scipy.stats",
    "distributed", "pyarrow.parquet", "altair", "jinja2", "vl_convert", "gguf",
)  # fmt: skip
"""What is imported, as far as it is installed, in this order."""
PROGRAMS = {"ilse": "ilse.cli"}
"""Console script → the module of its `main`."""
SERVE = "--serve"
START = """#!/bin/sh
exec {python} -IS {ask} {address} {module} {installed} "$0" "$@"
"""
ASK = """
import json, os, signal, socket, sys
address, module, installed, *arguments = sys.argv[1:]
server = socket.socket(socket.AF_UNIX)
try:
    server.connect(address)
except OSError:
    os.execv(installed, [installed, *arguments[1:]])
signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks is told when the work has ended, which Ctrl-C reaches too
told = json.dumps([module, arguments, dict(os.environ), os.getcwd()]).encode()
socket.send_fds(server, [len(told).to_bytes(8, "big")], [0, 1, 2])
server.sendall(told)
ended = server.recv(8)
sys.exit(int.from_bytes(ended, "big") if ended else f"{arguments[0]}: its process was killed")
"""


def main(command: Sequence[str]) -> int:
    """Runs `command` and returns its exit status."""
    from ilse.core.terminal import say

    if not command:
        say("usage: python -m ilse.warm COMMAND [ARGUMENT ...], such as: dvc repro")
        return 2
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C ends the command, and the command us
    with tempfile.TemporaryDirectory(prefix="ilse-") as folder, warm_programs(Path(folder)) as programs:
        path = os.pathsep.join([*([str(programs)] if programs else []), os.environ.get("PATH", os.defpath)])
        try:
            ended = subprocess.run([*command], env={**os.environ, "PATH": path}).returncode
        except OSError as error:
            say(f"error: {command[0]}: {error.strerror}")
            return 127
    return ended if ended >= 0 else 128 - ended


@contextmanager
def warm_programs(
    folder: Path, programs: Mapping[str, str] = PROGRAMS, large: Sequence[str] = LARGE, wait: bool = False
) -> Iterator[Path | None]:
    """A folder for the front of `PATH` with the programs in it, until the block ends; None where there are none.

    With `wait` the packages are imported when it begins.
    """
    if sys.platform != "linux":
        yield None
        return
    bin_folder, address, ask = folder / "bin", folder / "socket", folder / "ask.py"
    bin_folder.mkdir(parents=True)
    ask.write_text(ASK)
    for name, module in programs.items():
        installed = shutil.which(name) or str(Path(sys.executable).parent / name)
        words = {"python": sys.executable, "ask": ask, "address": address, "module": module, "installed": installed}
        (bin_folder / name).write_text(START.format(**{key: shlex.quote(str(word)) for key, word in words.items()}))
        (bin_folder / name).chmod(0o755)
    serve = [sys.executable, "-P", __file__, SERVE, str(address), *large]
    quiet = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(serve, env=_environment(), cwd=folder, **quiet)  # type: ignore[call-overload]
    try:
        if wait:
            process.stdout.readline()
        yield bin_folder
    finally:
        process.kill()
        process.communicate()


def _environment() -> dict[str, str]:
    """Of the process that imports: without the caller's own modules, and with what a program of ours says first."""
    from ilse.core.machine.spinning import spinning

    theirs = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**theirs, **spinning()}


def _serve(address: str, large: Sequence[str]) -> None:
    """Imports and waits for those who ask, until its own parent has ended."""
    import importlib

    for module in large:
        with suppress(ImportError):
            importlib.import_module(module)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # each tells by itself how it ended
    gc.freeze()  # a collection in a child would copy all that is shared
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{address}.new")
        server.listen(64)
        os.rename(f"{address}.new", address)  # who finds it is answered
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([server, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            asked, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _answer(asked)
            asked.close()


def _answer(asked: socket.socket) -> None:
    """Runs one program and tells how it ended. Does not return."""
    head, files, _, _ = socket.recv_fds(asked, 8, 3)
    told, length = b"", int.from_bytes(head, "big")
    while len(told) < length:
        told += asked.recv(length - len(told))
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with, args=[asked], daemon=True).start()
    code = _run(*json.loads(told))
    asked.sendall(code.to_bytes(8, "big"))
    os._exit(code)


def _end_with(asked: socket.socket) -> None:
    """Ends this process when the one that asked has been killed."""
    if not asked.recv(1):
        os.kill(os.getpid(), signal.SIGTERM)


def _run(module: str, arguments: list[str], environment: dict[str, str], folder: str) -> int:
    """The exit status of what the console script does, up to where Python ends a process."""
    import atexit
    import importlib
    import random
    import traceback

    code: Any = 1
    try:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        random.seed()
        sys.argv = arguments
        _as_started_in(environment)
        sys.path[:0] = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
        importlib.invalidate_caches()
        code = importlib.import_module(module).main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return (code or 0) & 255


def _as_started_in(environment: Mapping[str, str]) -> None:
    """What Python itself reads of the environment when it starts, and how it writes to a terminal."""
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    sys.pycache_prefix = environment.get("PYTHONPYCACHEPREFIX") or None
    unbuffered = bool(environment.get("PYTHONUNBUFFERED"))
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty() or unbuffered)  # type: ignore[union-attr]


if __name__ == "__main__":
    if sys.argv[1:2] == [SERVE]:
        _serve(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main(sys.argv[1:]))
