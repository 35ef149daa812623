"""Verifies a cache for `ilse verify`: names every damaged file with its shard and rows."""

from __future__ import annotations

from ilse.core.errors import UserError
from pipeline.store import CacheHeader, Damage, Location, peek
from pipeline.store import verify as damages_of


def verify(place: str) -> str:
    """A sentence about an intact cache. Raises `UserError` with a line for each damaged file of another one."""
    location = Location(place)
    damages = list(damages_of(location))
    header = _header(location, damages)
    if damages:
        raise UserError(
            f"cache {location}",
            expected="every byte as it was written",
            found="\n            ".join(_line(damage, header) for damage in damages),
            next_step="'ilse extract' computes only the damaged shards again; or pull the cache again",
        )
    assert header is not None
    return f"{location}: {header.texts:,} texts in {header.shards} shards, every byte as it was written"


def _header(location: Location, damages: list[Damage]) -> CacheHeader | None:
    """The cache's header; None where damage keeps it from being read. Raises `UserError` where there is no cache."""
    try:
        header, complete = peek(location)
    except UserError:
        if any(damage.file == "zarr.json" for damage in damages):
            return None
        raise
    if not complete:
        raise UserError(
            f"cache {location}",
            expected="a finished cache",
            found="one whose record says that it is unfinished",
            next_step="run 'ilse extract' again: it resumes where it stopped",
        )
    return header


def _line(damage: Damage, header: CacheHeader | None) -> str:
    if damage.shard is None:
        return f"{damage.file}: {damage.found}"
    rows = "" if header is None else " (rows {0.start} to {0.stop})".format(header.rows_of(damage.shard))
    return f"shard {damage.shard}{rows}, {damage.file}: {damage.found}"
