"""Finds every damaged, missing or foreign byte of a finished cache, by the checksums in `SHA256SUMS`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.store.layout import SUMS, parse_sums, sha256, shard_of_file
from pipeline.store.location import Location


@dataclass(frozen=True)
class Damage:
    """One file that is not what was written."""

    file: str
    found: str
    shard: int | None
    """The shard that it belongs to; None for metadata and index files."""


def listed_sums(location: Location) -> dict[str, str] | None:
    """The checksums that the cache lists, or None where the list is missing or damaged."""
    try:
        return parse_sums(location.get(SUMS))
    except FileNotFoundError:
        return None


def has_checksum(location: Location, name: str, digest: str) -> bool:
    """Whether a file is there with this checksum."""
    try:
        return sha256(location.get(name)) == digest
    except FileNotFoundError:
        return False


def verify(location: Location) -> Iterator[Damage]:
    """Every file that differs from its checksum. Reads the whole cache once, one file at a time.

    Without a readable list there is one damage, the list itself: nothing else can be told from it.
    """
    sums = listed_sums(location)
    if sums is None:
        yield Damage(SUMS, "missing or damaged", None)
        return
    for name, digest in sorted(sums.items()):
        try:
            intact = sha256(location.get(name)) == digest
        except FileNotFoundError:
            yield Damage(name, "missing", shard_of_file(name))
            continue
        except OSError as error:  # such as a bad sector
            yield Damage(name, f"unreadable ({error.strerror})", shard_of_file(name))
            continue
        if not intact:
            yield Damage(name, "other bytes than were written", shard_of_file(name))
    foreign = sorted(name for name, _ in location.list() if name not in sums and name != SUMS)
    for name in foreign:
        yield Damage(name, "a file that does not belong to the cache", None)
