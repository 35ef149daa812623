"""Replacing files and folders: whole, or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilse.core.errors import UserError
from ilse.core.files import atomic as files
from ilse.core.files.atomic import replacing, write_json, write_text
from ilse.core.files.ownership import Made

Replacing = Callable[[Path], AbstractContextManager[Path]]
Tree = dict[str, bytes]
"""Name → content."""

ANY = Made("a folder of anything", re.compile(r".+", re.DOTALL), re.compile(r".+", re.DOTALL))
replacing_folder = partial(files.replacing_folder, made=ANY)

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


@pytest.mark.parametrize("target", ["new", "kept"])
def test_a_link_stays_a_link(tmp_path: Path, target: str) -> None:
    """To a file or folder, there or not, over another link, from another folder."""
    (tmp_path / "far").mkdir()
    put(tmp_path / "far" / "kept", b"kept")
    (tmp_path / "far" / "between").symlink_to(target)
    (tmp_path / "link").symlink_to("far/between")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").readlink() == Path("far/between")
    assert (tmp_path / "far" / "between").readlink() == Path(target)
    assert look(tmp_path / "far" / target) == b"new"
    (tmp_path / "far" / target).unlink()
    if target == "kept":
        put(tmp_path / "far" / "kept", {"old": b""})
    with replacing_folder(tmp_path / "link") as folder:
        put(folder, {"a": b"new"})
    assert (tmp_path / "link").is_symlink()
    assert look(tmp_path / "far" / target) == {"a": b"new"}
    assert sorted(os.listdir(tmp_path / "far")) == sorted({"kept", "between", target} if target == "kept" else
                                                          {"kept", "between", "new"})  # fmt: skip


def test_a_link_into_a_store_is_replaced_and_what_is_stored_stays(tmp_path: Path) -> None:
    """DVC and the Hub link files to copies that they call by their checksum, which never change."""
    stored = tmp_path / ("0a" * 15)
    put(stored, b"kept")
    (tmp_path / "link").symlink_to(stored)
    write_text(tmp_path / "link", "new")
    assert not (tmp_path / "link").is_symlink()
    assert (look(tmp_path / "link"), look(stored)) == (b"new", b"kept")


def test_a_circle_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UserError, match="a link that leads back to itself"):
        write_text(tmp_path / "a", "text")
    with pytest.raises(UserError, match="a link that leads back to itself"), replacing_folder(tmp_path / "a"):
        pass


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link", "/dev/stderr"])
def test_open_files_are_written_to_in_their_order(tmp_path: Path, name: str) -> None:
    """A shell's `> file` stays the file that the shell opened."""
    (tmp_path / "link").symlink_to("/dev/stdout")
    script = (
        "import sys; from pathlib import Path; from ilse.core.files.atomic import write_text\n"
        "print('before'); write_text(Path(sys.argv[1]), 'text\\n'); print('after')"
    )
    place = name if name.startswith("/") else tmp_path / name
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        root = Path(__file__).parents[1]
        subprocess.run([sys.executable, "-c", script, place], stdout=out, stderr=err, cwd=root, check=True)
    told = ("before\nafter\n", "text\n") if name == "/dev/stderr" else ("before\ntext\nafter\n", "")
    assert ((tmp_path / "out").read_text(), (tmp_path / "err").read_text()) == told


def test_a_device_stays_one() -> None:
    before = os.stat("/dev/null")
    with replacing(Path("/dev/null")) as temporary:
        assert not temporary.is_relative_to("/dev")
        temporary.write_bytes(b"text")
    assert os.path.samestat(os.stat("/dev/null"), before)
    with pytest.raises(OSError, match="No space left"):
        write_text(Path("/dev/full"), "text")


def test_a_folder_moves_to_another_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "made", {"a": b"new"})
    put(tmp_path / "there", {"a": b"old"})
    rename = Path.rename

    def of_one_disk(self: Path, target: Path) -> Path:
        if self.name == "made":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", of_one_disk)
    files.move_folder(tmp_path / "made", tmp_path / "there", ANY)
    assert look(tmp_path / "there") == {"a": b"new"}
    assert look(tmp_path / "made") == {"a": b"new"}, "its owner removes it"
    assert sorted(os.listdir(tmp_path)) == ["made", "there"]


def test_what_came_meanwhile_stays(tmp_path: Path) -> None:
    only_a = Made("an a", re.compile("a"), re.compile("a"))
    put(tmp_path / "folder", {"a": b"old"})
    with (
        pytest.raises(UserError, match=r"'thesis.txt', which is not part of an a, which has appeared meanwhile"),
        files.replacing_folder(tmp_path / "folder", only_a) as temporary,
    ):
        put(temporary.parents[1] / "folder", {"thesis.txt": b"mine"})
    assert look(tmp_path / "folder") == {"a": b"old", "thesis.txt": b"mine"}
    assert os.listdir(tmp_path) == ["folder"]


def test_where_a_disk_is_mounted_is_refused_before() -> None:
    with pytest.raises(UserError, match="where a disk is mounted"):
        files.require_ours(Path("/proc"), ANY)


def test_a_killed_writer_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "model"
    put(path, {"old": b""})
    script = (
        "import sys, time; from pathlib import Path; from tests.test_files import replacing_folder\n"
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


HOLDS = """
import re, sys
from pathlib import Path
from ilse.core.files.atomic import replacing_folder
from ilse.core.files.ownership import Made
with replacing_folder(Path(sys.argv[1]), Made("", re.compile(".+"), re.compile(".+"))) as folder:
    (folder / "new").touch()
    if sys.argv[2] == "between":
        Path(sys.argv[1]).rename(folder.parent / "ilse-old-0")
    print("in", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("moment", ["before", "between"])
def test_what_a_killed_writer_left_goes_with_the_next_write_and_a_running_one_s_stays(
    tmp_path: Path, moment: str
) -> None:
    """Also when it is killed between the two renames that put the new folder in the old one's place."""
    path, root = tmp_path / "model", Path(__file__).parents[1]
    put(path, {"old": b""})
    put(tmp_path / ".not.ours.partial", {"lock": b"", "thesis.txt": b"mine"})
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path), moment], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"in\n"
    (work,) = tmp_path.glob(".model.*.partial")
    write_text(tmp_path / "other", "x")
    assert work.exists()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    write_text(tmp_path / "other", "x")
    assert sorted(os.listdir(tmp_path)) == [".not.ours.partial", "model", "other"]
    assert look(path) == {"old": b""}


def test_of_two_that_replace_a_folder_at_once_the_last_one_has_it(tmp_path: Path) -> None:
    path = tmp_path / "model"

    def replace(number: int) -> None:
        for _ in range(20):
            with replacing_folder(path) as folder:
                put(folder, {"a": bytes([number]), "b": bytes([number])})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(replace, range(4)))
    content = look(path)
    assert isinstance(content, dict)
    assert content["a"] == content["b"]
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("there", ["folder", "nothing"])
def test_a_folder_that_is_replaced_while_it_is_looked_at_is_looked_at_again(tmp_path: Path, there: str) -> None:
    """Otherwise a file of the old folder, which is gone, is taken for something foreign in the new one."""
    path, looks = tmp_path / "model", 0

    def replaced(_folder: Path, _name: str) -> bool:
        nonlocal looks
        looks += 1
        if looks == 1:
            path.rename(tmp_path / "aside")
            if there == "folder":
                put(path, {"c": b"new"})
        return True

    put(path, {"a": b"old", "b": b"old"})
    files.require_ours(path, Made("an a", ANY.names, ANY.mark, replaced))
    assert looks == (2 if there == "folder" else 1)


def test_a_file_that_takes_the_place_of_a_folder_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with pytest.raises(UserError, match="a file of this name, which has appeared meanwhile"), replacing_folder(path):
        path.write_bytes(b"theirs")
    assert look(path) == b"theirs"
    assert os.listdir(tmp_path) == ["model"]


def test_what_a_library_s_thread_made_after_the_end_of_its_writer_goes_too(tmp_path: Path) -> None:
    """A download's threads, interrupted, may make their folders anew when the writer has removed them and the lock."""
    (tmp_path / ".head.abcdefgh.partial" / "ilse-new" / ".cache" / "hub").mkdir(parents=True)
    (tmp_path / ".head.hgfedcba.partial" / "new").mkdir(parents=True)  # of these names it may be anyone's
    write_text(tmp_path / "other", "x")
    assert sorted(os.listdir(tmp_path)) == [".head.hgfedcba.partial", "other"]


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


def test_a_removal_that_is_cut_short_is_ended_by_the_next_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far it got: the lock, by which the next one knows what was left, goes last."""

    def cut(_path: Path, **_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", cut)
    with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "h"):
        raise RuntimeError
    (left,) = tmp_path.iterdir()
    assert sorted(file.name for file in left.iterdir()) == ["ilse-new", "lock"]
    monkeypatch.undo()
    write_text(tmp_path / "f", "")
    assert [file.name for file in tmp_path.iterdir()] == ["f"]


def test_what_a_thread_wrote_during_the_removal_goes_with_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = shutil.rmtree

    def meanwhile(path: Path, **options: Any) -> None:
        remove(path, **options)
        (path.parent / "new").mkdir()
        (path.parent / "new" / "more").touch()

    monkeypatch.setattr("shutil.rmtree", meanwhile)
    with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "h"):
        raise KeyboardInterrupt
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1
    write_text(tmp_path / "f", "")
    assert [file.name for file in tmp_path.iterdir()] == ["f"]
