"""Writes the sources among the dependencies in `dvc.yaml`, and new projects' stages: `python docs/make_stages.py`.

A stage's sources are the modules that its command imports, at any depth, as far as they can change what it writes. They
are read from the import statements, those inside functions too, and nothing is run. A folder stands for its modules
where all of them count.

A user's project has the package installed and not its sources, so the template's stages are the same without them, and
without the plots' own templates: those lie in `.dvc/`, which is `dvc init`'s to make.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from ilse.core.files.atomic import write_text

ROOT = Path(__file__).parent.parent
STAGES = ROOT / "dvc.yaml"
TEMPLATE = ROOT / "pipeline" / "templates" / "dvc.yaml"
SOURCES = ("ilse", "pipeline", "trainer")
HOW_NOT_WHAT = {
    "ilse/__init__.py": "the version, which is written down and computes nothing",
    "ilse/core/machine/children.py": "which folders the Pythons that we start import from",
    "ilse/core/files/destinations.py": "whether an output can be written",
    "ilse/core/files/full_disk.py": "what messages say",
    "ilse/core/errors.py": "what messages say",
    "ilse/core/files/folder_lock.py": "that two runs keep apart",
    "ilse/core/machine/memory.py": "what the process does with memory that it frees",
    "ilse/core/files/ownership.py": "which folders may be replaced",
    "ilse/core/files/partials.py": "where half-made files wait",
    "ilse/core/files/places.py": "where links lead",
    "ilse/core/progress_bars.py": "what the terminal shows",
    "ilse/core/secrets.py": "what messages hide",
    "ilse/core/machine/spinning.py": "how threads wait for one another",
    "ilse/core/terminal.py": "what messages show",
    "pipeline/tokenizer/unknown.py": "whether the tokenizer knows the texts' words, or the run is refused",
    "pipeline/cluster": "where the work runs: a serial run gives the same bytes",
    "pipeline/forecast": "what it will cost",
    "pipeline/work/lock.py": "that two runs keep apart",
    "pipeline/work/scratch.py": "where unfinished work waits",
    "trainer/data/memory.py": "whether rows are held or streamed: the same batches",
    "trainer/fitting/progress.py": "how a fit that was killed goes on: to the same bytes",
}
"""Module or folder → what it decides instead of the output: a change of it reruns nothing, nor does what it imports."""
AHEAD = {"identify": "extract"}
"""Command → the one that it goes ahead of: it must change whenever that does."""
OWN_PLOTS = {path.stem for path in (ROOT / ".dvc" / "plots").glob("*.json")}
TOP = """# The stages of a project, made by 'ilse init': each is one subcommand. `dvc repro` runs what changed.
# Where the model is missing and the cache is not: dvc repro --pull --downstream train control control_on
# DVC does not see a new version of ilse-cache: after one, `dvc repro --force`.
"""


@cache
def sources(command: str) -> list[str]:
    """The dependencies of a subcommand of `ilse` among our modules: files, and folders of which every module counts."""
    nodes = (node for file in (ROOT / "ilse" / "cli").glob("*_commands.py") for node in _parsed(file).body)
    body = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}
    entries = [body[name] for name in (command, AHEAD.get(command)) if name]
    found: set[Path] = set()
    waiting = {file for entry in entries for file in _imported(entry)}
    while waiting:
        found |= waiting
        waiting = {file for one in waiting for file in _imported_by(one)} - found
    return sorted(_folded(found))


def stages() -> str:
    """`dvc.yaml` as it has to be: the file as it is, each stage with the sources that its command has now."""
    text = STAGES.read_text(encoding="utf-8")
    top, *parts = re.split(r"(?m)^(?=  \w+:)", text)
    return top + "".join(map(_with_sources, parts))


def template() -> str:
    """The stages of a new project."""
    yaml = YAML()
    yaml.width = 10_000
    document = yaml.load(stages())
    for stage in document["stages"].values():
        deps = stage.get("do", stage).get("deps", [])
        for i in reversed(range(len(deps))):
            if _is_source(deps[i]):
                del deps[i]
        for plot in stage.get("do", stage).get("plots", []):
            for axes in plot.values():
                if axes.get("template") in OWN_PLOTS:
                    del axes["template"]
    with StringIO() as text:
        yaml.dump(document, text)
        return TOP + text.getvalue()[text.getvalue().index("stages:") :]


def _with_sources(stage: str) -> str:
    """A stage's lines with the sources behind its other dependencies."""
    command = re.search(r"cmd: ilse (\w+)", stage)
    block = re.search(r"(?m)^( +)deps:\n((?:\1 +.*\n)+)", stage)
    if command is None or block is None:
        raise ValueError(f"neither 'cmd: ilse …' nor a list of 'deps', a line each:\n{stage}")
    lines = [line for line in block[2].splitlines(keepends=True) if not _is_source(line.strip().removeprefix("- "))]
    lines += [f"{block[1]}  - {source}\n" for source in sources(command[1])]
    return stage[: block.start(2)] + "".join(lines) + stage[block.end(2) :]


@cache
def _imported_by(file: Path) -> frozenset[Path]:
    return frozenset(_imported(_parsed(file)))


def _imported(tree: ast.AST) -> Iterator[Path]:
    """Files of ours that the code imports; what is imported for the types alone is not."""
    for node in _outside_of_types(tree):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            within = [f"{node.module}.{alias.name}" for alias in node.names]
            # `from pipeline import store` asks the package for a module, and for nothing that it says itself.
            named = [name if _file(name) else node.module for name in within]
        else:
            continue
        yield from (file for file in map(_file, named) if file is not None and not _decides_how(file))


def _outside_of_types(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield node
            yield from _outside_of_types(node)


def _file(module: str) -> Path | None:
    if module.split(".")[0] not in SOURCES:
        return None
    place = ROOT.joinpath(*module.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def _decides_how(file: Path) -> bool:
    return any(file == ROOT / name or ROOT / name in file.parents for name in HOW_NOT_WHAT)


def _folded(files: Iterable[Path]) -> Iterator[str]:
    """The files' names, a folder's in the place of theirs where all of its modules are among them."""
    files = set(files)
    folders = {folder for file in files for folder in file.parents if ROOT in folder.parents}
    whole = {folder for folder in folders if _modules(folder) <= files}
    for path in files | whole:
        if not whole & set(path.parents):
            yield path.relative_to(ROOT).as_posix()


@cache
def _modules(folder: Path) -> set[Path]:
    """Those with something in them: a package's own file often holds its description alone."""
    return {file for file in folder.rglob("*.py") if any(not isinstance(node, ast.Expr) for node in _parsed(file).body)}


def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _is_source(dependency: Any) -> bool:
    return str(dependency).split("/")[0] in SOURCES


if __name__ == "__main__":
    write_text(STAGES, stages())
    write_text(TEMPLATE, template())
