"""Runs commands, each in a process of its own that finds its libraries loaded; in a namespace with a small disk.

    python tests/ending.py <project> <disk, or empty> <size of the disk>  < one JSON list of arguments a line

Where a disk is named, the project is copied to it; the line "fill N" fills it but for N bytes, "free" undoes it, and
"copy" brings the project back. What is told of every command is a line of JSON: its arguments, exit code, what it said,
and which files differ afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

MODULES = (
    "polars", "torch", "transformers", "lightning.pytorch", "trainer.stages.train", "trainer.stages.control",
    "trainer.stages.evaluate", "trainer.stages.analyse", "trainer.report", "trainer.export", "ilse.predict.command",
    "pipeline.stages.prepare", "pipeline.stages.extract", "ilse.finetune.lora", "trainer.stages.tune",
)  # fmt: skip


def call(arguments: list[str]) -> tuple[int, str]:
    """Exit code, negative for a signal, and all that was said."""
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            os._exit(_main(arguments))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        return code, said.read().decode(errors="replace")


def _main(arguments: list[str]) -> int:
    from ilse.cli import main

    code = 0
    try:
        main(arguments, prog_name="ilse")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def tree(folder: Path) -> dict[str, str]:
    """Every file and folder, with a digest of what is in it; the locks that are no one's are left out."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
        if path.name not in ("lock", "filler")
    }


def fill(folder: Path, left: int) -> None:
    """Fills the disk, but for so many bytes."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    os.truncate(filler, max(0, filler.stat().st_size - left))


def run() -> None:
    project, disk, size = sys.argv[1:4]
    for name in MODULES:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    folder = Path(project)
    if disk:
        folder = Path(disk)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
        subprocess.run(["cp", "-a", f"{project}/.", disk], check=True)
    os.chdir(folder)
    print("ready", flush=True)
    for line in sys.stdin:
        words = line.split()
        if words[0] == "fill":
            fill(folder, int(words[1]))
        elif words[0] == "free":
            (folder / "filler").unlink()
        elif words[0] == "copy":
            if disk:
                subprocess.run(["cp", "-a", f"{disk}/.", project], check=True)
            print("copied", flush=True)
        else:
            before = tree(folder)
            code, said = call(json.loads(line))
            after = tree(folder)
            changed = sorted(name for name in before | after if before.get(name) != after.get(name))
            print(json.dumps([json.loads(line), code, said, changed]), flush=True)


if __name__ == "__main__":
    run()
