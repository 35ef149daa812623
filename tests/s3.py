"""An S3 server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.request import Request, urlopen

import pytest

KEY, SECRET, TOKEN = "AKIAKEYOFTHETEST", "secret+of/the=test", "session-of-the-test"
"""Credentials that must not show anywhere."""


def server() -> Iterator[str]:
    """URL of an empty server. For a fixture to yield from."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    # All servers of a process share what they hold, with those of the tests before.
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
    yield f"http://{host}:{port}"
    running.stop()


def bucket(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[str]:
    """URL of an empty bucket on a server of its own; the environment leads there. For a fixture to yield from."""
    import boto3

    for url in server():
        settings = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "a-key",
            "AWS_SECRET_ACCESS_KEY": "a-secret",
            "AWS_REGION": "us-east-1",
        }
        for key, value in settings.items():
            monkeypatch.setenv(key, value)
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=name)
        yield f"s3://{name}"
