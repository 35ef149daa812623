"""Locks on real files and on a real S3 server on loopback, with holders that are killed and that only fall silent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ilse.core.errors import UserError
from ilse.core.files import folder_lock as holding
from ilse.core.files.folder_lock import HOLDER, LOCK, Holder
from pipeline.store import Location, location
from pipeline.work import lock
from pipeline.work.lock import hold
from tests import s3

ROOT = Path(__file__).parent.parent.parent
HOLD = """
import sys, time
from pipeline.work.lock import hold
from pipeline.store import Location, location
location._CLIENT["allow_http"] = True
with hold(Location(sys.argv[1]), "cache x"):
    print("held", flush=True)
    time.sleep(60)
"""


server = pytest.fixture(scope="module")(s3.server)


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Location:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setitem(location._CLIENT, "allow_http", True)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id-of-the-test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    name = f"bucket-{time.monotonic_ns()}"
    urllib.request.urlopen(urllib.request.Request(f"{server}/{name}", method="PUT"))
    return Location(f"s3://{name}/cache")


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "folder":
        return Location(tmp_path / "scratch")
    bucket: Location = request.getfixturevalue("bucket")
    return bucket


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.4)
    monkeypatch.setattr(lock, "SETTLE", 0.3)


def elsewhere(token: str = "theirs", beat: int = 0) -> Holder:
    """A holder on another machine, that nobody here can look at."""
    return Holder("node7", 4711, "2026-01-01T00:00:00+00:00", "another boot", 1.0, token, beat)


def content(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def start_holder(place: Location) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_refused_with_the_holders_host_and_process(place: Location) -> None:
    import os
    import socket

    with hold(place, "cache x"):
        pattern = rf"cache x(.|\n)*one run at a time(.|\n)*{socket.gethostname()}, process {os.getpid()},"
        with pytest.raises(UserError, match=pattern), hold(place, "cache x"):
            pytest.fail("two hold the lock")
    with hold(place, "cache x") as again:
        again.check()


def test_another_process_is_refused_and_its_lock_is_free_once_it_is_killed(
    place: Location, capsys: pytest.CaptureFixture[str], quick: None
) -> None:
    holder = start_holder(place)
    try:
        with pytest.raises(UserError, match=f"process {holder.pid},"), hold(place, "cache x"):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    started = time.monotonic()
    with hold(place, "cache x"):
        assert f"process {holder.pid}," in capsys.readouterr().err
    assert time.monotonic() - started < 2


def test_an_error_inside_gives_the_lock_back(place: Location) -> None:
    with pytest.raises(ZeroDivisionError), hold(place, "cache x"):
        raise ZeroDivisionError
    assert HOLDER not in [name for name, _ in place.list()]
    with hold(place, "cache x"):
        pass


@pytest.mark.parametrize("left", [None, b"", b"{", b"[1]", b'{"host": "a"}', b"\xff"])
def test_a_folders_lock_does_not_need_the_holders_name(
    left: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    monkeypatch.setattr(holding, "TRIES", 2)
    place = Location(tmp_path)
    if left is not None:
        place.put(HOLDER, left)
    with FileLock(tmp_path / LOCK), pytest.raises(UserError, match="one run at a time"), hold(place, "cache x"):
        pass
    with hold(place, "cache x"):
        pass


def test_a_folder_that_goes_while_its_lock_is_taken_is_made_again(tmp_path: Path) -> None:
    """However long that took: its last holder removes it while this process is suspended."""
    folder, mkdir, made = tmp_path / "held", Path.mkdir, []

    def slow(path: Path, **how: bool) -> None:
        mkdir(path, **how)
        if path == folder:
            made.append(path)
            if len(made) < 3:
                path.rmdir()

    with pytest.MonkeyPatch.context() as patched:
        clock = time.monotonic
        patched.setattr(time, "monotonic", lambda: clock() + 100 * len(made))
        patched.setattr(Path, "mkdir", slow)
        with holding.hold_folder(folder, "cache x"):
            assert (folder / LOCK).exists()
    assert len(made) >= 3
    assert not folder.exists()


def test_an_emptied_folder_stays_held(tmp_path: Path) -> None:
    """Otherwise a second run takes a new lock beside the old one, and the first one then gives it back."""
    folder = tmp_path / "held"
    with holding.hold_folder(folder, "cache x"):
        (folder / "parts").mkdir()
        (folder / "part").write_text("x")
        holding.empty(folder)
        assert sorted(os.listdir(folder)) == [LOCK, HOLDER]
        with pytest.raises(UserError, match="one run at a time"), holding.hold_folder(folder, "cache x"):
            pass
    assert not folder.exists()


@pytest.mark.parametrize("left", ["nothing", "a dead one's name"])
def test_a_folder_s_lock_that_was_just_taken_gets_its_holders_name(left: str, tmp_path: Path) -> None:
    """The second comes between the first one's taking of the lock and its writing of a name."""
    from filelock import FileLock

    place = Location(tmp_path)
    first = holding.this_process()
    if left != "nothing":
        place.put(HOLDER, content(replace(first, pid=2**22 + 1)))
    threading.Timer(0.4, place.put, (HOLDER, content(first))).start()
    with FileLock(tmp_path / LOCK), pytest.raises(UserError, match=f"process {first.pid},"), hold(place, "cache x"):
        pass


def test_a_lock_that_is_being_given_back_is_waited_for(tmp_path: Path) -> None:
    from filelock import FileLock

    first = FileLock(tmp_path / LOCK, thread_local=False)
    first.acquire()
    threading.Timer(0.4, first.release).start()
    with hold(Location(tmp_path), "cache x"):
        assert not first.is_locked


def test_a_file_that_is_no_lock_stays(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("years of work")
    with pytest.raises(UserError, match=r"destination .*lock"), hold(Location(tmp_path), "cache x"):
        pass
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {LOCK: "years of work"}


def test_one_of_many_gets_a_free_prefix(bucket: Location) -> None:
    """Real races for the conditional creation: the server must let one through."""
    gate = threading.Barrier(6)

    def try_it(_: int) -> bool:
        gate.wait()
        try:
            with hold(bucket, "cache x"):
                gate.wait(10)
                return True
        except UserError:
            gate.wait(10)
            return False

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(try_it, range(6))) == 1


def test_a_holder_elsewhere_that_gives_signs_of_life_is_left_alone(bucket: Location, quick: None) -> None:
    bucket.put(HOLDER, content(elsewhere()))
    threading.Timer(0.6, bucket.put, (HOLDER, content(elsewhere(beat=1)))).start()
    started = time.monotonic()
    with pytest.raises(UserError, match="node7, process 4711"), hold(bucket, "cache x"):
        pass
    assert time.monotonic() - started > 0.5


@pytest.mark.parametrize("left", [content(elsewhere()), b"garbled"])
def test_a_holder_elsewhere_that_is_silent_is_dead(left: bytes, bucket: Location, quick: None) -> None:
    bucket.put(HOLDER, left)
    started = time.monotonic()
    with hold(bucket, "cache x") as mine:
        assert lock.SILENT_BEATS * lock.BEAT < time.monotonic() - started < 5
        mine.check()


def test_a_process_number_that_is_anothers_by_now_is_dead(bucket: Location, quick: None) -> None:
    bucket.put(HOLDER, content(replace(holding.this_process(), process_started=1.0)))
    started = time.monotonic()
    with hold(bucket, "cache x"):
        assert time.monotonic() - started < lock.SILENT_BEATS * lock.BEAT


def test_of_two_that_take_a_dead_lock_over_the_later_writer_has_it(
    bucket: Location, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other challenger has deleted ours and put its own while ours settled."""
    bucket.put(HOLDER, content(replace(elsewhere(), machine=holding.machine(), pid=2**22 + 1)))
    monkeypatch.setattr(lock, "SETTLE", 0.6)
    alive = threading.Event()

    def other() -> None:
        beat = 0
        while not alive.wait(0.2):
            beat += 1
            bucket.put(HOLDER, content(elsewhere("later", beat)))

    thread = threading.Thread(target=other)
    threading.Timer(0.3, thread.start).start()
    with pytest.raises(UserError, match="node7"), hold(bucket, "cache x"):
        pass
    alive.set()
    thread.join()


def test_a_holder_beats_and_notices_that_its_lock_was_taken(bucket: Location, quick: None) -> None:
    with hold(bucket, "cache x") as mine:
        first = json.loads(bucket.get(HOLDER))
        time.sleep(1.2)
        second = json.loads(bucket.get(HOLDER))
        assert second["beat"] > first["beat"]
        mine.check()
        bucket.delete(HOLDER)
        time.sleep(0.9)
        assert json.loads(bucket.get(HOLDER))["token"] == first["token"]
        bucket.put(HOLDER, content(elsewhere()))
        time.sleep(0.9)
        with pytest.raises(UserError, match=r"cache x(.|\n)*node7, process 4711(.|\n)*took it over"):
            mine.check()
    assert json.loads(bucket.get(HOLDER))["token"] == "theirs"


def test_a_store_that_is_away_for_a_while_does_not_cost_the_lock(
    bucket: Location, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*rest: object) -> bytes:
        raise UserError("store", expected="an answer", found="503", next_step="wait")

    with hold(bucket, "cache x") as mine:
        real = Location.get
        monkeypatch.setattr(Location, "get", away)
        time.sleep(1.0)
        monkeypatch.setattr(Location, "get", real)
        before = json.loads(bucket.get(HOLDER))["beat"]
        time.sleep(1.0)
        assert json.loads(bucket.get(HOLDER))["beat"] > before
        mine.check()


def test_the_lock_holds_no_credentials(bucket: Location) -> None:
    with hold(bucket, "cache x"):
        assert b"of-the-test" not in bucket.get(HOLDER)
        assert set(json.loads(bucket.get(HOLDER))) == set(Holder.__dataclass_fields__)
