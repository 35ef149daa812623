"""Programs that start in no time: a process that has imported the large packages forks one for each command.

Importing PyTorch and transformers takes seconds a process, and the stories under DVC start dozens. What is tested is
not loaded: `ilse` and its halves are imported by each command anew, from where its own `PYTHONPATH` says. Commands run
in a process of their own, with the caller's environment, folder, arguments and files.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LARGE = (
    "altair", "dvc.cli.parser", "dvc.repo", "dvc.repo.experiments", "dvc.stage", "lightning.pytorch", "polars",
    "scipy.stats", "sklearn.linear_model", "torch", "torchmetrics", "transformers",
    "transformers.models.auto.modeling_auto", "zarr",
)  # fmt: skip
PROGRAMS = {"ilse": "ilse.cli", "dvc": "dvc.cli"}
"""Console script → the module of its `main`."""
SHIM = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    told = json.dumps([{module!r}, sys.argv, dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(server, [len(told).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(told)
    ended = server.recv(8)
    sys.exit(int.from_bytes(ended, "big") if ended else "no answer")
"""


@contextmanager
def warm_programs(folder: Path) -> Iterator[Path]:
    """A folder for the front of `PATH` with the programs in it; they work until the block ends."""
    bin_folder, address = folder / "bin", str(folder / "socket")
    bin_folder.mkdir(parents=True)
    for name, module in PROGRAMS.items():
        (bin_folder / name).write_text(SHIM.format(python=sys.executable, address=address, module=module))
        (bin_folder / name).chmod(0o755)
    # Python keeps what it compiles, as mostly.
    hidden = ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    process = subprocess.Popen(
        [sys.executable, __file__, address], env=environment, cwd=folder, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield bin_folder
    finally:
        process.kill()
        process.wait()


def _serve(address: str) -> None:
    import importlib

    sys.path = [entry for entry in sys.path if entry != str(Path(__file__).parent)]
    for module in LARGE:
        importlib.import_module(module)
    loaded = sorted({name.split(".")[0] for name in sys.modules} & {"ilse", "pipeline", "trainer", "finetune"})
    assert not loaded, loaded
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # each tells by itself how it ended
    gc.freeze()  # a collection in a child would copy all that is shared
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen(64)
        print("ready", flush=True)
        while True:
            asked, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _answer(asked)
            asked.close()


def _answer(asked: socket.socket) -> None:
    """Runs one command and tells how it ended. Does not return."""
    head, files, _, _ = socket.recv_fds(asked, 8, 3)
    told, length = b"", int.from_bytes(head, "big")
    while len(told) < length:
        told += asked.recv(length - len(told))
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = _run(*json.loads(told))
    asked.sendall(code.to_bytes(8, "big"))
    os._exit(code)


def _run(module: str, arguments: list[str], environment: dict[str, str], folder: str) -> int:
    """The exit status of what the console script does, up to where Python ends a process."""
    import atexit
    import importlib
    import random
    import threading
    import traceback

    code: Any = 1
    try:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        random.seed()
        sys.argv = arguments
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


if __name__ == "__main__":
    _serve(sys.argv[1])
