"""Caches in a real S3 server on loopback, and what is said where it fails, refuses, breaks off or is gone."""

from __future__ import annotations

import http.client
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tenacity import wait_none

from ilse.core.errors import UserError
from pipeline import store
from pipeline.stages.verify import verify
from pipeline.store import Location, chunk_bytes, location, patience
from tests.pipeline.caches import chunks_of, files_of, header, random_rows, token_states, write
from tests.s3 import KEY, SECRET, TOKEN

QUICK = {
    "max_retries": 6,
    "backoff": {"init_backoff": timedelta(seconds=0.02), "max_backoff": timedelta(seconds=0.1), "base": 2},
    "retry_timeout": timedelta(seconds=20),
}


class Stand(BaseHTTPRequestHandler):
    """Stands before the S3 server: answers the next requests by itself, the others are passed on."""

    behind: str
    answers: list[tuple[int, bytes]]
    always: tuple[int, bytes] | None
    cuts: int
    """So many of the next answers with a body break off."""
    share: float
    """How much of it is sent first."""
    seen: int
    lock: threading.Lock

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.lock:
            type(self).seen += 1
            answer = self.always or (self.answers.pop(0) if self.answers else None)
        status, headers, content = (answer[0], {}, answer[1]) if answer else self.pass_on(body)
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "server", "date"):
                self.send_header(name, value)
        length = headers.get("Content-Length", len(content)) if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        with self.lock:
            cut = len(content) > 1 and self.cuts > 0 and self.command == "GET"
            type(self).cuts -= cut
        self.wfile.write(content[: int(self.share * len(content))] if cut else content)
        if cut:
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()  # with a reset
            self.close_connection = True

    def pass_on(self, body: bytes) -> tuple[int, Any, bytes]:
        connection = http.client.HTTPConnection(self.behind.removeprefix("http://"))
        connection.request(self.command, self.path, body, dict(self.headers.items()))
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def log_message(self, *_: object) -> None:
        pass

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one


@pytest.fixture
def stand(bucket: Location, server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Stand]]:
    """The bucket's server with a stand before it, and short waits between retries."""
    monkeypatch.setattr(location, "_RETRIES", QUICK)
    start = {"behind": server, "answers": [], "always": None, "cuts": 0, "share": 0.0, "seen": 0}
    handler = type("Handler", (Stand,), {**start, "lock": threading.Lock()})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{httpd.server_port}")
    yield handler
    httpd.shutdown()
    httpd.server_close()


def test_a_remote_cache_is_the_local_one_byte_for_byte(bucket: Location, tmp_path: Path) -> None:
    head = header(poolings=("mean", "last"), token_states=True, storage_type="bfloat16")
    local = write(tmp_path / "c", head, random_rows(head))
    remote = write(str(bucket), head, random_rows(head), [2, 1, 0])
    assert files_of(str(bucket)) == files_of(tmp_path / "c")
    assert isinstance(remote.path, str)
    assert remote.text_ids() == local.text_ids()
    for pooling in head.capture.poolings:
        for layers in (None, [2, 0]):
            np.testing.assert_array_equal(
                remote.read(slice(1, 9), layers, pooling), local.read(slice(1, 9), layers, pooling)
            )
            np.testing.assert_array_equal(
                chunks_of(remote, 2, layers, pooling), local.read(slice(8, 10), layers, pooling)
            )
    np.testing.assert_array_equal(remote.gather(np.array([9, 0, 4])), local.gather(np.array([9, 0, 4])))
    np.testing.assert_array_equal(remote.token_states(6), local.token_states(6))
    assert len(remote.token_states(6)) == len(token_states(head)[6])
    assert verify(str(bucket)) == f"{bucket}: 10 texts in 3 shards, every byte as it was written"


def test_damage_of_a_remote_cache_is_found(bucket: Location) -> None:
    cache = write(str(bucket), header(), random_rows(header()))
    whole, shard = (bucket.get(f"pooled/mean/c/{number}/0/0") for number in range(2))
    bucket.put("pooled/mean/c/1/0/0", shard[:9] + b"~" + shard[10:])
    bucket.delete("pooled/mean/c/2/0/0")
    bucket.put("pooled/mean/c/0/0/0", shard[:-30])
    for shard_number, found in enumerate(("rows 0 to 4", "rows 4 to 8", r"rows 8 to 10(.|\n)*missing")):
        with pytest.raises(UserError, match=found):
            cache.read(header().rows_of(shard_number))
        with pytest.raises(UserError, match=found):
            chunks_of(cache, shard_number)
    bucket.put("pooled/mean/c/0/0/0", whole)
    with pytest.raises(UserError, match=r"shard 1 \(rows 4 to 8\)(.|\n)*shard 2 \(rows 8 to 10\).*missing"):
        verify(str(bucket))


def test_no_cache_at_a_url(bucket: Location) -> None:
    for url in (str(bucket), "s3://no-such-bucket/cache.zarr"):
        with pytest.raises(UserError, match=r"found: +nothing there(.|\n)*ilse extract"):
            store.open_cache(url)


def test_a_bucket_that_is_not_there_is_named(bucket: Location) -> None:
    nowhere = Location("s3://no-such-bucket/cache.zarr")
    with pytest.raises(UserError, match=r"s3://no-such-bucket(.|\n)*a bucket or container of this name"):
        nowhere.put("a", b"1")
    with pytest.raises(UserError, match=r"404 Not Found \(NoSuchBucket\)"):
        list(nowhere.list())


def test_a_scheme_that_nothing_knows_is_refused() -> None:
    with pytest.raises(UserError, match=r"foo://bucket/cache(.|\n)*check the address"):
        Location("foo://bucket/cache").get("a")


@pytest.mark.parametrize(
    "url",
    ["s3://AKIA:hidden@bucket/cache", "az://c/cache?sig=hidden", "https://hidden@host/c", "s3://b/c?token=hidden"],
)
def test_a_url_with_credentials_is_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(UserError, match=r"a URL without credentials(.|\n)*environment") as caught:
        Location(url)
    assert "hidden" not in str(caught.value)
    assert "AKIA" not in str(caught.value)


def test_without_obstore_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    for call in (lambda: Location("s3://b/c").get("a"), lambda: store.open_cache("s3://b/c")):
        with pytest.raises(UserError, match=r"extra 'remote'(.|\n)*no package 'obstore'(.|\n)*ilse-cache\[remote\]"):
            call()


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_recovers_is_waited_for(stand: type[Stand], bucket: Location, status: int) -> None:
    stand.answers = [(status, b"slow down")] * 4
    bucket.put("a", b"1")
    stand.answers = [(status, b"slow down")] * 4
    assert bucket.get("a") == b"1"
    assert stand.seen == 10


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(patience._AGAIN, "wait", wait_none())


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_an_answer_that_breaks_off_is_asked_for_again(
    stand: type[Stand], bucket: Location, tmp_path: Path, share: float
) -> None:
    stand.share = share
    local = write(tmp_path / "c", header(), random_rows(header()))
    remote = write(str(bucket), header(), random_rows(header()))
    for read, expected in (
        (lambda: bucket.get("zarr.json"), local.location.get("zarr.json")),
        (lambda: sorted(bucket.list()), sorted(local.location.list())),
        (lambda: remote.read(slice(0, 10)).tolist(), local.read(slice(0, 10)).tolist()),
        (lambda: chunks_of(remote, 0).tolist(), local.read(slice(0, 4)).tolist()),
        (lambda: store.open_cache(bucket).text_ids(), local.text_ids()),
        (lambda: list(store.verify(bucket)), []),
    ):
        stand.cuts = 3
        assert read() == expected
        assert stand.cuts == 0, "three answers were cut"


@pytest.mark.usefixtures("short_waits")
def test_answers_that_always_break_off_end_in_an_error(stand: type[Stand], bucket: Location) -> None:
    cache = write(str(bucket), header(), random_rows(header()))
    stand.cuts = 10_000
    for call in (
        lambda: bucket.get("zarr.json"),
        lambda: cache.read(slice(0, 4)),
        lambda: cache.read_chunks(0, np.empty((3, chunk_bytes(cache.header)), np.uint8)),
        lambda: store.open_cache(bucket),
    ):
        with pytest.raises(UserError, match=r"an object store that answers(.|\n)*finished work is kept"):
            call()
    assert stand.cuts > 0


def test_a_cache_is_written_and_read_through_errors(stand: type[Stand], bucket: Location, tmp_path: Path) -> None:
    local = write(tmp_path / "c", header(), random_rows(header()))
    stand.answers = [(503, b"")] * 5
    remote = write(str(bucket), header(), random_rows(header()))
    stand.answers = [(500, b"")] * 5
    np.testing.assert_array_equal(remote.read(slice(0, 10)), local.read(slice(0, 10)))
    stand.answers = [(500, b"")] * 5
    assert list(store.verify(bucket)) == []


def test_a_server_that_fails_is_not_called_damage(stand: type[Stand], bucket: Location) -> None:
    cache = write(str(bucket), header(), random_rows(header()))
    stand.always = (500, b"broken")
    for call in (lambda: cache.read(slice(0, 4)), cache.text_ids, lambda: store.open_cache(bucket), cache.statistics):
        with pytest.raises(UserError, match=r"an object store that answers(.|\n)*finished work is kept"):
            call()
    with pytest.raises(UserError, match="an object store that answers"):
        list(store.verify(bucket))


def test_a_refusal_repeats_no_credential(stand: type[Stand], bucket: Location) -> None:
    cache = write(str(bucket), header(), random_rows(header()))
    body = f"<Error><Code>InvalidAccessKeyId</Code><AWSAccessKeyId>{KEY}</AWSAccessKeyId> {SECRET} {TOKEN}</Error>"
    stand.always = (403, body.encode())
    calls = {
        "get": lambda: bucket.get("a"),
        "put": lambda: bucket.put("a", b""),
        "create": lambda: bucket.put("a", b"", create=True),
        "delete": lambda: bucket.delete("a"),
        "list": lambda: list(bucket.list()),
        "read": lambda: cache.read(slice(0, 4)),
        "open": lambda: store.open_cache(bucket),
    }
    for name, call in calls.items():
        with pytest.raises(UserError, match=r"403 Forbidden.*(.|\n)*credentials in the environment") as caught:
            call()
        shown = "".join(traceback.format_exception(caught.value))
        for secret in (KEY, SECRET, TOKEN):
            assert secret not in shown, name


def test_credentials_are_not_in_a_cache(bucket: Location) -> None:
    write(str(bucket), header(), random_rows(header()))
    content = b"".join(files_of(str(bucket)).values())
    assert not any(secret.encode() in content for secret in (KEY, SECRET, TOKEN))


def refused_after(place: Location) -> float:
    started = time.monotonic()
    with pytest.raises(UserError, match=r"reading a(.|\n)*an object store that answers"):
        place.get("a")
    return time.monotonic() - started


def test_a_server_that_is_gone_is_said_to_be(bucket: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(location, "_RETRIES", QUICK)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert refused_after(bucket) < 10


@pytest.mark.exhaustive
def test_a_server_that_is_gone_is_given_up_within_two_minutes_and_not_at_once(
    bucket: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert 5 < refused_after(bucket) < 120
