"""Checks that a command can write to its destinations, before it computes anything."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import click

from ilse.core.errors import UserError
from ilse.core.files.atomic import require_ours
from ilse.core.files.ownership import Made
from ilse.core.files.partials import sweep
from ilse.core.files.places import is_stream, place_of, refused

Kind = Literal["file", "folder"] | Made
"""What will be made: a file; a folder whose other contents stay; a folder that takes the place of an older one."""


def require_writable(path: Path, kind: Kind, option: str = "another name") -> None:
    """Raises `UserError` where `path` can't be made, or is there as another kind of thing; nothing is left behind.

    A folder is made and removed in the nearest one that exists, since permission bits tell nothing about a read-only
    disk, and nothing to root. `option` is what to name another place with.
    """
    if kind == "file" and is_stream(path):
        if not os.access(path, os.W_OK):
            raise _refused(path, kind, "a device or pipe that can't be written to", option)
        return
    if isinstance(kind, Made):
        require_ours(path, kind, option)
    given, path = path.absolute(), place_of(path)
    if path.exists() and path.is_dir() != (kind != "file"):
        raise _refused(given, kind, f"a {'folder' if path.is_dir() else 'file'} of this name", option)
    if kind == "folder" and given.is_symlink() and not path.exists():
        raise _refused(given, kind, f"a link to {path}, where nothing is", option)
    *missing, place = _up_to_what_exists(path if kind == "folder" else path.parent)
    if not place.is_dir():
        raise _refused(given, kind, f"{place}, which is not a folder", option)
    sweep(place)
    name = (missing[-1] if missing else path).name
    try:
        os.rmdir(tempfile.mkdtemp(prefix=f".{name}.", suffix=".partial", dir=place))
    except OSError as error:
        found = f"{place} can't be written to: {error.strerror}"
        raise _refused(given, kind, found, f"{option}, or make this one writable") from error


def require_apart(made: Mapping[str, tuple[Path, Kind]], read: Mapping[str, Path]) -> None:
    """Raises `UserError` where a command would write over what it reads, or two of its outputs over each other.

    Parameters
    ----------
    made
        Option → what is written there.
    read
        Option → what is read, or kept between runs. A folder that is replaced neither holds one of these nor lies in
        one; a file is none of them.
    """
    for option, (path, kind) in made.items():
        others = {**read} | {name: other for name, (other, _) in made.items() if name != option}
        for name, other in others.items():
            if kind == "folder" or is_stream(path):
                continue
            ours, theirs = Path(os.path.realpath(place_of(path))), Path(os.path.realpath(other))
            if ours == theirs:
                raise _refused(path, kind, f"what {name} names too", option)
            if isinstance(kind, Made) and _overlap(ours, theirs, name in read):
                raise _refused(path, kind, f"a folder that holds what {name} names, {other}, or lies in it", option)


def _overlap(ours: Path, theirs: Path, is_read: bool) -> bool:
    """Whether one holds the other; what is written into another output is that one's to refuse."""
    return theirs.is_relative_to(ours) or (is_read and ours.is_relative_to(theirs))


def _up_to_what_exists(path: Path) -> Iterator[Path]:
    """The path and the folders above it, up to the first that is there, if only as a link to nowhere."""
    for one in (path, *path.parents):
        yield one
        if os.path.lexists(one):
            return


def _refused(path: Path, kind: Kind, found: str, option: str) -> UserError:
    expected = f"a {'file' if kind == 'file' else 'folder'}, or none yet, in a place that can be written"
    return refused(path, expected, found, option)


class Destination(click.ParamType):  # type: ignore[type-arg]  # generic in later releases of click alone
    """Type of an option or argument that names what a command will write.

    A URL is left to the store where it is `made` text, and refused where it is a path.
    """

    name = "path"

    def __init__(self, kind: Kind, made: type = Path) -> None:
        self.kind, self.made = kind, made

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, once it is known to be writable."""
        option = _option(param) if param else "another name"
        if _is_url(value) and self.made is Path:
            raise refused(value, "a file or folder of this machine", "an address", option)
        if not _is_url(value) and not (ctx and ctx.resilient_parsing):
            require_writable(Path(value), self.kind, option)
        return self.made(value)


class Source(click.ParamType):  # type: ignore[type-arg]  # as above
    """Type of an option or argument that names what a command reads, a file or a folder that is one whole."""

    name = "path"

    def __init__(self, made: type = Path) -> None:
        self.made = made

    def convert(self, value: Any, _param: click.Parameter | None, _ctx: click.Context | None) -> Any:
        """The path as it is."""
        return self.made(value)


class Stage(click.Command):
    """A command whose outputs lie apart from each other and from what it reads, which is looked at before it runs."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        made: dict[str, tuple[Path, Kind]] = {}
        read: dict[str, Path] = {}
        for param in self.params:
            value, several = ctx.params.get(param.name or ""), isinstance(param.type, click.Tuple)
            types = param.type.types if isinstance(param.type, click.Tuple) else repeat(param.type)
            for one, kind in zip(value or () if several or param.multiple else (value,), types, strict=False):
                if one is None or _is_url(one):
                    continue
                if isinstance(kind, Destination):
                    made[_option(param)] = Path(one), kind.kind
                if isinstance(kind, Source) or param.name == "scratch":
                    name = _option(param) + (", what is read" if several else "")
                    read[f"{name} {one}" if param.multiple and name in read else name] = Path(one)
        require_apart(made, read)
        return super().invoke(ctx)


def _option(param: click.Parameter) -> str:
    return param.opts[0] if param.opts else "another name"


def _is_url(value: Any) -> bool:
    return "://" in str(value)
