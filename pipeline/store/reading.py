"""Reads a finished cache: runs of rows, chosen rows, one layer's bytes at a time."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from ilse.errors import UserError
from pipeline.store.basis import Basis
from pipeline.store.binding import TOKEN_COUNT, TRUNCATED, Binding
from pipeline.store.binding import TOKENS as BOUND_TOKENS
from pipeline.store.chunks import (
    ChunkBytes,
    announce_chunks,
    checksums_of,
    chunk_bytes,
    read_chunks,
    read_scales,
    rows_in,
    seal,
)
from pipeline.store.encoding import FloatRows, Scales, StoredRows, missing
from pipeline.store.layout import (
    BINDING,
    STATISTICS,
    SUMS,
    TEXT_ID_BYTES,
    TOKENS,
    TextIds,
    has_token_scales,
    has_whole_layers,
    is_as_laid_out,
    scale_file,
    scales_shape,
    shard_file,
    statistics_file,
    tokens_file,
    tokens_name,
)
from pipeline.store.location import Location
from pipeline.store.opening import check_sizes, damaged, open_group, peek, read_basis
from pipeline.store.proven import ProvenLocation
from pipeline.store.spec import CacheHeader
from pipeline.store.token_chunks import ShardTokens, TokenGrid, read_layers, stored_in
from pipeline.store.verification import has_checksum, listed_sums

FOREIGN = "other values than were written for these texts"


@dataclass(frozen=True)
class _OpenTokens:
    """The token states of a shard that texts are read from one by one."""

    shard: int
    layers: tuple[int, ...]
    tokens: ShardTokens | None
    """Those of the layers, in memory; None for a file that is read by parts."""
    starts: npt.NDArray[np.int64]
    array: zarr.Array[Any] | None


class Cache:
    """A finished cache, open for reading. Use `open_cache`."""

    def __init__(self, location: Location, header: CacheHeader) -> None:
        self.location = location
        self.header = header
        self._group = open_group(location)
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._tokens: _OpenTokens | None = None

    @property
    def path(self) -> str:
        """The folder or the URL."""
        return str(self.location)

    @property
    def fingerprint(self) -> str:
        """The capture spec's fingerprint."""
        return self.header.capture.fingerprint

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in depth order."""
        return self.header.capture.layers

    @property
    def dim(self) -> int:
        """Width of a row."""
        return self.header.capture.dim

    def text_id_rows(self) -> TextIds:
        """Identity of each text as 16 bytes, [texts, 16], in row order."""
        ids = self._index("text_id")
        if self._written_binding and (foreign := self._written_binding.foreign_texts(ids)):
            raise self._foreign_index("text_id", foreign)
        return ids

    def text_ids(self) -> list[str]:
        """Identity of each text as 32 hexadecimal digits, in row order."""
        joined = self.text_id_rows().tobytes().hex()
        width = 2 * TEXT_ID_BYTES
        return [joined[start : start + width] for start in range(0, len(joined), width)]

    def token_counts(self) -> npt.NDArray[np.int32]:
        """Tokens that the model saw of each text, [texts]."""
        return self._bound_index("token_count", TOKEN_COUNT)

    def truncated(self) -> npt.NDArray[np.bool_]:
        """Which texts were longer than `max_tokens`, [texts]."""
        return self._bound_index("truncated", TRUNCATED)

    def statistics(self, pooling: str = "mean") -> dict[str, npt.NDArray[np.float64]]:
        """The rows of `STATISTICS`, each [layers]. Raises `UserError` for a pooling that the cache does not hold."""
        self._require_pooling(pooling)
        name = f"statistics/{pooling}"
        values = self._index(name)
        if not self.is_proven and (sums := listed_sums(self.location)) is not None:
            file = statistics_file(pooling)
            if not has_checksum(self.location, file, sums.get(file, "")):
                raise damaged(self.location, f"an array '{name}' of {FOREIGN}")
        return dict(zip(STATISTICS, values, strict=True))

    def shards(self) -> Iterator[slice]:
        """The rows of each shard in turn: the unit in which reading is cheap."""
        return (self.header.rows_of(shard) for shard in range(self.header.shards))

    def read(self, rows: slice, layers: Sequence[int] | None = None, pooling: str = "mean") -> FloatRows:
        """A run of rows, float32 [rows, layers, dim]; only the bytes of the chosen `layers` are read.

        Raises `UserError` for a pooling that the cache does not hold, and for rows that are damaged.
        """
        start, stop, _ = rows.indices(self.header.texts)
        return self.gather(np.arange(start, stop), layers, pooling)

    def read_chunks(
        self, shard: int, out: ChunkBytes, layers: Sequence[int] | None = None, pooling: str = "mean"
    ) -> Scales | None:
        """Reads a shard as it is stored to `out`, see `chunks`; returns the scales of int8, [layers, dim].

        `rows_in(out, header)` are the values, of which the last shard has rows without meaning behind its own. Raises
        `UserError` as `read` does, of which it takes a third of the time.
        """
        self._require_pooling(pooling)
        wanted = self._places(layers)
        rows, array = self.header.rows_of(shard), self._array(f"pooled/{pooling}")
        if not read_chunks(self.location, self.header, shard_file(pooling, shard), wanted, out):
            # Laid out in another way, as zarr may read it, or damaged: zarr says how.
            stored, count = self._values(array, rows, wanted), rows.stop - rows.start
            rows_in(out, self.header)[:, :count] = stored.values.swapaxes(0, 1)
            seal(out, self.header, count)
        if self._binding and not self._binding.has_chunks(shard, pooling, wanted, checksums_of(out)):
            raise self._damaged_rows(rows, f"{FOREIGN}, in {shard_file(pooling, shard)}")
        return self._scales(shard, wanted, pooling) if self.header.capture.storage_type == "int8" else None

    def announce(self, shard: int, layers: Sequence[int] | None = None, pooling: str = "mean") -> None:
        """Has the system fetch what `read_chunks` of a shard will read, where it can."""
        wanted = self._places(layers)
        announce_chunks(self.location, self.header, shard_file(pooling, shard), wanted)

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
                return ShardTokens(
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
        return ShardTokens(stored.values, grid.kind, self._token_scales(shard, places), starts)

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

    def gather(
        self, rows: npt.NDArray[np.int64], layers: Sequence[int] | None = None, pooling: str = "mean"
    ) -> FloatRows:
        """Chosen rows in the order asked for, float32 [len(rows), layers, dim]; each shard is read at most once."""
        wanted = self._places(layers)
        out = np.empty((len(rows), len(wanted), self.dim), np.float32)
        self._require_pooling(pooling)
        chunks, kind = np.empty((len(wanted), chunk_bytes(self.header)), np.uint8), self.header.capture.storage_type
        shard_of = rows // self.header.shard_rows
        for shard in np.unique(shard_of).tolist():
            scales = self.read_chunks(shard, chunks, wanted, pooling)
            asked = _run_of(np.flatnonzero(shard_of == shard))
            values = rows_in(chunks, self.header)[:, _run_of(rows[asked] % self.header.shard_rows)]
            out[asked] = StoredRows(values.swapaxes(0, 1), kind, scales).decoded()
        return out

    def _scales(self, shard: int, layers: Sequence[int], pooling: str) -> Scales:
        """Those of a shard, [layers, dim]."""
        scales = self._read_scales(shard, pooling)
        if self._binding and not self._binding.has_scales(shard, pooling, scales):
            raise self._damaged_rows(self.header.rows_of(shard), f"{FOREIGN}, in {scale_file(pooling, shard)}")
        return scales[list(layers)]

    def _token_places(self, layers: Sequence[int] | None) -> tuple[int, ...]:
        """Of layers of the cache, their places among those whose token states are kept."""
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

    def _room(self, rows: slice, shape: tuple[int, ...]) -> ChunkBytes:
        """Bytes to read to; counts of tokens that no memory could hold are damage."""
        try:
            return np.empty(shape, np.uint8)
        except (MemoryError, ValueError):
            raise self._damaged_rows(rows, f"{shape[1]:,} bytes of token states a layer") from None

    def _starts(self, shard: int) -> npt.NDArray[np.int64]:
        """Where the tokens of each of the shard's texts begin, and the last ones end."""
        counts = self._counts[self.header.rows_of(shard)]
        return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    @functools.cached_property
    def _counts(self) -> npt.NDArray[np.int32]:
        """The texts' tokens, which stay in memory: four bytes a text."""
        return self.token_counts()

    def _token_scales(self, shard: int, places: Sequence[int]) -> Scales | None:
        if not has_token_scales(self.header):
            return None
        scales = self._read_scales(shard, TOKENS)
        if self._binding and not self._binding.has_token_scales(shard, scales):
            raise self._damaged_rows(self.header.rows_of(shard), f"{FOREIGN}, in {scale_file(TOKENS, shard)}")
        return scales[list(places)]

    def _read_scales(self, shard: int, what: str) -> Scales:
        rows, shape = self.header.rows_of(shard), scales_shape(self.header, what)
        scales = read_scales(self.location, scale_file(what, shard), shape)
        if scales is None:  # written in another way, as zarr may read it, or damaged: zarr says how
            scales = self._checked(rows, lambda: self._array(f"scale/{what}")[shard])
        if np.isnan(scales).any():
            raise self._damaged_rows(rows, "scales that are missing")
        return scales

    def _values(
        self,
        array: zarr.Array[Any],
        rows: slice,
        layers: Sequence[int] | None,
        kind: str | None = None,
        part: slice | None = None,
    ) -> StoredRows:
        """Some layers of some rows of an array; of `part` of it, where `rows` are those of a message alone."""
        kind, part = kind or self.header.capture.storage_type, part or rows
        if layers is None or tuple(layers) == tuple(range(array.shape[1])):
            stored = self._checked(rows, lambda: array[part])
        else:
            each = [self._checked(rows, lambda layer=layer: array[part, layer]) for layer in layers]
            stored = np.stack(each, axis=1)
        if missing(stored[..., :1], kind).any():  # one coordinate tells whether a chunk is there
            raise self._damaged_rows(rows, "a chunk that is missing")
        return StoredRows(stored, kind)

    @property
    def is_proven(self) -> bool:
        """Whether all that is read is compared with the cache's list of checksums; see `open_proven`."""
        return isinstance(self.location, ProvenLocation)

    @property
    def is_bound(self) -> bool:
        """Whether the cache says which values belong to which texts; those of earlier releases do not."""
        return self._binding is not None

    @functools.cached_property
    def _written_binding(self) -> Binding | None:
        """The binding as it stands there; None for a cache that has none, and where the list proves more."""
        if self.is_proven or not any(True for _ in self.location.list(BINDING)):
            return None
        array = self._array(BINDING)
        held = sum(size for _, size in self.location.list(BINDING))
        if array.nbytes > held:
            raise damaged(self.location, f"an array '{BINDING}' of {array.nbytes:,} bytes in files of {held:,}")
        return Binding(self.header, self._index(BINDING))

    @functools.cached_property
    def _binding(self) -> Binding | None:
        """The binding of this cache's own texts."""
        if self._written_binding:
            self.text_id_rows()
        return self._written_binding

    def _bound_index(self, name: str, column: int) -> npt.NDArray[Any]:
        values = self._index(name)
        if self._binding and (foreign := self._binding.foreign_index(column, values)):
            raise self._foreign_index(name, foreign)
        return values

    def _foreign_index(self, name: str, shards: Sequence[int]) -> UserError:
        return damaged(self.location, f"an array '{name}' of {FOREIGN}, in {len(shards)} shards from {shards[0]} on")

    def _places(self, layers: Sequence[int] | None) -> Sequence[int]:
        """Of layers, which may be counted from the last one; None for all."""
        every = range(len(self.layers))
        return every if layers is None else [every[layer] for layer in layers]

    def _checked(self, rows: slice, read: Any) -> npt.NDArray[Any]:
        try:
            return np.asarray(read())
        except UserError:
            raise
        except Exception as error:  # zarr has no error of its own for a bad checksum or a cut file
            found = " ".join(str(error).split())[:200]
            doing = f"reading rows {rows.start} to {rows.stop}"
            raise self.location.refusal(error, doing) or self._damaged_rows(rows, found) from None

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

    def _index(self, name: str) -> npt.NDArray[Any]:
        return self._checked(slice(0, self.header.texts), lambda: self._index_array(name)[...])

    def _index_array(self, name: str) -> zarr.Array[Any]:
        """An array whose fill value may be a value: that no chunk is missing is looked up."""
        array = self._array(name)
        if array.nchunks_initialized != array.nchunks:
            raise damaged(self.location, f"an array '{name}' with {array.nchunks_initialized} of its chunks")
        return array

    def _array(self, name: str) -> zarr.Array[Any]:
        if name not in self._arrays:
            self._arrays[name] = self._open(name)
        return self._arrays[name]

    def _open(self, name: str, tokens: int = 0) -> zarr.Array[Any]:
        try:
            array = self._group[name]
        except UserError:
            raise
        except Exception as error:  # a file that does not parse has many errors, by what is wrong in it
            found = f"no readable array '{name}' ({type(error).__name__})"
            raise self.location.refusal(error, f"reading {name}") or damaged(self.location, found) from None
        if not isinstance(array, zarr.Array) or not is_as_laid_out(array, self.header, name, tokens):
            raise damaged(self.location, f"no array '{name}' of the shape, chunks and type that the header asks for")
        return array

    def _require_pooling(self, pooling: str) -> None:
        held = self.header.capture.poolings
        if pooling not in held:
            raise UserError(
                f"cache {self.path}",
                expected=f"the pooling '{pooling}'",
                found=f"{', '.join(held)}",
                next_step=f"set train.pooling to one of these, or add '{pooling}' to extract.poolings",
            )

    def _damaged_rows(self, rows: slice, found: str) -> UserError:
        return UserError(
            f"cache {self.path}, rows {rows.start} to {rows.stop}",
            expected="the values that were recorded",
            found=found,
            next_step=f"'ilse verify {self.path}' names all damage; 'ilse extract' computes the damaged shards anew",
        )


def _run_of(places: npt.NDArray[np.int64]) -> slice | npt.NDArray[np.int64]:
    """A slice where they follow one another: NumPy then copies nothing in between."""
    whole = len(places) and (np.diff(places) == 1).all()
    return slice(int(places[0]), int(places[-1]) + 1) if whole else places


def open_cache(place: str | Path | Location, fingerprint: str | None = None) -> Cache:
    """A finished cache in a folder or at a URL; with `fingerprint`, only one of that capture.

    Raises `UserError` when there is none, when it is unfinished, of another format version, damaged, or of another
    capture than the one expected.
    """
    location = place if isinstance(place, Location) else Location(place)
    header, complete = peek(location)
    if not complete:
        raise UserError(
            f"cache {location}",
            expected="a finished cache",
            found="one whose record says that it is unfinished",
            next_step="run 'ilse extract' again: it goes on where it stopped",
        )
    if fingerprint is not None and header.capture.fingerprint != fingerprint:
        raise UserError(
            f"cache {location}",
            expected=f"capture {fingerprint[:16]}",
            found=f"capture {header.capture.fingerprint[:16]} ({header.model_name})",
            next_step="use the cache that the expectation comes from, or train again on this one",
        )
    check_sizes(location, header)
    return Cache(location, header)


def open_proven(place: str | Path | Location) -> Cache:
    """A finished cache of which nothing is read but what it was written with: for those who sign its rows anew.

    Its list of checksums proves it. Where the list is damaged, lost or another cache's, the cache's own binding does.
    Raises `UserError` as `open_cache` does, and where neither proves its texts.
    """
    location = Location(place)
    sums = listed_sums(location)
    try:
        if sums is None:
            raise _unlisted(location)
        proven = open_cache(ProvenLocation(location, sums))
        proven.text_id_rows()
    except UserError as error:
        bound = open_cache(location)
        if not bound.is_bound:
            raise error from None
        return bound
    return proven


def _unlisted(location: Location) -> UserError:
    return UserError(
        f"cache {location}",
        expected=f"its list of checksums, {SUMS}, which says whose its shards are",
        found="none, or a damaged one",
        next_step="pull the cache again, or extract again",
    )
