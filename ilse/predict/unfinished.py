"""Finished parts of a killed prediction, one file each in a hidden folder next to the output, for the next run.

    <folder of out>/.<name of out>.unfinished/<key>/<rows>.parquet

`key` names head, model and options, and `rows` what was asked of them: the rows' numbers, texts and ids. A part is so
never taken for the answer to another question, whatever the input's name, size and time say; parts go when an output is
finished. A part is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ilse.core.files.atomic import replacing
from ilse.core.files.folder_lock import empty, hold_folder
from ilse.core.files.places import place_of
from ilse.core.files.table_files import read_parquet, scan_parquet
from ilse.predict.inputs import WHERE
from trainer.artifacts.artifact import CONFIG, WEIGHTS


@dataclass(frozen=True)
class Parts:
    """The finished parts of one output, by what was asked in them."""

    folder: Path

    def has(self, part: str, rows: int) -> bool:
        """Whether the part is there, with as many rows."""
        try:
            return int(scan_parquet(self._file(part)).select(pl.len()).collect().item()) == rows
        except (FileNotFoundError, pl.exceptions.PolarsError):
            return False

    def put(self, part: str, table: pl.DataFrame) -> None:
        """Keeps a part."""
        with replacing(self._file(part)) as new:
            table.write_parquet(new)

    def get(self, part: str) -> pl.DataFrame:
        """A part that is there."""
        return read_parquet(self._file(part))

    def _file(self, part: str) -> Path:
        return self.folder / f"{part}.parquet"


@contextmanager
def unfinished(out: Path, key: str) -> Iterator[Parts]:
    """The parts of the output `out`, which go when the block ends well.

    Raises `UserError` while another run writes the same output.
    """
    place = place_of(out)
    root = place.with_name(f".{place.name}.unfinished")
    with hold_folder(root, f"prediction to {out}"):
        yield Parts(root / key)
        empty(root)


def key_of(head: Path, options: dict[str, Any]) -> str:
    """Names what answers: the head's files and `options`, which are JSON.

    The model is the head's, or it would not have been loaded.
    """
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        digest.update(hashlib.sha256((head / name).read_bytes()).digest())
    digest.update(json.dumps(options, sort_keys=True).encode())
    return digest.hexdigest()[:32]


def part_of(asked: pl.DataFrame) -> str:
    """Names a piece of the input, as `inputs.pieces` gives it, by all that its answers follow from."""
    rows = asked.drop(WHERE).to_dict(as_series=False)
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:32]
