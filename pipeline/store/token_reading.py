"""Reads token states from a finished cache, by shard or by text."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from ilse.core.errors import UserError
from pipeline.store.arrays import FOREIGN, CheckedArrays
from pipeline.store.basis import Basis
from pipeline.store.binding import TOKENS as BOUND_TOKENS
from pipeline.store.chunks import ChunkBytes, checksums_of
from pipeline.store.encoding import FloatRows, Scales
from pipeline.store.layout import TOKENS, has_token_scales, has_whole_layers, scale_file, tokens_file, tokens_name
from pipeline.store.location import Location
from pipeline.store.opening import read_basis
from pipeline.store.spec import CacheHeader
from pipeline.store.token_chunks import ShardTokens, TokenGrid, read_layers, stored_in


@dataclass(frozen=True)
class _OpenTokens:
    """The token states of a shard that texts are read from one by one."""

    shard: int
    layers: tuple[int, ...]
    tokens: ShardTokens | None
    """Token states of the layers, in memory; None for a file that is read in parts."""
    starts: npt.NDArray[np.int64]
    array: zarr.Array[Any] | None


class TokenStates(CheckedArrays):
    """The token states of a finished cache, where it keeps them."""

    def __init__(self, location: Location, header: CacheHeader) -> None:
        super().__init__(location, header)
        self._tokens: _OpenTokens | None = None

    @property
    def token_layers(self) -> tuple[int, ...]:
        """Places, among the cache's layers, of those whose token states are kept; none for pooled rows alone."""
        tokens = self.header.capture.tokens
        return () if tokens is None else tuple(self.layers.index(name) for name in tokens.layers)

    @property
    def token_width(self) -> int:
        """Values of a layer's token state: the rank of the cache's basis, or `dim`."""
        return self.header.capture.token_width

    def basis(self) -> Basis | None:
        """The basis that the token states are in, of `token_layers` in their order; None where they are whole.

        Raises `UserError` for a cache without token states, and for a basis that is missing or damaged.
        """
        self._token_places(None)
        return self._basis

    @functools.cached_property
    def _basis(self) -> Basis | None:
        return read_basis(self.location, self.header)

    def shard_tokens(self, shard: int, layers: Sequence[int] | None = None) -> ShardTokens:
        """The token states of a shard's texts, as stored: all of `token_layers`, or those of chosen layers.

        Of a cache that was told which token states to keep, the bytes of the chosen layers are all that is read.

        Parameters
        ----------
        layers
            Places among the cache's layers, which may be counted from the last one.

        Raises
        ------
        UserError
            For a cache without token states, a layer whose token states it does not keep, and what is damaged.
        """
        places = self._token_places(layers)
        if not 0 <= shard < self.header.shards:
            raise IndexError(f"shard {shard} of {self.header.shards}")
        rows, starts = self.header.rows_of(shard), self._starts(shard)
        grid = TokenGrid.of(self.header, int(starts[-1]))
        if has_whole_layers(self.header):
            out = self._room(rows, (len(places), grid.chunk_bytes))
            if read_layers(self.location, self.header, shard, grid, places, out):
                if self._binding and not self._binding.has_token_chunks(shard, places, checksums_of(out)):
                    raise self._damaged_rows(rows, f"{FOREIGN}, in {tokens_file(shard)}")
                return ShardTokens.of(
                    grid.values(out).swapaxes(0, 1), grid.kind, self._token_scales(shard, places), starts
                )
        else:
            data = self._own_tokens(shard, rows)
            found = stored_in(data, grid, places, self.is_proven or self._is_bound_whole(shard))
            if found is not None:
                return ShardTokens(found, grid.kind, None, starts)
        # Laid out in another way, as zarr may read it, or damaged: zarr says how.
        self._own_tokens(shard, rows)
        array = self._open(tokens_name(shard), int(starts[-1]))
        stored = self._values(array, rows, places, grid.kind, slice(None))
        return ShardTokens.of(stored.values, grid.kind, self._token_scales(shard, places), starts)

    def token_states(self, text: int, layers: Sequence[int] | None = None) -> FloatRows:
        """The states of one text's tokens in their order, float32 [tokens, layers, token_width]; raises as
        `shard_tokens` does, which reads many texts much faster.
        """
        shard, place = text // self.header.shard_rows, text % self.header.shard_rows
        places = self._token_places(layers)
        if has_whole_layers(self.header):
            kept = self._tokens  # looked at once: another thread may read another shard
            if kept is None or kept.shard != shard or kept.layers != places or kept.tokens is None:
                tokens = self.shard_tokens(shard, layers)
                kept = self._tokens = _OpenTokens(shard, places, tokens, tokens.starts, None)
            assert kept.tokens is not None
            return kept.tokens.text(place)
        opened = self._opened_tokens(shard)
        rows = slice(int(opened.starts[place]), int(opened.starts[place + 1]))
        assert opened.array is not None
        return self._values(opened.array, rows, places, self.header.capture.storage_type).decoded()

    def gather_tokens(self, rows: npt.NDArray[np.int64], layers: Sequence[int] | None = None) -> list[FloatRows]:
        """The token states of chosen texts in the order asked for, as `token_states`; each shard is read once."""
        out: list[FloatRows] = [np.empty(0, np.float32)] * len(rows)
        shard_of = rows // self.header.shard_rows
        for shard in np.unique(shard_of).tolist():
            tokens = self.shard_tokens(shard, layers)
            for place in np.flatnonzero(shard_of == shard).tolist():
                out[place] = tokens.text(int(rows[place]) % self.header.shard_rows)
        return out

    def _token_places(self, layers: Sequence[int] | None) -> tuple[int, ...]:
        """Positions of these layers among the layers whose token states are kept."""
        kept = self.token_layers
        if not kept:
            raise UserError(
                f"cache {self.path}",
                expected="token states",
                found="pooled rows alone",
                next_step="set extract.token_states to true, or to the layers and rank that are to be kept, and "
                "extract again",
            )
        if layers is None:
            return tuple(range(len(kept)))
        asked = self._places(layers)
        missing_ones = [self.layers[layer] for layer in asked if layer not in kept]
        if missing_ones:
            raise UserError(
                f"cache {self.path}",
                expected=f"token states of layer '{missing_ones[0]}'",
                found=f"those of {', '.join(self.layers[layer] for layer in kept)}",
                next_step="choose from these, or add the layer to extract.token_states.layers and extract again",
            )
        return tuple(kept.index(layer) for layer in asked)

    def _starts(self, shard: int) -> npt.NDArray[np.int64]:
        """Offsets at which the tokens of the shard's texts begin, and the end of the last one."""
        counts = self._counts[self.header.rows_of(shard)]
        return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    @functools.cached_property
    def _counts(self) -> npt.NDArray[np.int32]:
        """The texts' tokens, which stay in memory: four bytes per text."""
        return self.token_counts()

    def _room(self, rows: slice, shape: tuple[int, ...]) -> ChunkBytes:
        """Bytes to read to; counts of tokens that no memory could hold are damage."""
        try:
            return np.empty(shape, np.uint8)
        except (MemoryError, ValueError):
            raise self._damaged_rows(rows, f"{shape[1]:,} bytes of token states per layer") from None

    def _token_scales(self, shard: int, places: Sequence[int]) -> Scales | None:
        if not has_token_scales(self.header):
            return None
        scales = self._read_scales(shard, TOKENS)
        if self._binding and not self._binding.has_token_scales(shard, scales):
            raise self._damaged_rows(self.header.rows_of(shard), f"{FOREIGN}, in {scale_file(TOKENS, shard)}")
        return scales[list(places)]

    def _opened_tokens(self, shard: int) -> _OpenTokens:
        """The shard's token states, read by parts; the last shard stays open, since texts are read in turn."""
        opened = self._tokens  # looked at once: another thread may read another shard
        if opened is None or opened.shard != shard:
            starts = self._starts(shard)
            if self._binding:  # reads the file once as a whole: its parts do not say whose they are
                self._own_tokens(shard, self.header.rows_of(shard))
            array = self._open(tokens_name(shard), int(starts[-1]))
            opened = self._tokens = _OpenTokens(shard, (), None, starts, array)
        return opened

    def _own_tokens(self, shard: int, rows: slice) -> bytes:
        """The whole file of a shard's token states, which has to be the one that was written for its texts."""
        try:
            data = self.location.get(tokens_file(shard))
        except OSError as error:
            raise self._damaged_rows(rows, f"{tokens_file(shard)}, {error.strerror}") from error
        if self._binding and not self._binding.has_tokens(shard, data):
            raise self._damaged_rows(rows, f"{FOREIGN}, in {tokens_file(shard)}")
        return data

    def _is_bound_whole(self, shard: int) -> bool:
        """Whether the binding has a checksum of the shard's file of token states."""
        return self._binding is not None and bool(self._binding.rows[shard, BOUND_TOKENS])
