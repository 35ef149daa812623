"""Reads what others made: JSON that says one thing, and plain files that lie in the folder that is read.

What is wrong is a `ValueError` whose message says it; callers know which artifact it is and name it.
"""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any, NoReturn

_CHECKSUM = re.compile(r"[0-9a-f]{30,64}")


def read_json(path: Path) -> Any:
    """What the file holds. Raises `ValueError` as `parse_json` does, and `OSError`."""
    return parse_json(path.read_bytes())


def parse_json(data: bytes) -> Any:
    """JSON as the standard has it: UTF-8, every key of an object once, finite numbers, and no deeper than sense."""
    try:
        return json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_not_a_number)
    except RecursionError as error:
        raise ValueError("JSON that is too deep to be read") from error


def own_file(folder: Path, name: str) -> Path:
    """The file of that name in `folder`, to be read.

    Raises `ValueError` as `own_path` does and for what is no plain file, such as a pipe; and `FileNotFoundError`.
    """
    path = own_path(folder, name)
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{name}, which is no plain file")
    return path


def own_path(folder: Path, name: str) -> Path:
    """The file or folder of that name in `folder`.

    A link may lead out of it only to a file that is called by its checksum, as DVC's cache and the Hub's keep them.
    Raises `ValueError` for any other link or name that leads out, and `FileNotFoundError`.
    """
    path = folder / name
    real = path.resolve(strict=True)
    if not real.is_relative_to(folder.resolve()) and not (_CHECKSUM.fullmatch(real.name) and real.is_file()):
        raise ValueError(f"{name}, which leads out of the folder")
    return path


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:40]!r} twice")
    return values


def _not_a_number(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is no number")
