"""A cache that is only read if it matches its own list of checksums, for those who sign its rows again.

A chunk's own checksum tells a whole chunk of any cache from a damaged one. The list tells this cache's from any
other's: it names every file, the list of texts and the shards alike. Files are read as a whole here, and the bytes that
were compared are the ones that are used.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from ilse.core.errors import UserError
from pipeline.store.layout import sha256
from pipeline.store.location import Location


class ProvenLocation(Location):
    """The place of a cache; what is read of it has the listed checksums. Raises `UserError` for what has not."""

    _sums: Mapping[str, str]

    def __init__(self, location: Location, sums: Mapping[str, str]) -> None:
        super().__init__(location)
        object.__setattr__(self, "_sums", sums)

    def get(self, name: str) -> bytes:
        """The bytes of a file, as listed; raises as `Location.get` does too."""
        data = super().get(name)
        if self._sums.get(name) != sha256(data):
            raise UserError(
                f"cache {self}, {name}",
                expected="the bytes that its list of checksums names",
                found="other bytes",
                next_step=f"'ilse verify {self}' lists all damage; pull the cache again, or extract it again",
            )
        return data

    def read_into(self, name: str, parts: Iterable[tuple[int, npt.NDArray[np.uint8]]]) -> None:
        """Reads parts of a file as `Location.read_into` does, but from a file that is read and checked as a whole."""
        data = memoryview(self.get(name))
        for start, place in parts:
            piece = data[start : start + len(place)]
            if len(piece) < len(place):
                raise EOFError(f"{name} ends before byte {start + len(place):,}")
            place[:] = np.frombuffer(piece, np.uint8)

    def zarr_store(self) -> Store:
        """What zarr reads from."""
        return _ProvenStore(super().zarr_store(), self)


class _ProvenStore(WrapperStore[Store]):
    """Gives zarr parts of whole files; the last one stays in memory, since zarr asks for chunk after chunk of it."""

    def __init__(self, store: Store, location: ProvenLocation) -> None:
        super().__init__(store)
        self._location = location
        self._lock = threading.Lock()
        self._latest: tuple[str, bytes | None] = ("", None)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """A value, or a part of it; None where there is none."""
        data = await asyncio.to_thread(self._whole, key)
        return None if data is None else prototype.buffer.from_bytes(_part(data, byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Parts of several values."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    def _whole(self, key: str) -> bytes | None:
        with self._lock:
            if self._latest[0] != key:
                try:
                    self._latest = (key, self._location.get(key))
                except (FileNotFoundError, IsADirectoryError):
                    return None
            return self._latest[1]


def _part(data: bytes, byte_range: ByteRequest | None) -> bytes:
    match byte_range:
        case RangeByteRequest(start=start, end=end):
            return data[start:end]
        case OffsetByteRequest(offset=offset):
            return data[offset:]
        case SuffixByteRequest(suffix=suffix):
            return data[-suffix:]
    return data
