"""Writes the tables of one evaluation one after another, with a list that shows whether they belong together.

`SHA256SUMS` names every file with its checksum, as `sha256sum --check` reads it. It is put in place first: where a run
is interrupted, the tables that are still another evaluation's differ from it, and whoever reads them says so.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ilse.core.errors import UserError
from ilse.core.files.atomic import move_folder, replacing
from ilse.core.files.folder_lock import hold_folder
from ilse.core.files.ownership import PREDICTIONS
from ilse.core.files.partials import NEW, beside
from ilse.core.files.places import is_stream, refused

SUMS = "SHA256SUMS"
UNFINISHED = ".evaluation.unfinished"


@contextmanager
def together(results: Path) -> Iterator[Path]:
    """Yield an empty folder whose files and folders take their places in `results` when the block ends well.

    A block that fails leaves `results` as it was. Raises `UserError` while another process does so.
    """
    with hold_folder(results / UNFINISHED, f"evaluation in {results}"), beside(results / "evaluation") as work:
        new = work / NEW
        new.mkdir()
        yield new
        seal(new)
        for path in new.iterdir():
            if (results / path.name).exists() and (results / path.name).is_dir() != path.is_dir():
                kinds = ("a folder", "a file") if path.is_dir() else ("a file", "a folder")
                raise refused(results / path.name, *kinds, "--results")
        for path in sorted(new.iterdir(), key=lambda path: (path.name != SUMS, path.name)):
            _put(path, results / path.name)


def _put(made: Path, path: Path) -> None:
    if made.is_dir():
        move_folder(made, path, PREDICTIONS)  # the one folder of an evaluation
    elif path.is_symlink() or is_stream(path):
        with replacing(path) as new:
            shutil.copyfile(made, new)
    else:
        made.replace(path)  # needs no room


def seal(results: Path) -> None:
    """Lists all files that are in `results` now as those of one evaluation."""
    files = sorted(path for path in results.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [f"{_digest(path)}  {path.relative_to(results).as_posix()}\n" for path in files]
    (results / SUMS).write_text("".join(lines), encoding="utf-8", newline="")


def require_one_evaluation(results: Path, names: list[str]) -> None:
    """Raises `UserError` that names those of the files that are there and are not what the list says.

    Results without a list, which nobody wrote in one go, are taken as they are.
    """
    try:
        listed = (results / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise _mixed(results, f"{SUMS}, which can't be read: {error}") from error
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in listed)}
    there = [name for name in names if (results / name).is_file()]
    others = [name for name in there if sums.get(name) != _digest(results / name)]
    if others:
        raise _mixed(results, f"{', '.join(others)} of another one, or changed since")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mixed(results: Path, found: str) -> UserError:
    return UserError(
        f"results {results}",
        expected=f"the tables of one evaluation, as {SUMS} lists them",
        found=found,
        next_step="run 'ilse evaluate' again, or 'dvc repro'",
    )
