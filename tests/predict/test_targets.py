"""Whatever a command is told to write to: what is not ours is as before, or the command refused and wrote nothing.

Every command with each of its destinations, by every kind of thing that may stand there.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import click
import pytest
import yaml
from click.testing import CliRunner

from ilse.cli import main
from ilse.core.files import ownership as ours
from ilse.core.files.destinations import Destination
from ilse.core.files.ownership import Made
from tests.predict.conftest import Project

Snapshot = dict[str, tuple[Any, ...]]


class Target(NamedTuple):
    """A destination of a command: the words that name it, `{}` for the path, and what stands there afterwards."""

    words: str
    made: Made | None
    """None of a file."""
    inside: str = ""
    """Where it lies in what is named."""
    runs: bool = True
    """Whether the walk lets it run where it is not refused; the others take seconds, and more than is here."""


FETCHED = Made("a fetched artifact", re.compile(".+"), re.compile(".+"))
"""In place of what `pipeline.stages.fetch` makes up for each artifact."""
TARGETS = {
    "fetch --out": Target("fetch it --out {}", FETCHED, "it"),
    "identify --out": Target("identify --out {}", None),
    "extract --out": Target("extract --out {}", ours.CACHE),
    "extract --figures": Target("extract --figures {}", None),
    "subset out": Target("subset data/cache.zarr {}", ours.CACHE),
    "subset --examples": Target("subset data/cache.zarr small.zarr --examples data/examples.parquet {}", None),
    "train --models": Target("train mean --models {}", ours.HEADS, "mean"),
    "control --models": Target("control majority --models {}", ours.HEADS, "majority"),
    "lora --models": Target("lora --models {}", ours.HEADS, "lora", runs=False),
    "analyse --results": Target("analyse --results {}", ours.ANALYSIS, "analysis", runs=False),
    "evaluate --results": Target("evaluate --results {}", ours.PREDICTIONS, "predictions"),
    "predict --out": Target("predict models/mean/seed-0 --model model --input source.csv --out {}", None),
    "predict --why": Target(
        "predict models/mean/seed-0 --model model --input source.csv --out answers.csv --why {}", None, runs=False
    ),
    "pull out": Target("pull owner/name {}", ours.PULLED, runs=False),
    "export --out": Target("export models/mean/seed-0 --to torch --out {}", ours.EXPORT, runs=False),
    "report --out": Target("report --out {}", None, runs=False),
    "report --markdown": Target("report --markdown {}", None),
    "report --figures": Target("report --figures {}", ours.PICTURES, runs=False),
    "layers --out": Target("layers --out {}", None),
    "compare --out": Target("compare a=results b=results --out {}", None, runs=False),
}
KEPT_AS_FOLDERS = {"prepare --out", "extract --scratch", "prepare --scratch"} | {
    f"{command} {option}" for command in ("train", "control", "lora", "tune", "why") for option in ("--results",)
}
"""Folders in which single files of ours are replaced, by names that are ours."""


def test_every_destination_is_walked() -> None:
    every = {
        f"{name} {param.opts[0]}"
        for name, command in main.commands.items()
        for param in command.params
        for kind in getattr(param.type, "types", [param.type])
        if isinstance(kind, Destination)
    }
    assert every == TARGETS.keys() | KEPT_AS_FOLDERS


@pytest.fixture(scope="module")
def ready(project: Callable[..., Project], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project as its commands leave it, with a sample of all that they replace in `samples`."""
    made, folder = project(), tmp_path_factory.mktemp("targets") / "project"
    made.trained("mean")
    shutil.copytree(made.folder, folder / "data", ignore=shutil.ignore_patterns("models", "results", "scratch"))
    shutil.copytree(made.model, folder / "model")
    shutil.copy(made.folder / "source.csv", folder)
    for name in ("models", "results"):
        shutil.copytree(made.folder / name, folder / name)
    params = {
        "fetch": {"it": {"kind": "path", "path": "source.csv"}},
        "prepare": {"path": "source.csv"},
        "extract": {
            "model": {"path": "model"}, "compute_type": "float32", "max_tokens": 10, "batch_tokens": 64,
            "shard_rows": 64, "threads": 1, "cluster": {"kind": "synchronous"},
        },
        "train": {"heads": ["mean"], "seeds": 1, "device": "cpu", "recipe": {"epochs": 1}},
        "controls": {"names": [], "seeds": 1, "grid": [1.0], "caches": {}, "baseline": None, "others": []},
        "lora": {"run": []},
    }  # fmt: skip
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    samples = {
        ours.CACHE: folder / "data" / "cache.zarr",
        ours.HEADS: folder / "models" / "mean",
        ours.PULLED: folder / "models" / "mean" / "seed-0",
        ours.PREDICTIONS: folder / "results" / "predictions",
    }
    for made_as, sample in samples.items():
        shutil.copytree(sample, folder / "samples" / _name(made_as))
    for made_as, names in {
        ours.ANALYSIS: ["caveats.json", "cka.csv"],
        ours.EXPORT: ["head.json", "head.pt2"],
        ours.PICTURES: ["cost-1.svg", "cost-1.png"],
    }.items():
        (folder / "samples" / _name(made_as)).mkdir()
        for name in names:
            (folder / "samples" / _name(made_as) / name).write_text('<svg><g class="marks"/></svg>')
    return folder


@pytest.fixture
def here(ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, which is the working directory."""
    shutil.copytree(ready, tmp_path / "project")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "thesis.txt").write_text("years of work")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path


def _name(made: Made) -> str:
    return made.what.replace(" ", "_").replace("'", "").replace(",", "")


def snapshot(folder: Path) -> Snapshot:
    """Every file, folder, link and special file under the folder, with what it holds."""
    found: Snapshot = {}
    for path in sorted(folder.rglob("*")):
        facts, name = path.lstat(), str(path.relative_to(folder))
        if stat.S_ISLNK(facts.st_mode):
            found[name] = "link", os.readlink(path)
        elif stat.S_ISREG(facts.st_mode):
            found[name] = "file", path.read_bytes()
        else:
            found[name] = stat.S_IFMT(facts.st_mode), facts.st_rdev
    return found


def foreign_folder(place: Path, _target: Target) -> None:
    (place / "sub").mkdir(parents=True)
    (place / "sub" / "thesis.txt").write_text("years of work")
    (place / "config.json").write_text("{}")


def ours_and_a_foreign_file(place: Path, target: Target) -> None:
    assert target.made is not None
    if target.made is FETCHED:
        assert run(target, place.parent).exit_code == 0
        assert run(target, place.parent).exit_code == 0  # what was fetched is replaced
    else:
        shutil.copytree(Path("samples") / _name(target.made), place)
    assert target.made.foreign(place) is None
    (place / "thesis.txt").write_text("years of work")


def ours_and_a_hidden_folder(place: Path, target: Target) -> None:
    ours_and_a_foreign_file(place, target)
    (place / ".git").mkdir()
    (place / "thesis.txt").rename(place / ".git" / "HEAD")


def ours_and_a_link(place: Path, target: Target) -> None:
    ours_and_a_foreign_file(place, target)
    (place / "thesis.txt").unlink()
    (place / "seed-7").symlink_to("../elsewhere")


def plain_file(place: Path, _target: Target) -> None:
    place.write_text("years of work")


def link_to_a_file(place: Path, _target: Target) -> None:
    place.symlink_to(Path.cwd().parent / "elsewhere" / "thesis.txt")


def link_to_a_folder(place: Path, _target: Target) -> None:
    place.symlink_to(Path.cwd().parent / "elsewhere")


def link_to_nothing(place: Path, _target: Target) -> None:
    place.symlink_to(Path.cwd().parent / "elsewhere" / "new")


def link_in_a_circle(place: Path, _target: Target) -> None:
    place.symlink_to(place.name)


def pipe(place: Path, _target: Target) -> None:
    os.mkfifo(place)


def device(place: Path, _target: Target) -> None:
    try:
        os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # what /dev/null is
    except PermissionError:
        pytest.skip("devices are made by root")


Put = Callable[[Path, Target], None]
OF_FOLDERS: tuple[Put, ...] = (
    foreign_folder, ours_and_a_foreign_file, ours_and_a_hidden_folder, ours_and_a_link, plain_file, link_to_a_file,
    link_to_a_folder, link_in_a_circle, pipe, device,
)  # fmt: skip
OF_FILES: tuple[Put, ...] = foreign_folder, link_to_a_folder, link_in_a_circle
WRITTEN_THROUGH: tuple[Put, ...] = link_to_a_file, link_to_nothing, pipe, device


def run(target: Target, there: Path) -> click.testing.Result:
    return CliRunner().invoke(main, [word.format(there) for word in target.words.split()])


def refused() -> list[Any]:
    return [
        pytest.param(target, put, id=f"{name}, {put.__name__}")
        for name, target in TARGETS.items()
        for put in (OF_FILES if target.made is None else OF_FOLDERS)
    ]


def written() -> list[Any]:
    """Of the files each in one of the ways, as every command writes them by the same code (`tests/test_files.py`)."""
    of_files = [(name, target) for name, target in TARGETS.items() if target.made is None and target.runs]
    ways = {name: (WRITTEN_THROUGH[i % 4],) for i, (name, _) in enumerate(of_files)}
    folders = {name: (link_to_nothing,) for name, target in TARGETS.items() if target.made and target.runs}
    return [
        pytest.param(TARGETS[name], put, id=f"{name}, {put.__name__}")
        for name, puts in (ways | folders).items()
        for put in puts
    ]


@pytest.mark.parametrize(("target", "put"), refused())
def test_what_is_not_ours_is_refused_and_stays(target: Target, put: Put, here: Path) -> None:
    there = Path("there.csv")
    place = there / target.inside
    place.parent.mkdir(exist_ok=True)
    put(place, target)
    before = snapshot(here)
    found = run(target, there)
    assert found.exit_code == 2, (found.output, found.exception)
    assert f"destination {place}" in found.stderr.replace(f"{Path.cwd()}/", "")
    if "foreign" in put.__name__ and target.made is not None:
        assert "thesis.txt" in found.stderr or "config.json" in found.stderr
    assert snapshot(here) == before


@pytest.mark.parametrize(("target", "put"), written())
def test_a_link_stays_a_link_and_a_stream_a_stream(target: Target, put: Put, here: Path) -> None:
    there = Path("there.csv")
    place = there / target.inside
    place.parent.mkdir(exist_ok=True)
    put(place, target)
    before = place.lstat().st_ino, place.lstat().st_mode
    with drained(place) as read:
        found = run(target, there)
    assert found.exit_code == 0, (found.output, found.exception)
    assert (place.lstat().st_ino, place.lstat().st_mode) == before
    if target.made not in (None, FETCHED):
        assert target.made.foreign(place) is None
    if place.is_symlink():
        new = place.resolve()
        assert any(new.iterdir()) if new.is_dir() else new.read_bytes() not in (b"", b"years of work")
    elif put is pipe:
        assert read


@contextmanager
def drained(place: Path) -> Iterator[list[bytes]]:
    """Reads what comes through a pipe, if it is one."""
    read: list[bytes] = []
    if not stat.S_ISFIFO(place.lstat().st_mode):
        yield read
        return
    descriptor, ended = os.open(place, os.O_RDONLY | os.O_NONBLOCK), Event()

    def drain() -> None:
        while True:
            try:
                read.append(os.read(descriptor, 2**16))
            except BlockingIOError:
                read.append(b"")
            if not read[-1]:
                read.pop()
                if ended.is_set():
                    return
                time.sleep(0.01)

    thread = Thread(target=drain)
    thread.start()
    try:
        yield read
    finally:
        ended.set()
        thread.join()
        os.close(descriptor)
