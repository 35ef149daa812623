"""Reads a shard's token states straight from its file, as `chunks` reads pooled rows, and checks every checksum.

A chunk is one layer of n tokens with its CRC-32C behind it. Where the cache says which token states it keeps, n is all
of the shard's tokens, a layer's bytes stand side by side, and those of chosen layers are all that is read:

    layer 0's tokens, CRC-32C | layer 1's tokens, CRC-32C | … | index: (offset, bytes) a layer | its CRC-32C

Older caches, and `token_states: true`, have n = 256, chunks in an order that the index alone tells, and one checksum of
the file in `binding`: it is read whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.store.chunks import CHECKSUM_BYTES, ChunkBytes, checksums_of, index_of, is_intact
from pipeline.store.encoding import TOKEN_TYPES, FloatRows, Scales, Stored, decode, levels_of, stored_width
from pipeline.store.layout import TOKEN_CHUNK_ROWS, has_whole_layers, token_row, tokens_file
from pipeline.store.location import Location
from pipeline.store.spec import CacheHeader


@dataclass(frozen=True)
class ShardTokens:
    """The token states of a shard, as they are stored, text after text: text i has the rows `starts[i]` to
    `starts[i + 1]`.
    """

    values: Stored
    """[tokens, layers, width] of the storage type, bfloat16 as its bits; layer by layer in memory where they are read
    so, which a copy in another order costs as much as the reading."""
    kind: str
    """The storage type; int8 of int4 too, whose levels these are."""
    scales: Scales | None
    """Scales of int8, float32 [layers, width]."""
    starts: npt.NDArray[np.int64]
    """[texts of the shard + 1]"""

    @staticmethod
    def of(stored: Stored, kind: str, scales: Scales | None, starts: npt.NDArray[np.int64]) -> ShardTokens:
        """Builds the states from what the file holds."""
        if kind == "int4":
            assert scales is not None
            return ShardTokens(levels_of(stored, scales.shape[-1]), "int8", scales, starts)
        return ShardTokens(stored, kind, scales, starts)

    def decoded(self) -> FloatRows:
        """All token states in float32, [tokens, layers, width]."""
        return self.decoded_rows(slice(None))

    def decoded_rows(self, rows: slice | npt.NDArray[np.int64]) -> FloatRows:
        """Some of them."""
        values = self.values[rows]
        out = np.empty(values.shape, np.float32)
        for layer in range(values.shape[1]):  # each is contiguous where it is read
            out[:, layer] = decode(values[:, layer], self.kind, None if self.scales is None else self.scales[layer])
        return out

    def text(self, place: int) -> FloatRows:
        """Token states of one text of the shard, float32."""
        return self.decoded_rows(slice(int(self.starts[place]), int(self.starts[place + 1])))


@dataclass(frozen=True)
class TokenGrid:
    """How the chunks of a shard's token states lie in its file."""

    tokens: int
    layers: int
    width: int
    """Stored numbers of a token and layer."""
    kind: str
    rows: int
    """Tokens of a chunk; the last one may not use all."""

    @staticmethod
    def of(header: CacheHeader, tokens: int) -> TokenGrid:
        """The chunk grid of a shard with this number of tokens."""
        spec = header.capture.tokens
        assert spec is not None
        rows = tokens if has_whole_layers(header) else TOKEN_CHUNK_ROWS
        layers, width = token_row(header)
        return TokenGrid(tokens, layers, stored_width(spec.storage_type, width), spec.storage_type, rows)

    @property
    def pieces(self) -> int:
        """Chunks that a layer has."""
        return -(-self.tokens // self.rows)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk, with its checksum."""
        return self.rows * self.width * TOKEN_TYPES[self.kind].dtype.itemsize + CHECKSUM_BYTES

    @property
    def index(self) -> npt.NDArray[np.uint8]:
        """Index at the end of the file."""
        return index_of(self.pieces * self.layers, self.chunk_bytes)

    def values(self, chunks: ChunkBytes) -> Stored:
        """The stored values of chunks, [chunks, rows, width], in the same memory."""
        values = chunks[:, :-CHECKSUM_BYTES].view(TOKEN_TYPES[self.kind].dtype)
        return values.reshape(len(chunks), self.rows, self.width)


def read_layers(
    location: Location, header: CacheHeader, shard: int, grid: TokenGrid, places: Sequence[int], out: ChunkBytes
) -> bool:
    """Reads whole layers, by their place among those of token states, to `out`; False where the file is not laid out
    as above, or a checksum is wrong.
    """
    size, expected = grid.chunk_bytes, grid.index
    index = np.empty_like(expected)
    starts = [grid.layers * size, *(place * size for place in places)]
    try:
        location.read_into(tokens_file(shard), zip(starts, [index, *out], strict=True))
    except (OSError, EOFError):
        return False
    return np.array_equal(index, expected) and all(map(is_intact, out))


def stored_in(data: bytes, grid: TokenGrid, places: Sequence[int], known: bool = False) -> Stored | None:
    """The values [tokens, layers, width] of chosen layers from a whole file; None where it is no file of such chunks,
    or a checksum is wrong. Of a file that is `known`, by a checksum of it all, those of the chunks are not looked at.
    """
    length, content = len(grid.index), np.frombuffer(data, np.uint8)
    if len(content) < length or not is_intact(content[-length:]):
        return None
    index = content[-length:-CHECKSUM_BYTES].view("<u8").reshape(grid.pieces, grid.layers, 2)
    if (index[..., 1] != grid.chunk_bytes).any() or index[..., 0].max() > len(content) - length - grid.chunk_bytes:
        return None
    out = np.empty((len(places), grid.pieces, grid.rows, grid.width), TOKEN_TYPES[grid.kind].dtype)
    for number, place in enumerate(places):
        for piece, start in enumerate(index[:, place, 0].tolist()):
            chunk = content[start : start + grid.chunk_bytes]
            if not (known or is_intact(chunk)):
                return None
            out[number, piece] = grid.values(chunk[None])[0]
    return out.reshape(len(places), -1, grid.width)[:, : grid.tokens].swapaxes(0, 1)


def token_checksums_in(data: bytes, header: CacheHeader, tokens: int) -> list[int]:
    """The checksum of each layer's chunk in a shard's file; 0 for each where it is laid out in another way."""
    grid = TokenGrid.of(header, tokens)
    index, chunks = grid.index.tobytes(), np.frombuffer(data, np.uint8)[: -len(grid.index)]
    if not data.endswith(index) or len(chunks) != grid.layers * grid.chunk_bytes:
        return [0] * grid.layers
    return checksums_of(chunks.reshape(grid.layers, -1)).tolist()  # type: ignore[no-any-return]
