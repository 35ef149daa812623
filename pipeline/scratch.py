"""Unfinished work: an incomplete cache, a record file a finished shard, and the move into place at the end.

    <scratch>/<fingerprint>-<texts>/cache.zarr       what store.create laid out
    <scratch>/<fingerprint>-<texts>/records/N.json   written after shard N was written and read back

A shard counts as done when its record is there and its bytes have the recorded checksum, and at no other time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline import store


@dataclass(frozen=True)
class Scratch:
    """The folder of one unfinished cache, named by what it will hold."""

    folder: Path

    @property
    def cache(self) -> Path:
        """The cache that is being written."""
        return self.folder / "cache.zarr"

    @property
    def records(self) -> Path:
        """The folder of the shards' records."""
        return self.folder / "records"

    def record(self, record: store.ShardRecord) -> None:
        """Puts a shard's record on disk in one step: a record is there whole or not at all."""
        final = self.records / f"{record.shard}.json"
        temporary = final.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(asdict(record), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(final)

    def recorded(self) -> dict[int, store.ShardRecord]:
        """Records of the shards whose stored bytes are still what was recorded."""
        records = [store.ShardRecord(**json.loads(file.read_text())) for file in sorted(self.records.glob("*.json"))]
        return {record.shard: record for record in records if store.verify_shard(self.cache, record)}


def open_scratch(root: Path, header: store.CacheHeader, text_ids: Sequence[str]) -> Scratch:
    """The scratch folder for this cache under `root`, laid out if it is not there yet.

    Its name comes from the capture's fingerprint and from the texts in their order: work on another model,
    another setting or another list of texts is never mistaken for this one.
    """
    texts = hashlib.sha256(f"{header.shard_rows}\n{''.join(text_ids)}".encode()).hexdigest()
    scratch = Scratch(root / f"{header.capture.fingerprint[:16]}-{texts[:8]}")
    if not scratch.records.is_dir():
        # Laid out under another name first: a kill in between leaves nothing that looks usable.
        shutil.rmtree(scratch.folder, ignore_errors=True)
        building = scratch.folder.with_name(f"{scratch.folder.name}.building")
        shutil.rmtree(building, ignore_errors=True)
        (building / "records").mkdir(parents=True)
        store.create(building / "cache.zarr", header, text_ids)
        building.rename(scratch.folder)
    return scratch


def sweep(scratch: Scratch) -> None:
    """Removes what a killed writer left half-written beside the shards and records."""
    for pattern in ("cache.zarr/**/*.partial*", "cache.zarr/**/*.tmp", "records/*.tmp"):
        for file in scratch.folder.glob(pattern):
            file.unlink(missing_ok=True)


def move_into_place(scratch: Scratch, out: Path) -> None:
    """Puts the finished cache at `out`, replacing an older one, and removes the scratch folder."""
    out.parent.mkdir(parents=True, exist_ok=True)
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    scratch.cache.rename(out)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(scratch.folder, ignore_errors=True)
