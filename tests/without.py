"""A Python process in which some packages are not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.pipeline.caches import files_of

ROOT = Path(__file__).parent.parent
ONLY_TO_EXTRACT = ("transformers", "tokenizers", "dask", "distributed", "gguf", "accelerate", "huggingface_hub")
"""What the extra 'train' leaves out."""

HIDING = """
import importlib.machinery, importlib.metadata
HIDDEN = {hidden!r}
find, distribution = importlib.machinery.PathFinder.find_spec, importlib.metadata.distribution
def find_spec(name, path=None, target=None):
    return None if name.split(".")[0] in HIDDEN else find(name, path, target)
def installed(name):
    if name.replace("-", "_") in HIDDEN:
        raise importlib.metadata.PackageNotFoundError(name)
    return distribution(name)
importlib.machinery.PathFinder.find_spec = staticmethod(find_spec)
importlib.metadata.distribution = installed
"""


def site_without(packages: Sequence[str], folder: Path) -> Path:
    """Where Python finds what hides them, when it stands first on its path; in `folder`."""
    site = folder / ".site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(HIDING.format(hidden=tuple(packages)))
    return site


def ilse_without(packages: Sequence[str], folder: Path, *commands: Sequence[str]) -> str:
    """What these `ilse` commands print, one after the other in one process that works in `folder`."""
    words = [list(command) for command in commands]
    code = f"from ilse.cli import main\nfor words in {words!r}: main(words, standalone_mode=False)"
    path = os.pathsep.join([str(site_without(packages, folder)), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def predictions_without(
    packages: Sequence[str], folder: Path, data: Mapping[str, tuple[str | Path, Path]]
) -> dict[str, dict[str, bytes]]:
    """Name → the files of predictions, of a head trained and evaluated in `folder` from this cache and its examples."""
    commands: list[list[str]] = []
    for name, (cache, examples) in data.items():
        places = ["--cache", str(cache), "--examples", str(examples)]
        places += ["--models", f"{name}/models", "--results", f"{name}/results"]
        commands += [["train", "last", *places], ["evaluate", *places]]
    ilse_without(packages, folder, *commands)
    return {name: files_of(folder / name / "results" / "predictions") for name in data}
