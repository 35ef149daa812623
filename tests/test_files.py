"""Replacing files and folders: whole, or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilse.errors import UserError
from ilse.files import replacing, replacing_folder, write_json, write_text

Replacing = Callable[[Path], AbstractContextManager[Path]]
Tree = dict[str, bytes]
"""Name → content."""

NAMES = st.sampled_from(["a", "b.txt", "sub/c", "sub/deep/d"])
TREES = st.dictionaries(NAMES, st.binary(max_size=20), max_size=4)


def put(path: Path, content: Tree | bytes) -> None:
    """Makes a file of bytes, or adds the files of a tree to a folder."""
    if isinstance(content, bytes):
        path.write_bytes(content)
        return
    path.mkdir(exist_ok=True)
    for name, data in content.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)


def look(path: Path) -> Tree | bytes | None:
    """What `put` made."""
    if path.is_file():
        return path.read_bytes()
    if not path.exists():
        return None
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def interrupted(path: Path, content: Tree | bytes | None) -> None:
    if content is not None:
        put(path, content)
    raise KeyboardInterrupt


def way(content: Tree | bytes) -> Replacing:
    return replacing if isinstance(content, bytes) else replacing_folder


def pairs() -> st.SearchStrategy[tuple[Tree | bytes | None, Tree | bytes]]:
    """An old content, perhaps none, and a new one of its kind."""
    files = st.tuples(st.none() | st.binary(max_size=20), st.binary(max_size=20))
    return files | st.tuples(st.none() | TREES, TREES)


@given(contents=pairs(), name=st.sampled_from(["x", "old", "new", "results.csv", ".hidden"]))
def test_after_success_the_new_content_is_there(
    tmp_path_factory: pytest.TempPathFactory, contents: tuple[Tree | bytes | None, Tree | bytes], name: str
) -> None:
    old, new = contents
    path = tmp_path_factory.mktemp("files") / "not" / "yet" / name
    if old is not None:
        path.parent.mkdir(parents=True)
        put(path, old)
    with way(new)(path) as temporary:
        assert look(path) == old
        put(temporary, new)
    assert look(path) == new
    assert os.listdir(path.parent) == [name]


@given(contents=pairs(), halfway=st.booleans())
def test_after_a_failure_the_old_content_is_there(
    tmp_path_factory: pytest.TempPathFactory, contents: tuple[Tree | bytes | None, Tree | bytes], halfway: bool
) -> None:
    old, new = contents
    path = tmp_path_factory.mktemp("files") / "x"
    if old is not None:
        put(path, old)
    with pytest.raises(KeyboardInterrupt), way(new)(path) as temporary:
        interrupted(temporary, new if halfway else None)
    assert look(path) == old
    assert os.listdir(path.parent) == ([] if old is None else ["x"])


def test_a_block_that_makes_nothing_is_a_failure(tmp_path: Path) -> None:
    put(tmp_path / "file", b"old")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file"):
        pass
    put(tmp_path / "folder", {"a": b"old"})
    with pytest.raises(FileNotFoundError), replacing_folder(tmp_path / "folder") as temporary:
        temporary.rmdir()
    assert (look(tmp_path / "file"), look(tmp_path / "folder")) == (b"old", {"a": b"old"})
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize("failing", [1, 2])
def test_an_interrupted_swap_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Ctrl-C after the old folder stepped aside, or before."""
    put(tmp_path / "folder", {"a": b"old"})
    rename, calls = Path.rename, []

    def interrupted(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == failing:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "folder") as temporary:
        put(temporary, {"a": b"new"})
    assert look(tmp_path / "folder") == {"a": b"old"}
    assert os.listdir(tmp_path) == ["folder"]


def test_a_file_takes_no_folders_place_and_the_reverse(tmp_path: Path) -> None:
    put(tmp_path / "folder", {"a": b"old"})
    put(tmp_path / "file", b"old")
    with pytest.raises(UserError, match=r"destination .*folder\n +expected: a file(.|\n)*found: +a folder"):
        write_text(tmp_path / "folder", "text")
    with (
        pytest.raises(UserError, match=r"destination .*file\n +expected: a folder(.|\n)*found: +a file"),
        replacing_folder(tmp_path / "file"),
    ):
        raise AssertionError("refused before any work")
    assert (look(tmp_path / "folder"), look(tmp_path / "file")) == ({"a": b"old"}, b"old")


@pytest.mark.parametrize("destination", [".", "..", "sub/..", "/"])
def test_the_working_directory_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, destination: str
) -> None:
    put(tmp_path / "project", {"sub/a": b"old"})
    monkeypatch.chdir(tmp_path / "project")
    with pytest.raises(UserError, match="a folder of its own"), replacing_folder(Path(destination)):
        raise AssertionError("refused before any work")
    assert look(tmp_path / "project") == {"sub/a": b"old"}


def test_a_link_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    """DVC may link a file of the project to its own store."""
    put(tmp_path / "kept", b"kept")
    (tmp_path / "link").symlink_to("kept")
    write_text(tmp_path / "link", "new")
    assert not (tmp_path / "link").is_symlink()
    assert (look(tmp_path / "link"), look(tmp_path / "kept")) == (b"new", b"kept")


def test_a_killed_writer_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "model"
    put(path, {"old": b""})
    script = (
        "import sys, time; from pathlib import Path; from ilse.files import replacing_folder\n"
        "with replacing_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'new').touch(); print('in', flush=True); time.sleep(60)"
    )
    root = Path(__file__).parents[1]
    child = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, cwd=root)
    assert child.stdout is not None
    assert child.stdout.readline() == b"in\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert look(path) == {"old": b""}
    with replacing_folder(path) as folder:
        put(folder, {"new": b""})
    assert look(path) == {"new": b""}


@given(text=st.text())
def test_text_is_written_as_it_is(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("files") / "text"
    write_text(path, text)
    assert path.read_bytes() == text.encode()


def test_json_is_readable_and_never_holds_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [1, 2.5, None]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1, 2.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1, 2.5, None]}
    assert os.listdir(tmp_path) == ["x.json"]
