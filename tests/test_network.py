"""What is said of the Hugging Face Hub and the package index where no answer comes from them."""

from __future__ import annotations

import errno
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ilse.core.errors import UserError
from ilse.core.network import asking_hub
from pipeline.fetching import download
from pipeline.fetching.pinning import latest_commit
from pipeline.stages.fetch import HubArtifact, WheelArtifact, fetch

httpx = pytest.importorskip("httpx2")
requests = pytest.importorskip("requests")
urllib3 = pytest.importorskip("urllib3")
hub = pytest.importorskip("huggingface_hub.errors")

TOKEN = "hf_thetokenthatisnevershown"


def raised(error: Exception) -> UserError:
    with pytest.raises(UserError) as caught, asking_hub("a place", "an answer", "ask again"):
        raise error
    return caught.value


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("[Errno -2] Name or service not known"),
        httpx.ConnectTimeout("timed out"),
        httpx.ReadTimeout("the read operation timed out"),
        httpx.ReadError("connection reset"),
        httpx.RemoteProtocolError("server disconnected"),
        httpx.ProxyError("407"),
        requests.ConnectionError("refused"),
        requests.exceptions.SSLError("certificate verify failed"),
        requests.ReadTimeout("timed out"),
        urllib3.exceptions.NewConnectionError(None, "refused"),
        hub.OfflineModeIsEnabled("offline mode is enabled"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        TimeoutError("timed out"),
        socket.gaierror(-2, "Name or service not known"),
        chained(hub.LocalEntryNotFoundError("nothing in the cache"), httpx.ConnectError("refused")),
    ],
    ids=lambda error: f"{type(error).__module__}.{type(error).__name__}",
)
def test_every_kind_of_lost_connection_names_the_host(error: Exception) -> None:
    found = raised(error)
    assert found.found.startswith("no answer from huggingface.co: ")
    assert "HTTPS_PROXY" in found.next_step


def test_an_answer_that_refuses_is_no_lost_connection_and_a_full_disk_is_not_the_hub_s() -> None:
    found = raised(ValueError(f"401 for Bearer {TOKEN}"))
    assert (found.expected, found.found, found.next_step) == ("an answer", "401 for Bearer …", "ask again")
    assert TOKEN not in "".join(traceback.format_exception(found))
    with pytest.raises(OSError, match="No space"), asking_hub("a place", "an answer", "ask again"):
        raise OSError(errno.ENOSPC, "No space left on device")


def _refusing() -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    yield port


def _hanging_up() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.recv(10)
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture(params=[_refusing, _hanging_up], ids=["refuses", "hangs up"])
def nobody(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """An address where no Hub and no index is, as that of both."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("time.sleep", lambda _: None)  # the library asks six times within half a minute
    for port in request.param():
        address = f"http://127.0.0.1:{port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        for name, value in {"INDEX_URL": address, "RETRIES": "1", "CONFIG_FILE": "/dev/null", "NO_INDEX": "0"}.items():
            monkeypatch.setenv(f"PIP_{name}", value)
        for name in ("EXTRA_INDEX_URL", "FIND_LINKS"):
            monkeypatch.delenv(f"PIP_{name}", raising=False)
        yield address


HUB = HubArtifact(kind="hub", repo_id="owner/name", revision="0" * 40)
WHEEL = WheelArtifact(kind="wheel", package="toys", version="1.0", file="a", sha256="0" * 64)


@pytest.mark.parametrize(
    "ask",
    [
        lambda folder: fetch(HUB, folder / "fetched"),
        lambda folder: fetch(WHEEL, folder / "fetched"),
        lambda folder: latest_commit("owner/name", "model"),
    ],
    ids=["fetch from the Hub", "fetch a wheel", "preset"],
)
def test_a_host_that_is_away_is_named_by_what_asks_it(
    ask: Callable[[Path], object], nobody: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"no answer from 127\.0\.0\.1: (.|\n)*check the connection") as caught:
        ask(tmp_path)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("said", "reason", "host"),
    [
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('<pip._vendor.urllib3."
            "HTTPSConnection object at 0x7f>: Failed to establish a new connection: [Errno -2] Name or service not "
            "known')': /simple/six/\nERROR: No matching distribution found for six",
            "[Errno -2] Name or service not known",
            "pypi.org",
        ),
        (
            "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError(\"HTTPSConnection(host="
            "'index.example', port=443): Failed to establish a new connection: [Errno 111] Connection refused\")': /s/",
            "[Errno 111] Connection refused",
            "index.example",
        ),
        (
            "ERROR: Could not install packages due to an OSError: HTTPSConnectionPool(host='files.example', port=443): "
            "Max retries exceeded (Caused by ProxyError('Cannot connect to proxy'))",
            "HTTPSConnectionPool(host='files.example', port=443): Max retries exceeded (Caused by ProxyError('Cannot "
            "connect to proxy",
            "files.example",
        ),
        ("ERROR: No matching distribution found for six", None, "pypi.org"),
    ],
)
def test_what_pip_says_of_a_lost_connection_is_understood(said: str, reason: str | None, host: str) -> None:
    assert download._lost_connection(said) == reason
    assert download._index(said) == host
