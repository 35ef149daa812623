"""Unfinished work: an incomplete cache, a record file a finished shard, and the move into place at the end.

On disk, under the scratch folder, so that `out` is the old cache or the new one and never half of one:

    <scratch>/<name>/cache.zarr          what store.create laid out
    <scratch>/<name>/records/N.json      written after shard N was written and read back
    <scratch>/<name>/settings/H.json     how shards were computed, a file for each of the settings
    <scratch>/bases/            see `pipeline.work.bases`
    <scratch>/previous/<place>           hard links to the last finished cache of a place: it gives its rows to the next

In an object store, which cannot rename, the cache is written where it will stay, and counts when it says `complete`:

    <out>                                the cache
    <out>.unfinished/<name>/records/N.json

A shard counts as done when its record is there, is of these very texts, and its bytes have the recorded checksum, and
at no other time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from ilse.core.errors import UserError
from ilse.core.files.atomic import move_folder
from ilse.core.files.ownership import CACHE
from pipeline import store

REQUESTS = 16
"""Records that are asked for at once."""

T = TypeVar("T")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Scratch:
    """The place of one unfinished cache, named by what it will hold."""

    cache: store.Location
    """The cache that is being written."""
    work: store.Location
    """Folder for the records of the unfinished cache."""

    def record(self, record: store.ShardRecord) -> None:
        """Keeps a shard's record, in one step: a record is there whole or not at all."""
        self.work.put(_name(record.shard), store.record_to_json(record))

    def recorded(self, shard: int) -> store.ShardRecord | None:
        """The record of a shard, or None where there is none to read."""
        try:
            return store.record_from_json(self.work.get(_name(shard)))
        except FileNotFoundError:
            return None

    def forget_all_but(self, shards: set[int]) -> None:
        """Drops the records of shards whose bytes are not what they say."""
        kept = {_name(shard) for shard in shards}
        for name, _ in list(self.work.list("records")):
            if name not in kept:
                self.work.delete(name)

    def intact(self, header: store.CacheHeader, text_ids: store.TextIds) -> set[int]:
        """The shards whose stored bytes are still what was recorded for these texts."""
        names = sorted(name for name, _ in self.work.list("records"))

        def intact_shard(name: str) -> int | None:
            record = store.record_from_json(self.work.get(name))
            if record is None or name != _name(record.shard) or record.shard >= header.shards:
                return None
            own = record.claim == store.claim_of(header, text_ids, record.shard)
            return record.shard if own and store.verify_shard(self.cache, record) else None

        return {shard for shard in _at_once(intact_shard, names) if shard is not None}

    def records(self, shards: int) -> Iterator[store.ShardRecord]:
        """The records of all shards in their order; a few at a time in memory."""
        return (record for record in _at_once(self.recorded, range(shards)) if record is not None)


def scratch_name(header: store.CacheHeader, text_ids: store.TextIds) -> str:
    """Names work by what its rows are: the capture, and the texts in their order and shards.

    Work on another model, another capture or another list of texts is never mistaken for this one. How rows are
    computed is no part of the name: a smaller batch or fewer workers reuse what is finished.
    """
    digest = hashlib.sha256(f"{header.shard_rows}\n".encode())
    digest.update(np.ascontiguousarray(text_ids).data)  # no copy of a million ids
    return f"{header.capture.fingerprint[:16]}-{digest.hexdigest()[:16]}"


def open_scratch(
    root: Path,
    out: store.Location,
    header: store.CacheHeader,
    text_ids: store.TextIds,
    name: str,
    basis: store.Basis | None = None,
) -> Scratch:
    """The scratch place of this cache, laid out if it is not there yet.

    In an object store the layout goes to `out` itself. A finished cache there is this very one, being mended: it goes
    on to count, and lends its own intact rows.
    """
    if not out.is_local:
        if not _is_finished(out, header):
            store.create(out, header, text_ids, basis)
        return Scratch(out, out.sibling(f".unfinished/{name}"))
    folder = store.Location(root / name)
    scratch = Scratch(folder.child("cache.zarr"), folder)
    # A run that was killed just after its cache had moved into place leaves records of a cache that is gone.
    if not (scratch.cache.path / "zarr.json").is_file():
        # The group's own file is put last: a kill in between leaves nothing that looks usable.
        shutil.rmtree(folder.path, ignore_errors=True)
        store.create(scratch.cache, header, text_ids, basis)
    folder.sweep()
    return scratch


def _is_finished(out: store.Location, header: store.CacheHeader) -> bool:
    try:
        return store.peek(out) == (header, True)
    except UserError:
        return False


def move_into_place(scratch: Scratch, out: store.Location, root: Path) -> None:
    """Puts the finished cache at `out`, and removes the scratch."""
    if not out.is_local:
        for _ in _at_once(scratch.work.delete, [name for name, _ in scratch.work.list()]):
            pass
        return
    _link(scratch.cache.path, previous(root, out))
    move_folder(scratch.cache.path, out.path, CACHE)
    shutil.rmtree(scratch.work.path, ignore_errors=True)


def previous(root: Path, out: store.Location) -> Path:
    """Second name of the last finished cache at `out`; every other destination has a name of its own."""
    return root / "previous" / hashlib.sha256(str(out).encode()).hexdigest()[:16]


def keep_reachable(root: Path, folder: Path) -> None:
    """Gives each finished cache in `folder`, and in the folders in it, its second name.

    A cache that was pulled or checked out has none yet. The texts change before DVC deletes it: this is the moment.
    """
    for file in [*folder.glob("*.zarr/zarr.json"), *folder.glob("*/*.zarr/zarr.json")]:
        place = store.Location(file.parent)
        kept, sums = previous(root, place), store.listed_sums(place)
        if sums is not None and sums != store.listed_sums(store.Location(kept)):
            _link(place.path, kept)


def _link(folder: Path, copy: Path) -> None:
    """Keeps the cache's bytes reachable under a second name: DVC deletes an output that it is about to make again.

    Shards cost no space while nobody replaces the files; DVC does, with links to its own store, and then it is a copy.
    The small files are copied at once: damage to one leaves its copy, which says what stood where. Where the file
    system has no hard links there is no second name.
    """

    def second(file: str, place: str) -> None:
        shard = store.shard_of_file(Path(file).relative_to(folder).as_posix())
        (shutil.copy2 if shard is None else os.link)(file, place)

    shutil.rmtree(copy, ignore_errors=True)
    with suppress(OSError):
        shutil.copytree(folder, copy, copy_function=second)


def _at_once(function: Callable[[Item], T], items: Sequence[Item]) -> Iterator[T]:
    """Results in order, `REQUESTS` at a time: an object store answers one request in about 20 ms, and many at once."""
    with ThreadPoolExecutor(REQUESTS) as pool:
        for start in range(0, len(items), REQUESTS):
            yield from pool.map(function, items[start : start + REQUESTS])


def _name(shard: int) -> str:
    return f"records/{shard}.json"
