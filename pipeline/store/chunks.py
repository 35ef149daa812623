"""Reads a shard's chunks straight from its file, and checks every checksum.

The file that the layout's writer makes, little-endian (Zarr v3, sharding with the index at the end):

    layer 0's rows, CRC-32C | layer 1's rows, CRC-32C | … | index: (offset, bytes) a layer, uint64 | its CRC-32C

So all files of a cache end in the same index, and a layer's rows lie side by side in it. Zarr itself makes an array of
every chunk and then sets them between each other, row by row, which takes four times as long as this.
"""

from __future__ import annotations

from collections.abc import Sequence

import google_crc32c
import numpy as np
import numpy.typing as npt

from pipeline.store.encoding import STORAGE_TYPES, Scales, missing, value_bytes
from pipeline.store.location import Location
from pipeline.store.spec import CacheHeader

CHECKSUM_BYTES = 4

ChunkBytes = npt.NDArray[np.uint8]
"""[layers, `chunk_bytes`]: each layer's rows of a shard, and their checksum."""


def chunk_bytes(header: CacheHeader) -> int:
    """Bytes of one layer of a shard: `shard_rows` rows, of which the last shard may not use all, and a checksum."""
    capture = header.capture
    return header.shard_rows * capture.dim * value_bytes(capture.storage_type) + CHECKSUM_BYTES


def rows_in(chunks: ChunkBytes, header: CacheHeader) -> npt.NDArray[np.generic]:
    """The stored values, [layers, shard_rows, dim], in the same memory."""
    dtype = STORAGE_TYPES[header.capture.storage_type].dtype
    values = chunks[:, :-CHECKSUM_BYTES].view(dtype)
    return values.reshape(len(chunks), header.shard_rows, header.capture.dim)


def read_chunks(location: Location, header: CacheHeader, name: str, layers: Sequence[int], out: ChunkBytes) -> bool:
    """Reads these layers of a shard's file to `out`; False where the file is not laid out as above, bit for bit.

    Raises `UserError` where an object store does not answer.
    """
    expected, size = _index(header), chunk_bytes(header)
    index = np.empty_like(expected)
    starts = [len(header.capture.layers) * size, *(layer * size for layer in layers)]
    try:
        location.read_into(name, zip(starts, [index, *out], strict=True))
    except (OSError, EOFError):  # missing, unreadable or cut
        return False
    intact = np.array_equal(index, expected) and all(map(is_intact, out))
    return intact and not missing(rows_in(out, header)[:, 0, 0], header.capture.storage_type).any()


def read_scales(location: Location, name: str, shape: tuple[int, int]) -> Scales | None:
    """A shard's scales from their file, float32 of this shape; None where it is no such file, bit for bit.

    Raises `UserError` where an object store does not answer.
    """
    try:
        data = np.frombuffer(location.get(name), np.uint8)
    except OSError:  # missing or unreadable
        return None
    if len(data) != 4 * shape[0] * shape[1] + CHECKSUM_BYTES or not is_intact(data):
        return None
    return np.array(data[:-CHECKSUM_BYTES].view("<f4").reshape(shape), np.float32)


def announce_chunks(location: Location, header: CacheHeader, name: str, layers: Sequence[int]) -> None:
    """Has the system fetch these layers of a shard's file, to be read later; as `Location.announce`."""
    size, every = chunk_bytes(header), len(header.capture.layers)
    # A call a layer takes as long as to read it, where the system has it.
    whole = len(layers) == every
    location.announce(name, [(0, every * size)] if whole else [(layer * size, size) for layer in layers])


def checksums_in(data: bytes, header: CacheHeader) -> list[int]:
    """The checksum of each layer's chunk in a shard's file; 0 for each where it is laid out in another way."""
    index, layers = _index(header).tobytes(), len(header.capture.layers)
    chunks = np.frombuffer(data, np.uint8)[: len(data) - len(index)]
    if not data.endswith(index) or len(chunks) != layers * chunk_bytes(header):
        return [0] * layers
    return checksums_of(chunks.reshape(layers, -1)).tolist()  # type: ignore[no-any-return]


def checksums_of(chunks: ChunkBytes) -> npt.NDArray[np.uint32]:
    """The checksum that stands behind each chunk, [layers]."""
    return np.ascontiguousarray(chunks[:, -CHECKSUM_BYTES:]).view("<u4")[:, 0]


def seal(chunks: ChunkBytes, header: CacheHeader, rows: int) -> None:
    """Makes chunks of which the values of this many rows were set what the writer made of them."""
    values = rows_in(chunks, header)
    values[:, rows:] = STORAGE_TYPES[header.capture.storage_type].missing
    for chunk in chunks:
        chunk[-CHECKSUM_BYTES:] = np.frombuffer(checksum(chunk[:-CHECKSUM_BYTES]), np.uint8)


def is_intact(chunk: npt.NDArray[np.uint8]) -> bool:
    """Whether the checksum behind a chunk is that of its bytes."""
    return chunk[-CHECKSUM_BYTES:].tobytes() == checksum(chunk[:-CHECKSUM_BYTES])


def checksum(data: npt.NDArray[np.uint8]) -> bytes:
    """CRC-32C, as it stands behind what it is of."""
    return int(google_crc32c.value(data)).to_bytes(CHECKSUM_BYTES, "little")


def index_of(chunks: int, size: int) -> npt.NDArray[np.uint8]:
    """The index of a file of this many chunks of one size, with its checksum."""
    places = np.stack([np.arange(chunks, dtype="<u8") * np.uint64(size), np.full(chunks, size, "<u8")], axis=1)
    data = places.reshape(-1).view(np.uint8)
    return np.concatenate([data, np.frombuffer(checksum(data), np.uint8)])


def _index(header: CacheHeader) -> npt.NDArray[np.uint8]:
    """The index that every shard's file ends in."""
    return index_of(len(header.capture.layers), chunk_bytes(header))
