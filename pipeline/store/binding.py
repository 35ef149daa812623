"""Binds a shard's values to its texts: checksums of everything in a shard, in one row with the checksum of its texts.

A chunk's checksum tells whether the chunk is whole. It does not tell whose it is: a whole shard of another cache of the
same capture passes. The array `binding` [shards, columns] says of each shard what belongs together, as CRC-32C unless
another is named:

    texts          the capture's fingerprint and the ids of the shard's texts
    token_count    of the shard's texts
    truncated      likewise
    tokens         the file of the shard's token states, as CRC-32: its pieces end with their own CRC-32C, and what
                   does has one CRC-32C whatever it holds
    then for each pooling: each layer's chunk, and of int8 the scales
    and for token states whose chunks are whole layers the same

0 stands for what is not there. Readers compare what they have just checked with four bytes more, one layer's bytes too.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import google_crc32c
import numpy as np
import numpy.typing as npt

from pipeline.store.chunks import checksums_in
from pipeline.store.encoding import Scales
from pipeline.store.layout import TOKENS as TOKENS_ARRAY
from pipeline.store.layout import (
    TextIds,
    has_token_scales,
    has_whole_layers,
    scale_file,
    shard_file,
    token_row,
    tokens_file,
)
from pipeline.store.spec import CacheHeader
from pipeline.store.token_chunks import token_checksums_in

TEXTS, TOKEN_COUNT, TRUNCATED, TOKENS = range(4)
FIXED = 4
"""Columns before those of the poolings."""
CRC_BYTES = 4

Row = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Binding:
    """The binding of a cache, as its array has it."""

    header: CacheHeader
    rows: Row
    """[shards, columns]"""

    def foreign_texts(self, text_ids: TextIds) -> list[int]:
        """The shards that were written for other texts, or for another capture, than these of all rows."""
        found = (texts_checksum(self.header, text_ids[place]) for place in self._places())
        return self._other(TEXTS, list(found))

    def foreign_index(self, column: int, values: npt.NDArray[np.generic]) -> list[int]:
        """The shards whose `TOKEN_COUNT` or `TRUNCATED` are others than these of all rows."""
        return self._other(column, [_crc(np.ascontiguousarray(values[place]).tobytes()) for place in self._places()])

    def has_tokens(self, shard: int, data: bytes) -> bool:
        """Whether this is the file of the shard's token states.

        Caches of earlier versions have its CRC-32C, which tells a damaged file and not a foreign one.
        """
        return int(self.rows[shard, TOKENS]) in (0, zlib.crc32(data), _crc(data))

    def has_chunks(self, shard: int, pooling: str, layers: Sequence[int], found: Row) -> bool:
        """Whether these are the checksums of the shard's chunks, [layers]."""
        expected = self.rows[shard, pooling_column(self.header, pooling) + np.asarray(layers)]
        return bool(((expected == found) | (expected == 0)).all())

    def has_scales(self, shard: int, pooling: str, scales: Scales) -> bool:
        """Whether these are the scales of all layers of the shard."""
        column = pooling_column(self.header, pooling) + len(self.header.capture.layers)
        return self._has_scales(shard, column, scales)

    def has_token_chunks(self, shard: int, places: Sequence[int], found: Row) -> bool:
        """Whether these are the checksums of the shard's chunks of token states, of layers by their place in them."""
        expected = self.rows[shard, token_column(self.header) + np.asarray(places)]
        return bool(((expected == found) | (expected == 0)).all())

    def has_token_scales(self, shard: int, scales: Scales) -> bool:
        """Whether these are the scales of the shard's token states, of all their layers."""
        return self._has_scales(shard, token_column(self.header) + token_row(self.header)[0], scales)

    def _has_scales(self, shard: int, column: int, scales: Scales) -> bool:
        return _agree(self.rows[shard, column], _crc(np.ascontiguousarray(scales, "<f4").tobytes()))

    def _places(self) -> list[slice]:
        return [self.header.rows_of(shard) for shard in range(self.header.shards)]

    def _other(self, column: int, found: Sequence[int]) -> list[int]:
        return [shard for shard, value in enumerate(found) if not _agree(self.rows[shard, column], value)]


def binding_row(
    header: CacheHeader,
    text_ids: TextIds,
    token_count: Sequence[int],
    truncated: Sequence[bool],
    shard: int,
    files: Mapping[str, bytes],
) -> list[int]:
    """The row of a shard that was written as these `files`."""
    row = [texts_checksum(header, text_ids), _crc(np.array(token_count, "<i4").tobytes())]
    row += [_crc(np.array(truncated, bool).tobytes()), _of_file(files, tokens_file(shard))]
    for pooling in header.capture.poolings:
        row += checksums_in(files[shard_file(pooling, shard)], header)
        if header.capture.storage_type == "int8":
            row.append(_of_scales(files, pooling, shard))
    if has_whole_layers(header):
        row += token_checksums_in(files[tokens_file(shard)], header, sum(token_count))
        if has_token_scales(header):
            row.append(_of_scales(files, TOKENS_ARRAY, shard))
    return row


def texts_checksum(header: CacheHeader, text_ids: TextIds) -> int:
    """Checksum of the capture and of some texts in their order."""
    return _crc(bytes.fromhex(header.capture.fingerprint) + np.ascontiguousarray(text_ids).tobytes())


def pooling_column(header: CacheHeader, pooling: str) -> int:
    """First column of a pooling."""
    width = len(header.capture.layers) + (header.capture.storage_type == "int8")
    return FIXED + header.capture.poolings.index(pooling) * width


def token_column(header: CacheHeader) -> int:
    """First column of the token states, whose chunks are whole layers."""
    width = len(header.capture.layers) + (header.capture.storage_type == "int8")
    return FIXED + len(header.capture.poolings) * width


def _of_scales(files: Mapping[str, bytes], what: str, shard: int) -> int:
    return int.from_bytes(files[scale_file(what, shard)][-CRC_BYTES:], "little")


def _of_file(files: Mapping[str, bytes], name: str) -> int:
    return zlib.crc32(files[name]) if name in files else 0


def _agree(expected: np.uint32, found: int) -> bool:
    return int(expected) in (0, found)


def _crc(data: bytes) -> int:
    return int(google_crc32c.value(data))
