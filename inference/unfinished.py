"""What a killed prediction leaves for the next one: a file a finished part, in a hidden folder beside the output.

    <folder of out>/.<name of out>.unfinished/<key>/N.parquet

`key` names head, model, input and options, so that parts of another question are never taken for this one's; they go
when an output is finished. A part is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ilse.files import replacing
from inference.inputs import Format, files_in
from pipeline.store import Location
from pipeline.work.lock import hold
from trainer.artifact import CONFIG, WEIGHTS


@dataclass(frozen=True)
class Parts:
    """The finished parts of one output, by their numbers from 0."""

    folder: Path

    def has(self, number: int, rows: int) -> bool:
        """Whether the part is there, with as many rows."""
        try:
            return int(pl.scan_parquet(self._file(number)).select(pl.len()).collect().item()) == rows
        except (FileNotFoundError, pl.exceptions.PolarsError):
            return False

    def put(self, number: int, table: pl.DataFrame) -> None:
        """Keeps a part."""
        with replacing(self._file(number)) as new:
            table.write_parquet(new)

    def get(self, number: int) -> pl.DataFrame:
        """A part that is there."""
        return pl.read_parquet(self._file(number))

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.parquet"


@contextmanager
def unfinished(out: Path, key: str) -> Iterator[Parts]:
    """The parts of the output `out`, which go when the block ends well.

    Raises `UserError` while another run writes the same output.
    """
    root = out.absolute().with_name(f".{out.name}.unfinished")
    with hold(Location(root), f"prediction to {out}"):
        yield Parts(root / key)
        shutil.rmtree(root, ignore_errors=True)


def key_of(head: Path, source: str, kind: Format, options: dict[str, Any]) -> str:
    """Names a question: the head's files, the input as it is now, and `options`, which are JSON.

    The model is the head's, or it would not have been loaded. A file is known by its path, size and time of change.
    """
    files = [Path(source) / name for name in files_in(Path(source))] if kind == "folder" else [Path(source)]
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        digest.update(hashlib.sha256((head / name).read_bytes()).digest())
    for file in files:
        facts = file.stat()
        digest.update(f"{file.absolute()}\n{facts.st_size}\n{facts.st_mtime_ns}\n".encode())
    digest.update(json.dumps([kind, options], sort_keys=True).encode())
    return digest.hexdigest()[:32]
