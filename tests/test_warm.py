"""Programs that start at once: what they do, and that it is what the installed ones do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ilse.warm import PROGRAMS, main, warm_programs

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the installed programs run")

PROGRAM = """
import os, signal, sys, time
import large
def main():
    command, *rest = sys.argv[1:]
    if command == "tell":
        print(os.path.basename(sys.argv[0]), rest, os.getcwd(), os.environ.get("TOLD"), large.LOADED_BY == os.getpid())
        print(sys.stdin.read(), file=sys.stderr)
    elif command == "wait":
        open(rest[0], "w").write(str(os.getpid()))
        time.sleep(60)
    elif command == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif command == "raise":
        raise RuntimeError("as it is")
    else:
        sys.exit(int(command) if command.isdigit() else command)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that takes long to import, and a program that needs it and is installed."""
    for name in ("site", "code", "bin"):
        (tmp_path / name).mkdir()
    (tmp_path / "site" / "large.py").write_text("import os\nLOADED_BY = os.getpid()\n")
    (tmp_path / "code" / "ours.py").write_text(PROGRAM)
    (tmp_path / "bin" / "ours").write_text(f"#!{sys.executable}\nimport sys, ours\nsys.exit(ours.main())\n")
    (tmp_path / "bin" / "ours").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(tmp_path / name) for name in ("code", "site")))
    return tmp_path


@pytest.fixture
def programs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # The server takes nothing of PYTHONPATH: it finds the package as an installed one.
    monkeypatch.setattr("ilse.warm._environment", lambda: {**os.environ, "PYTHONPATH": str(folder / "site")})
    with warm_programs(folder / "warm", {"ours": "ours"}, ["large", "no_such_package"], wait=True) as found:
        assert found is not None
        yield found


def run(program: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=30, **options)  # type: ignore[call-overload, no-any-return]


def test_it_is_told_all_and_imports_nothing_large(programs: Path, folder: Path, tmp_path: Path) -> None:
    environment, place = {**os.environ, "TOLD": "a b"}, folder / "site"
    words = ("tell", "a 'b'", "$(c)", "")
    warm = run(programs / "ours", *words, env=environment, cwd=place, input="from the pipe")
    plain = run(folder / "bin" / "ours", *words, env=environment, cwd=place, input="from the pipe")
    assert (warm.returncode, warm.stderr) == (plain.returncode, plain.stderr) == (0, "from the pipe\n")
    assert plain.stdout.endswith("True\n")
    assert warm.stdout == plain.stdout.replace("True", "False"), "another process has imported it"


@pytest.mark.parametrize("command", ["0", "3", "a message", "raise"])
def test_it_ends_as_the_installed_one(programs: Path, folder: Path, command: str) -> None:
    warm, plain = run(programs / "ours", command), run(folder / "bin" / "ours", command)
    assert warm.returncode == plain.returncode
    assert warm.stderr.splitlines()[-1:] == plain.stderr.splitlines()[-1:]


def test_a_change_of_ours_counts_at_once(programs: Path, folder: Path) -> None:
    assert run(programs / "ours", "tell").returncode == 0
    (folder / "code" / "ours.py").write_text("def main():\n    return 9\n")
    assert run(programs / "ours", "tell").returncode == 9


def test_a_program_that_is_killed_failed(programs: Path) -> None:
    ended = run(programs / "ours", "die")
    assert ended.returncode == 1
    assert "its process was killed" in ended.stderr


def test_who_is_killed_takes_the_work_along(programs: Path, tmp_path: Path) -> None:
    asking = subprocess.Popen([programs / "ours", "wait", str(tmp_path / "pid")])
    _until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    working = int((tmp_path / "pid").read_text())
    assert working != asking.pid
    asking.send_signal(signal.SIGKILL)
    asking.wait()
    _until(lambda: not _lives(working))


def _until(found: object, seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while not found():  # type: ignore[operator]
        assert time.monotonic() < ends
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_until_the_packages_are_there_the_installed_one_runs(programs: Path, folder: Path) -> None:
    (folder / "site" / "slow.py").write_text("import time\ntime.sleep(60)\n")
    with warm_programs(folder / "slow", {"ours": "ours"}, ["slow"]) as waiting:
        assert waiting is not None
        assert run(waiting / "ours", "tell", input="").stdout.endswith("True\n")
    assert run(waiting / "ours", "3").returncode == 3, "and after the end"


@pytest.mark.parametrize(("command", "code"), [(["sh", "-c", "exit 4"], 4), (["sh", "-c", "kill -9 $$"], 137), ([], 2)])
def test_the_command_ends_as_it_does_alone(command: list[str], code: int, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(command) == code


def test_a_command_that_is_not_there_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-command"]) == 127
    assert "error: no-such-command: No such file or directory" in capfd.readouterr().err


def test_the_command_finds_them_first(folder: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "ilse.warm", "sh", "-c", "command -v ilse"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.endswith("/bin/ilse\n")
    assert not Path(told.stdout.strip()).exists(), "nothing is left behind"
    assert list(PROGRAMS) == ["ilse"]
