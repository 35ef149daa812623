"""Unfinished work: an incomplete cache, a record file a finished shard, and the move into place at the end.

    <scratch>/<fingerprint>-<texts>/cache.zarr       what store.create laid out
    <scratch>/<fingerprint>-<texts>/records/N.json   written after shard N was written and read back

A shard counts as done when its record is there and its bytes have the recorded checksum, and at no other time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ilse.files import move_folder, write_json
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
        write_json(self.records / f"{record.shard}.json", asdict(record))

    def recorded(self) -> dict[int, store.ShardRecord]:
        """Records of the shards whose stored bytes are still what was recorded."""
        records = [record for file in sorted(self.records.glob("*.json")) if (record := _parse(file))]
        return {record.shard: record for record in records if store.verify_shard(self.cache, record)}


def _parse(file: Path) -> store.ShardRecord | None:
    """The record in a file, or None for one that a power cut left empty: its shard is computed again."""
    try:
        return store.ShardRecord(**json.loads(file.read_bytes()))
    except (ValueError, TypeError):
        return None


def open_scratch(root: Path, header: store.CacheHeader, text_ids: Sequence[str]) -> Scratch:
    """The scratch folder for this cache under `root`, laid out if it is not there yet.

    Its name comes from the capture's fingerprint and from the texts in their order: work on another model,
    another setting or another list of texts is never mistaken for this one.
    """
    texts = hashlib.sha256(f"{header.shard_rows}\n{''.join(text_ids)}".encode()).hexdigest()
    scratch = Scratch(root / f"{header.capture.fingerprint[:16]}-{texts[:8]}")
    # A run that was killed just after its cache had moved into place leaves records of a cache that is gone.
    if not (scratch.records.is_dir() and scratch.cache.is_dir()):
        # Laid out under another name first: a kill in between leaves nothing that looks usable.
        shutil.rmtree(scratch.folder, ignore_errors=True)
        building = scratch.folder.with_name(f"{scratch.folder.name}.building")
        shutil.rmtree(building, ignore_errors=True)
        (building / "records").mkdir(parents=True)
        store.create(building / "cache.zarr", header, text_ids)
        building.rename(scratch.folder)
    return scratch


def sweep(scratch: Scratch) -> None:
    """Removes what a killed writer left half-written beside the shards: it would move into place with them."""
    for file in scratch.cache.rglob("*.partial"):
        file.unlink(missing_ok=True)


def move_into_place(scratch: Scratch, out: Path) -> None:
    """Puts the finished cache at `out`, replacing an older one, and removes the scratch folder."""
    move_folder(scratch.cache, out)
    shutil.rmtree(scratch.folder, ignore_errors=True)
