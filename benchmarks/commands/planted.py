"""Passwords in every address that a command can be told: none may be shown, or stored in what is written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import yaml

from benchmarks.commands import options
from benchmarks.commands.arena import FRESH, OLDER, Arena, Trial
from benchmarks.commands.calls import Call
from benchmarks.commands.verdict import SECRET, names
from benchmarks.faults.stage import SECRET as PASSWORD
from benchmarks.faults.tally import Fault

KIND = "passwords in addresses"
ADDRESSES = (
    "s3://user:{}@bucket/a",
    "s3://user:a/{}@bucket/a",
    "s3://bucket/a?X-Amz-Signature={}",
    "s3://bucket/a#{}",
    "https://user:{}@127.0.0.1:9/a",
    "https://127.0.0.1:9/a?sig={}",
    "postgresql://user:{}@127.0.0.1:9/db",
    "postgresql://127.0.0.1:9/db?user=me&password={}",
    "mysql://user:{}@127.0.0.1:9/db",
    "mysql+pymysql://user:a@{}@127.0.0.1:9/db",
    "redis://:{}@127.0.0.1:9/0",
    "tcp://user:{}@127.0.0.1:9",
    "tls://127.0.0.1:9?token={}",
    "gs://user:{}@bucket/a",
    "hf://user:{}@owner/name",
)
STORES = {
    "tune": ("tune.storage", ADDRESSES[6:11]),
    "extract": ("extract.cluster.address", ADDRESSES[11:13]),
    "control": ("controls.caches.other", ADDRESSES[:4]),
    "fetch": ("fetch.folder.path", ADDRESSES),
    "prepare": ("prepare.path", ADDRESSES),
    "plan": ("extract.model.path", ADDRESSES),
    "identify": ("extract.model.path", ADDRESSES),
    "lora": ("extract.model.path", ADDRESSES),
}
"""Command → the key that holds an address, and what may stand there."""


def hidden(arena: Arena, call: Call, random: Random, number: int) -> Fault | None:
    """A parameter of the command, or a key of its section, holds such an address; the environment holds passwords."""
    places: list[Any] = [*options.places(call)]
    places += [STORES[call.command]] * 2 if call.command in STORES else []
    if not places:
        return None
    place = random.choice(places)
    with arena.trial(KIND, call, OLDER if call.stands else FRESH) as trial, _refusing() as server:
        if isinstance(place, tuple):
            key, known = place
            address = random.choice(known).format(PASSWORD)
            _set(trial.project / "params.yaml", key.split("."), address)
            where, arguments = key, call.arguments
        else:
            address = random.choice(ADDRESSES).format(PASSWORD)
            where, arguments = options.name_of(place), options.with_value(call, place, address)
        had = set(_with_password(trial))
        ended = trial.run(environment=_environment(server), arguments=arguments)
        what = f"{where} {address.replace(PASSWORD, '…')}"
        shown = [line for line in ended.said.splitlines() if PASSWORD in line]
        written = sorted(set(_with_password(trial)) - had)
        if shown or written:
            why = f"said: {shown[0].replace(PASSWORD, '<PASSWORD>')[:200]}" if shown else f"written: {names(written)}"
            return Fault(KIND, f"{call.name}: {what}", SECRET, why)
        return trial.judged(what, ended, files=False)


def _environment(server: str) -> dict[str, str]:
    """Whatever holds a password there, and a server of ours for s3:// addresses."""
    return {
        "AWS_ENDPOINT_URL": server,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "a-key",
        "AWS_SECRET_ACCESS_KEY": PASSWORD,
        "AWS_SESSION_TOKEN": PASSWORD,
        "HF_TOKEN": PASSWORD,
        "PIP_INDEX_URL": f"http://user:{PASSWORD}@127.0.0.1:9/simple",
    }


def _set(file: Path, keys: list[str], value: str) -> None:
    params = yaml.safe_load(file.read_text())
    section = params
    for key in keys[:-1]:
        section = section.setdefault(key, {})
    section[keys[-1]] = value
    if "cluster" in keys:
        section["kind"] = "address"
    file.write_text(yaml.safe_dump(params))


def _with_password(trial: Trial) -> Iterator[str]:
    """Files and names that hold it."""
    for path in trial.project.rglob("*"):
        name = path.relative_to(trial.project).as_posix()
        if PASSWORD in name or (path.is_file() and PASSWORD.encode() in path.read_bytes()):
            yield name


class _Refusing(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def _refusing() -> Iterator[str]:
    """A server that refuses every request."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
