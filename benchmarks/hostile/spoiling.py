"""Ways to spoil a file that any format shares. Each returns what a `Case` crafts with."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.hostile.judge import OWNED, SECRET

Craft = Callable[[], object]
DEEP = b"[" * 200_000
HUGE = 10**12
TOO_LONG_NUMBER = b"9" * 5000
"""Python refuses to read a whole number of more than 4,300 digits from text."""


class Payload:
    """Unpickling one writes a file."""

    def __reduce__(self) -> tuple[Any, tuple[str, bytes]]:
        return _own, (OWNED, b"")


def _own(name: str, data: bytes) -> None:
    Path(name).write_bytes(data)


PICKLE = pickle.dumps(Payload())
CODE = f"from pathlib import Path\nPath({OWNED!r}).write_text('')\n"
"""Python that leaves the same trace."""


def written(place: str, content: bytes) -> Craft:
    """The file with another content, where its folder may have to be made."""

    def craft() -> None:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).write_bytes(content)

    return craft


def cut(place: str, keep: int) -> Craft:
    """The first bytes of the file alone."""
    return lambda: Path(place).write_bytes(Path(place).read_bytes()[:keep])


def removed(place: str) -> Craft:
    """No such file or folder."""
    return lambda: shutil.rmtree(place) if Path(place).is_dir() else Path(place).unlink()


def linked_out(place: str, content: bool = False) -> Craft:
    """A link that leads out of the project in the place of a file or folder; with `content`, to a copy of it."""

    def craft() -> None:
        outside = Path("..", SECRET).resolve()
        if content:
            outside = outside.with_name("copy")
            Path(place).rename(outside)
        else:
            removed(place)()
        Path(place).symlink_to(outside)

    return craft


def pipe(place: str) -> Craft:
    """A named pipe that nobody writes to: reading it never ends."""

    def craft() -> None:
        removed(place)()
        os.mkfifo(place)

    return craft


def folder(place: str) -> Craft:
    """A folder in the place of a file."""

    def craft() -> None:
        removed(place)()
        Path(place).mkdir()

    return craft


def both(*crafts: Craft) -> Craft:
    """One after the other."""
    return lambda: [craft() for craft in crafts]


def edited(place: str, change: Callable[[Any], object]) -> Craft:
    """The JSON file after `change`, which works in place."""

    def craft() -> None:
        values = json.loads(Path(place).read_text())
        change(values)
        Path(place).write_text(json.dumps(values))

    return craft


def replaced(place: str, old: bytes, new: bytes) -> Craft:
    """The file with other bytes once."""

    def craft() -> None:
        content = Path(place).read_bytes()
        if old not in content:
            raise ValueError(f"{place} does not hold {old!r}")
        Path(place).write_bytes(content.replace(old, new, 1))

    return craft


def broken_json(place: str) -> dict[str, Craft]:
    """What any JSON file may be instead of what it was."""
    return {
        "nothing": removed(place),
        "no byte": written(place, b""),
        "half of it": cut(place, 10),
        "not UTF-8": written(place, b"\xff\xfe{}"),
        "a list": written(place, b"[1]"),
        "null": written(place, b"null"),
        "a list in a list, 200,000 deep": written(place, DEEP),
        "an object in an object, 200,000 deep": written(place, b'{"a":' * 200_000),
        "a number of 5,000 digits": written(place, b'{"format_version": ' + TOO_LONG_NUMBER + b"}"),
        "a pickle": written(place, PICKLE),
        "a folder in its place": folder(place),
        "a link out of the folder": linked_out(place),
        "a link to the very file, but outside": linked_out(place, content=True),
        "a pipe in its place": pipe(place),
    }
