"""A folder that appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ilse.errors import UserError


@contextmanager
def whole_folder(destination: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `destination` when the block ends well.

    A block that fails leaves `destination` as it was; a killed process leaves the old folder or none, and perhaps a
    hidden sibling `.NAME.*.partial`, which may be deleted. Raises `UserError` where `destination` is a file, or holds
    the working directory, which replacing it would delete.
    """
    destination = destination.absolute()
    if Path.cwd().is_relative_to(destination.resolve()) or (destination.exists() and not destination.is_dir()):
        raise UserError(
            f"destination {destination}",
            expected="a folder of its own, which is replaced as a whole",
            found="the working directory, one above it, or a file",
            next_step="name another destination, such as data/raw/NAME",
        )
    destination.parent.mkdir(parents=True, exist_ok=True)
    # a sibling, so that the swap is two renames within one file system
    work = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".partial", dir=destination.parent))
    try:
        new = work / "new"
        new.mkdir()
        yield new
        _swap(new, destination, aside=work / "old")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _swap(new: Path, destination: Path, aside: Path) -> None:
    if destination.exists():
        destination.rename(aside)
    try:
        new.rename(destination)
    except BaseException:
        if aside.exists():
            aside.rename(destination)
        raise
