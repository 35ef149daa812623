"""The faults campaign's own judge: what is wrong, lost or unclear is counted as that."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from benchmarks.faults import judge, tally
from benchmarks.faults.damage import damage, most_computed
from benchmarks.faults.hook import INSIDE, Hook
from benchmarks.faults.judge import Reference
from benchmarks.faults.proxy import Proxy
from benchmarks.faults.stage import SECRET, Call
from benchmarks.faults.starting import Ended
from benchmarks.faults.work import Work
from ilse.core.errors import UserError
from pipeline import store

DONE = Ended(0, "")
CLEAR = Ended(2, "error: cache x\n  expected: a\n  found:    b\n  next:     run it again\n")


def make_cache(folder: Path, seed: int = 0) -> store.CacheHeader:
    """A finished cache of 20 texts in 3 shards, with values that follow from the seed."""
    spec = store.CaptureSpec({"sha256": "0"}, "0", ("a", "b"), 4, 8, "{text}", "float32", "float16")
    header = store.CacheHeader(spec, 20, 8, "made up", 1)
    place, ids = store.Location(folder), [f"{i + 1:032x}" for i in range(20)]
    values = np.random.default_rng(seed).normal(size=(20, 2, 4)).astype(np.float32)
    store.create(place, header, ids)
    records = []
    for shard in range(header.shards):
        rows = header.rows_of(shard)
        count = rows.stop - rows.start
        content = store.ShardRows(ids[rows], [3] * count, [False] * count, {"mean": values[rows]})
        records.append(store.write_shard(place, header, shard, content))
    store.finish(place, header, ids, records)
    return header


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """A piece of work whose cache is in place, as the reference has it."""
    folder = tmp_path / "work"
    make_cache(folder / "cache.zarr")
    shutil.copytree(folder / "cache.zarr", tmp_path / "reference")
    call = Call(folder, "float16", str(folder / "cache.zarr"), Path(), Path())
    call.figures.write_text('{"texts_computed": 0}')
    return Work("a kind", call, (Reference.of(tmp_path / "reference"),))


def verdict(work: Work, last: Ended = DONE) -> str:
    (fault,) = work.judged(last)
    return fault.verdict


def test_a_fault_without_consequences_is_survived(work: Work) -> None:
    work.hit("nothing", DONE)
    assert verdict(work) == tally.SURVIVED


def test_a_wrong_byte_in_the_finished_cache_is_counted(work: Work) -> None:
    work.hit("a flip", DONE)
    damage(Path(work.call.out, "pooled/mean/c/1/0/0"), "flipped", random.Random(0))
    assert verdict(work) == tally.WRONG


def test_a_wrong_value_between_two_runs_is_counted_though_the_last_run_mends_it(work: Work, tmp_path: Path) -> None:
    make_cache(tmp_path / "other", seed=1)
    right = Path(work.call.out).rename(tmp_path / "right")
    shutil.copytree(tmp_path / "other", work.call.out)
    work.hit("a swap", CLEAR)
    shutil.rmtree(work.call.out)
    right.rename(work.call.out)
    assert not work.differences()
    assert verdict(work) == tally.WRONG


def test_a_value_that_no_error_guards_is_found_by_reading(tmp_path: Path) -> None:
    make_cache(tmp_path / "reference")
    make_cache(tmp_path / "other", seed=1)
    reference = Reference.of(tmp_path / "reference")
    assert judge.read(str(tmp_path / "reference"), reference) == judge.Read([], [])
    wrong = judge.read(str(tmp_path / "other"), reference).wrong
    assert {"mean 0", "mean layer 1", "statistics mean"} <= set(wrong)
    assert "token_counts" not in wrong


def test_an_error_of_another_type_is_unclear_to_a_reader(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(self: store.Cache) -> None:
        raise KeyError("a")

    monkeypatch.setattr(store.Cache, "token_counts", crash)
    work.hit("a flip", CLEAR)
    assert verdict(work) == tally.UNCLEAR


def finished_shard(work: Work, shard: int) -> Path:
    """Puts a shard and its record into the scratch."""
    header, _ = store.peek(work.call.out)
    unfinished = work.call.scratch / "a-b"
    rows = header.rows_of(shard)
    count = rows.stop - rows.start
    content = store.ShardRows(["0" * 32] * count, [1] * count, [False] * count, {"mean": np.ones((count, 2, 4), "f4")})
    record = store.write_shard(store.Location(unfinished / "cache.zarr"), header, shard, content)
    store.Location(unfinished).put(f"records/{shard}.json", store.record_to_json(record))
    return unfinished / f"records/{shard}.json"


def test_a_finished_shard_that_is_computed_again_is_lost(work: Work) -> None:
    record = finished_shard(work, 1)
    work.hit("a kill", Ended(-9, ""), killed=True)
    assert verdict(work) == tally.RESUMED
    work.log.write_text(f"{record}\n")
    assert verdict(work) == tally.LOST


def test_a_damaged_shard_may_be_computed_again(work: Work) -> None:
    record = finished_shard(work, 1)
    damage(record.parent.parent / "cache.zarr/pooled/mean/c/1/0/0", "cut", random.Random(0))
    work.hit("a kill", Ended(-9, ""), killed=True)
    work.log.write_text(f"{record}\n")
    assert verdict(work) == tally.RESUMED


def test_a_rerun_that_computes_more_than_is_missing_loses_work(work: Work) -> None:
    work.lent = frozenset(range(29))
    work.hit("a kill", Ended(-9, ""), killed=True)
    work.call.figures.write_text('{"texts_computed": 8}')
    assert verdict(work) == tally.RESUMED
    work.call.figures.write_text('{"texts_computed": 9}')
    assert verdict(work) == tally.LOST


def test_a_rerun_that_does_not_get_there_is_lost(work: Work) -> None:
    work.hit("a kill", Ended(-9, ""), killed=True)
    assert verdict(work, CLEAR) == tally.LOST


@pytest.mark.parametrize(
    "ended",
    [
        Ended(1, CLEAR.said),
        Ended(2, "Traceback (most recent call last):\n" + CLEAR.said),
        Ended(2, "error: something went wrong"),
        Ended(2, CLEAR.said.replace("cache x", "writing a file")),
        Ended(2, CLEAR.said.replace("run it again", "")),
        Ended(2, CLEAR.said + SECRET),
        Ended(-6, CLEAR.said),
    ],
)
def test_an_error_that_does_not_help_is_unclear(work: Work, ended: Ended) -> None:
    work.hit("a full disk", ended)
    assert verdict(work) == tally.UNCLEAR


def test_the_project_s_own_error_is_clear() -> None:
    error = UserError("cache x", expected="all\n  of it", found="some", next_step="run it again")
    assert judge.is_clear(Ended(2, f"loading\r50%\nerror: {error}\n"))


def test_the_counts_add_up_and_name_the_failures() -> None:
    faults = [tally.Fault(kind, "it", verdict, "because") for kind in "ab" for verdict in tally.VERDICTS]
    found = tally.document([*faults, tally.Fault("b", "it", tally.SURVIVED)])
    assert (found["injected"], found["survived"], found["silently_wrong"]) == (11, 3, 2)
    assert found["by_kind"]["b"]["injected"] == 6
    assert [failure["verdict"] for failure in found["failures"]] == list(tally.FAILURES) * 2
    assert tally.table(faults).splitlines()[-1] == "| **all** | **10** | **2** | **2** | **2** | **2** | **2** |"


@pytest.mark.parametrize(("way", "size"), [("flipped", 100), ("cut", None), ("emptied", 0), ("removed", None)])
def test_damage_is_done_in_place(tmp_path: Path, way: str, size: int | None) -> None:
    file, second = tmp_path / "file", tmp_path / "second"
    file.write_bytes(bytes(100))
    os.link(file, second)
    damage(file, way, random.Random(0))
    if way == "removed":
        assert not file.exists()
        return
    assert file.stat().st_ino == second.stat().st_ino
    assert file.read_bytes() != bytes(100)
    assert file.stat().st_size < 100 if size is None else file.stat().st_size == size
    if way == "flipped":
        assert sum(byte.bit_count() for byte in file.read_bytes()) == 1


def test_a_damaged_file_costs_its_shard_and_no_more() -> None:
    assert most_computed("pooled/mean/c/3/0/0", "float16") == 8
    assert most_computed("text_id/zarr.json", "float16") == 0
    assert most_computed("pooled/mean/c/3/0/0", "float16", "grown") == 8 + 24
    assert most_computed("SHA256SUMS", "float16", "grown") == 24


WRITE = "import pathlib\nfor i in range(9): pathlib.Path('there', str(i)).absolute().write_text('')"


def start(folder: Path, **changes: object) -> subprocess.Popen[bytes]:
    """A process that writes nine files, each one operation, under a hook."""
    (folder / "there").mkdir()
    hook = Hook(f"{folder}/there/", str(folder / "log"), "pathlib", gate=str(folder / "gate"), **changes)  # type: ignore[arg-type]
    environment = {**os.environ, **hook.environment(), "PYTHONPATH": str(INSIDE)}
    return subprocess.Popen([sys.executable, "-c", WRITE], cwd=folder, env=environment)


def written(folder: Path) -> int:
    return len(list((folder / "there").iterdir()))


@pytest.mark.parametrize("moment", [1, 5])
def test_the_hook_kills_before_the_chosen_operation(tmp_path: Path, moment: int) -> None:
    assert start(tmp_path, kill_at=moment).wait() == -9
    assert written(tmp_path) == moment - 1


def test_the_hook_pauses_until_the_gate_is_removed(tmp_path: Path) -> None:
    process, gate = start(tmp_path, pauses=(4,)), tmp_path / "gate.4"
    while not gate.exists():
        assert process.poll() is None
        time.sleep(0.01)
    assert written(tmp_path) == 3
    gate.unlink()
    assert process.wait() == 0
    assert written(tmp_path) == 9


class _Echo(BaseHTTPRequestHandler):
    """Answers every request with 100 bytes."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(bytes(100))

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def proxied() -> Iterator[Callable[[str, str], Proxy]]:
    """A proxy before a server, whose second request meets a behaviour."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    Thread(target=server.serve_forever, daemon=True).start()
    host, port = server.server_address[:2]
    yield lambda what: Proxy(f"http://{host!s}:{port}", lambda number: what if number == 2 else "")
    server.shutdown()
    server.server_close()


def put(proxy: Proxy, name: str) -> int:
    with urllib.request.urlopen(urllib.request.Request(f"{proxy.url}/{name}", b"x", method="PUT")) as answer:
        return len(answer.read())


@pytest.mark.parametrize(
    ("what", "error", "taken"),
    [
        ("503", urllib.error.HTTPError, False),
        ("cuts before", OSError, False),
        ("cuts behind", OSError, True),
        ("answers half", Exception, True),
    ],
)
def test_the_proxy_breaks_the_chosen_request(
    proxied: Callable[[str], Proxy], what: str, error: type[Exception], taken: bool
) -> None:
    proxy = proxied(what)
    assert put(proxy, "records/0.json") == 100
    with pytest.raises(error):
        put(proxy, "records/1.json")
    assert put(proxy, "records/2.json") == 100
    assert proxy.records == [f"/records/{i}.json" for i in (0, 1, 2) if taken or i != 1]
    assert proxy.injected == 1
