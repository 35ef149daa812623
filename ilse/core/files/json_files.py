"""Reads JSON from others strictly, and only from plain files inside the folder that is read.

What is wrong is a `ValueError` whose message says it; callers know which artifact it is and name it.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

_CHECKSUM = re.compile(r"[0-9a-f]{30,64}")


MOST_JSON = 32 * 2**20
"""Bytes of one document: the index of the largest models' weights has a quarter of it, and a list of empty lists takes
thirty times its own size in memory."""


def read_json(path: Path) -> Any:
    """Reads a JSON file. Raises `ValueError` as `parse_json` does, and `OSError`."""
    with path.open("rb") as file:
        return parse_json(file.read(MOST_JSON + 1))


def parse_json(data: bytes) -> Any:
    """JSON as the standard has it: UTF-8, every key of an object once, finite numbers, and no longer or deeper than
    sense.
    """
    if len(data) > MOST_JSON:
        raise ValueError(f"JSON of more than {MOST_JSON:,} bytes")
    try:
        return json.loads(data.decode(), object_pairs_hook=each_once, parse_constant=_not_a_number, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def own_file(folder: Path, name: str) -> Path:
    """The file of that name in `folder`, to be read.

    Raises `ValueError` as `own_path` does and for what is no plain file, such as a pipe; and `FileNotFoundError`.
    """
    return plain_file(own_path(folder, name), name)


def plain_file(path: Path, name: str) -> Path:
    """Returns `path` if it is a plain file. Raises `ValueError`, which calls it `name`, if not."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{name}, which is not a plain file")
    return path


def own_path(folder: Path, name: str) -> Path:
    """The file or folder of that name in `folder`.

    A link may lead out of it only to a file that is called by its checksum, as DVC's cache and the Hub's keep them.
    Raises `ValueError` for any other link or name that leads out, and `FileNotFoundError`.
    """
    path = folder / name
    real = path.resolve(strict=True)
    if not real.is_relative_to(folder.resolve()) and not is_stored(real):
        raise ValueError(f"{name}, which leads out of the folder")
    return path


def is_stored(real: Path) -> bool:
    """Whether a file is called by its checksum, as DVC's cache and the Hub's keep theirs: it never changes."""
    return bool(_CHECKSUM.fullmatch(real.name)) and real.is_file()


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What makes an object of its keys and values for `json`. Raises `ValueError` for a key that stands twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"the key {max(counts, key=counts.__getitem__)[:40]!r} twice")
    return values


def _not_a_number(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is not a number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:40]}, which is too large for a computer")
    return value
