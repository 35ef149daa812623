"""A stand-in of the Hub on this machine: as much of its HTTP interface as one commit and one snapshot take."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class Hub:
    """Its repositories: name → file → content; and who asked, by the Authorization header."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.asked_by: set[str] = set()
        self.refuses: int | None = None
        self.cuts: bool | str = False
        """Whether the connection ends in the middle of a file, or of which one."""

    def commit(self, repository: str) -> str:
        """Names the state of a repository."""
        return hashlib.sha1(repr(sorted(self.files[repository].items())).encode()).hexdigest()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status, and JSON or bytes."""
        if self.refuses:
            return self.refuses, {"error": "refused"}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            self.files.setdefault(name, {})
            return 200, {"url": f"/{name}"}
        if path == "/api/whoami-v2":
            return 200, {"name": "owner", "type": "user", "orgs": []}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        parts = path.removeprefix("/api/models").strip("/").split("/")
        name, rest = "/".join(parts[:2]), parts[2:]
        if name not in self.files:
            return 404, {"error": "Repository not found"}
        if rest[0] == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": file, "uploadMode": "regular", "shouldIgnore": False} for file in files]
            return 200, {"files": modes}
        if rest[0] == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return 200, {"commitUrl": f"/{name}/commit", "commitOid": self.commit(name)}
        files = self.files[name]
        if rest[0] == "resolve":
            return (200, files[rest[-1]]) if rest[-1] in files else (404, {"error": "Entry not found"})
        if rest[0] == "tree":
            return 200, [{"type": "file", "path": file, "size": len(data), "oid": "0" * 40}
                         for file, data in files.items()]  # fmt: skip
        return 200, {"id": name, "sha": self.commit(name), "siblings": [{"rfilename": file} for file in files]}


@contextmanager
def listening() -> Iterator[tuple[Hub, str]]:
    """The stand-in and its address."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            hub.asked_by.add(self.headers.get("Authorization", ""))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.split("?")[0]
            status, content = hub.answer(self.command, path, body)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            if status == 404 and "/resolve/" in path:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            name = "/".join(path.strip("/").split("/")[:2])
            self.send_header("X-Repo-Commit", hub.commit(name) if name in hub.files else "0" * 40)
            self.end_headers()
            if self.command != "HEAD":
                cut = "/resolve/" in path and hub.cuts in (True, path.rsplit("/", 1)[-1])
                self.wfile.write(data[: len(data) // 2] if cut else data)
                self.close_connection = cut or self.close_connection

        do_GET = do_HEAD = do_POST = _answer

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, as what huggingface_hub takes for the Hub."""
    with listening() as (hub, address), monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield hub
