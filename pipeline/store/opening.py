"""Opens a cache and checks its header."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from ilse.core.errors import MissingError, UserError
from pipeline.store.basis import Basis
from pipeline.store.layout import ATTRIBUTE, BASIS, ROOT, TEXT_ID_BYTES, basis_shape, is_as_laid_out
from pipeline.store.location import Location
from pipeline.store.spec import FORMAT_VERSION, CacheHeader, CaptureSpec


def peek(place: str | Path | Location) -> tuple[CacheHeader, bool]:
    """Header of the cache, and whether it is finished. Raises `UserError` where there is none."""
    location = place if isinstance(place, Location) else Location(place)
    attributes = _attributes(location)
    if attributes.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"cache {location}",
            expected=f"cache format version {FORMAT_VERSION}",
            found=f"version {attributes.get('format_version')}",
            next_step="extract again, or install the release of ilse-cache that wrote it",
        )
    try:
        facts = {"origin": {}, **attributes}
        values = {name: facts[name] for name in CacheHeader.__dataclass_fields__ if name != "capture"}
        header = CacheHeader(capture=CaptureSpec.from_attributes(attributes["capture"]), **values)
        complete = attributes["complete"] is True
        edited = header.attributes(complete) != attributes
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise damaged(location, f"attributes that cannot be parsed ({type(error).__name__})") from error
    if edited:
        raise damaged(location, "a spec whose checksum is another one")
    return header, complete


def _attributes(location: Location) -> dict[str, Any]:
    try:
        location.get(ROOT)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingError(
            f"cache {location}",
            expected="a cache written by 'ilse extract'",
            found="nothing there",
            next_step="run 'ilse extract', or 'dvc pull' to fetch one",
        ) from error
    attributes: Any = open_group(location).attrs.get(ATTRIBUTE)
    if not isinstance(attributes, dict):
        raise UserError(
            f"cache {location}",
            expected=f"a Zarr group with the attribute '{ATTRIBUTE}'",
            found="a Zarr group without it",
            next_step="name a folder that 'ilse extract' wrote",
        )
    return attributes


def open_group(location: Location) -> zarr.Group:
    """The cache as zarr sees it, to read from. Raises `UserError` where its own file is damaged."""
    try:
        return zarr.open_group(location.zarr_store(), mode="r")
    except UserError:
        raise
    except Exception as error:  # a file that does not parse has many errors, by what is wrong in it
        found = f"a group that cannot be opened ({type(error).__name__})"
        raise location.refusal(error, "opening") or damaged(location, found) from None


def read_basis(location: Location, header: CacheHeader) -> Basis | None:
    """The basis of the cache's token states, the very one that its header names; None where they have none.

    Raises `UserError` for a basis that is missing or damaged.
    """
    tokens = header.capture.tokens
    if tokens is None or tokens.rank is None:
        return None
    shapes = {part: basis_shape(header, part) for part in BASIS}
    try:
        held = sum(size for _, size in location.list("basis"))
        if 4 * sum(map(math.prod, shapes.values())) > held:  # before anything of that size is made
            raise _no_basis(location, f"files of {held:,} bytes")
        group, arrays = open_group(location), {}
        for part in BASIS:
            array = group[f"basis/{part}"]
            if not isinstance(array, zarr.Array) or not is_as_laid_out(array, header, f"basis/{part}"):
                raise _no_basis(location, f"no array 'basis/{part}' of the shape that the header asks for")
            arrays[part] = np.asarray(array[...])
        basis = Basis.from_arrays(arrays)
    except UserError as error:
        if error.where.startswith("basis"):  # of values that are none
            raise _no_basis(location, error.found) from None
        raise
    except Exception as error:  # zarr has no error of its own for a bad checksum, a cut or a missing file
        found = " ".join(str(error).split())[:200] or type(error).__name__
        raise location.refusal(error, "reading its basis") or _no_basis(location, found) from None
    if basis.sha256 != tokens.basis:
        raise _no_basis(location, f"another basis, of SHA-256 {basis.sha256[:16]}…")
    return basis


def _no_basis(location: Location, found: str) -> UserError:
    return UserError(
        f"cache {location}, basis of its token states",
        expected="the basis that they were projected with",
        found=found,
        next_step=f"'ilse verify {location}' lists all damage; pull the cache again, or extract it again",
    )


def check_sizes(location: Location, header: CacheHeader) -> None:
    """Whether the files can hold what the header claims, before anything of that size is made.

    Lost and cut files are for those who read them to name. Raises `UserError` for a header of more texts than the
    bytes of all files could name, or of shards larger than any file, and as `Location.list` does.
    """
    total = largest = 0
    for name, size in location.list():
        total += size
        largest = max(largest, size if name.startswith("pooled/") else 0)
    if header.texts * TEXT_ID_BYTES > total:
        raise damaged(location, f"{header.texts:,} texts in {total:,} bytes")
    if header.shard_bytes > largest:
        raise damaged(location, f"shards of {header.shard_bytes:,} bytes in files of {largest:,} at the most")


def damaged(location: Location, found: str) -> UserError:
    """The error for metadata that are not what was written."""
    return UserError(
        f"cache {location}",
        expected="attributes as 'ilse extract' wrote them",
        found=found,
        next_step=f"'ilse verify {location}' lists the damaged files; pull the cache again, or extract again",
    )
