"""A proxy before an S3 server that answers with errors, stalls or cuts connections at chosen requests."""

from __future__ import annotations

import http.client
import itertools
import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STALL_SECONDS = 1.5
SILENCE_SECONDS = 9.0
"""Longer than the client waits, which is told to wait `CLIENT_TIMEOUT`."""
CLIENT_TIMEOUT = "6s"
PASSING = ("500", "503", "stalls", "cuts before", "cuts behind", "answers half", "stays silent")
LASTING = ("403", "500", "503", "cuts before")
AT_ONCE = 1
"""So many of `LASTING` end a run at once; the others after the half minute for which the client tries again."""

Behaviour = Callable[[int], str]
"""Number of a request, from 1 → what happens to it; nothing for an empty string."""

_RECORD = re.compile(r"/records/\d+\.json$")
_ANSWERS = {"500": "InternalError", "503": "SlowDown", "403": "AccessDenied"}


class Proxy(ThreadingHTTPServer):
    """Listens on loopback; `records` are the paths of shards' records that the server has taken."""

    daemon_threads = True

    def __init__(self, upstream: str, behave: Behaviour = lambda number: "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream.removeprefix("http://")
        self.behave = behave
        self.numbers = itertools.count(1)
        self.injected = 0
        self.records: list[str] = []
        self.victim = 0
        """Process that the behaviour `kills` kills."""
        self.held, self.free = threading.Event(), threading.Event()
        """Set when the behaviour `holds` has stopped a request, and to let it go on."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing of a client that has gone."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def handle_one_request(self) -> None:
        """One request, by any method."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        what = self.server.behave(next(self.server.numbers))
        self.server.injected += bool(what)
        self._meet(what, body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def _meet(self, what: str, body: bytes) -> None:
        if what in _ANSWERS:
            text = f"<?xml version='1.0'?><Error><Code>{_ANSWERS[what]}</Code><Message>injected</Message></Error>"
            return self._answer(int(what), [("Content-Type", "application/xml")], text.encode())
        if what == "cuts before":
            return self._cut()
        if what == "stays silent":
            time.sleep(SILENCE_SECONDS)
            return self._cut()
        if what == "kills":
            os.kill(self.server.victim, signal.SIGKILL)
            return self._cut()
        if what == "holds":
            self.server.held.set()
            self.server.free.wait()
        time.sleep(STALL_SECONDS if what == "stalls" else 0)
        status, headers, content = self._forward(body)
        if what == "cuts behind":
            return self._cut()
        return self._answer(status, headers, content, half=what == "answers half")

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        connection.request(self.command, self.path, body, dict(self.headers.items()))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if self.command == "PUT" and answer.status == 200 and _RECORD.search(self.path):
            self.server.records.append(self.path)
        return answer.status, answer.getheaders(), content

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, half: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = next((value for name, value in headers if name.lower() == "content-length"), "0")
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if half else content)
        self.wfile.flush()
        if half:
            self._cut()

    def _cut(self) -> None:
        """Ends the connection at once, as a machine that is gone does."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()
