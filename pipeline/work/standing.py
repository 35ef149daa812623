"""Finds what is already at a cache's destination: the same cache, whole or damaged, another one, or none.

A cache is the very one when its capture, its texts with their rows and its shards are. The name of its model's folder
and the versions that made it are notes: a package's next release does not make it another cache.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ilse.core.errors import UserError
from ilse.core.files.ownership import CACHE
from ilse.core.terminal import say
from pipeline import store
from pipeline.work.settings import changes

NOTES = ("model_name", "model_parameters", "versions", "origin")
"""Header fields that may differ between two caches that count as the same."""


def standing(out: store.Location, header: store.CacheHeader, text_ids: store.TextIds) -> store.CacheHeader | None:
    """The header, with its own notes, of the finished cache at `out` where it is the one asked for; else None.

    Raises `UserError` where another one, or anything else, stands in an object store, which can't swap two in one step.
    """
    noted = _with_notes_of(out, header)
    listed = store.listed_sums(out)
    if listed is not None and store.is_same_cache(listed, noted, text_ids):
        return noted
    if _same_without_list(out, noted, text_ids):
        return noted
    _require_free(out, header)
    return None


def is_whole(
    out: store.Location,
    there: store.CacheHeader,
    header: store.CacheHeader,
    text_ids: store.TextIds,
    basis: store.Basis | None = None,
) -> bool:
    """Whether every byte of the cache that `standing` found is as it was written; puts damaged metadata back."""
    damages = list(store.verify(out))
    if not damages:
        made = ", ".join(changes(there.versions, header.versions))
        say(f"{out} is complete, and every byte is as it was written: nothing to compute")
        if made:
            say(f"it was made with {made}")
        return True
    say(f"{out} is damaged in {len(damages)} files, such as {damages[0].file}: what is intact is kept")
    store.restore_metadata(out, there, text_ids, basis)
    return False


def _with_notes_of(out: store.Location, header: store.CacheHeader) -> store.CacheHeader:
    """The header as the cache at `out` has it, where that differs in notes alone."""
    try:
        there, complete = store.peek(out)
    except UserError:  # none, or one whose own file is damaged
        return header
    noted = replace(header, **{name: getattr(there, name) for name in NOTES})
    return noted if complete and noted == there else header


def _same_without_list(out: store.Location, header: store.CacheHeader, text_ids: store.TextIds) -> bool:
    """Whether a cache whose list of checksums is damaged says of itself that it is the one that is asked for."""
    try:
        cache = store.open_cache(out)
        return cache.header == header and bool(np.array_equal(cache.text_id_rows(), text_ids))
    except UserError:
        return False


def _require_free(out: store.Location, header: store.CacheHeader) -> None:
    """Requires that a remote destination is free. Local ones are checked on the move
    (`ilse.core.files.atomic.require_ours`).
    """
    if out.is_local:
        return
    try:
        there, complete = store.peek(out)
    except UserError:
        _require_no_others(out)
        return
    if complete:
        raise UserError(
            f"cache {out}",
            expected=f"no cache yet, or this one: {_described(header)}",
            found=f"another one, finished: {_described(there)}",
            next_step="name another URL with --out and this one under extract.donors, or delete this one",
        )


def _require_no_others(out: store.Location) -> None:
    names = [name for name, _ in out.list()]
    found = CACHE.foreign_among(names)
    if names == ["zarr.json"] and b"ilse_cache" not in out.get(names[0]):
        found = "a Zarr group that is not a cache"
    if found is not None:
        raise UserError(
            f"destination {out}",
            expected="nothing yet, or a cache",
            found=f"a place with {found}",
            next_step="name another URL with --out",
        )


def _described(header: store.CacheHeader) -> str:
    capture = header.capture.fingerprint[:16]
    return f"{header.texts:,} texts in shards of {header.shard_rows}, capture {capture}"
