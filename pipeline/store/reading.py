"""Reads a finished cache: runs of rows, chosen rows, one layer's bytes at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from ilse.errors import UserError
from pipeline.store.chunks import ChunkBytes, announce_chunks, read_chunks, rows_in
from pipeline.store.encoding import FloatRows, Scales, StoredRows, missing
from pipeline.store.layout import STATISTICS, TEXT_ID_BYTES, TextIds, is_as_laid_out, shard_file, tokens_name
from pipeline.store.location import Location
from pipeline.store.opening import check_sizes, damaged, open_group, peek
from pipeline.store.spec import CacheHeader


@dataclass(frozen=True)
class _ShardTokens:
    """The token states of a shard, and where those of each text start."""

    shard: int
    starts: npt.NDArray[np.int64]
    array: zarr.Array[Any]


class Cache:
    """A finished cache, open for reading. Use `open_cache`."""

    def __init__(self, location: Location, header: CacheHeader) -> None:
        self.location = location
        self.header = header
        self._group = open_group(location)
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._tokens: _ShardTokens | None = None

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
        return self._index("text_id")

    def text_ids(self) -> list[str]:
        """Identity of each text as 32 hexadecimal digits, in row order."""
        joined = self.text_id_rows().tobytes().hex()
        width = 2 * TEXT_ID_BYTES
        return [joined[start : start + width] for start in range(0, len(joined), width)]

    def token_counts(self) -> npt.NDArray[np.int32]:
        """Tokens that the model saw of each text, [texts]."""
        return self._index("token_count")

    def truncated(self) -> npt.NDArray[np.bool_]:
        """Which texts were longer than `max_tokens`, [texts]."""
        return self._index("truncated")

    def statistics(self, pooling: str = "mean") -> dict[str, npt.NDArray[np.float64]]:
        """The rows of `STATISTICS`, each [layers]. Raises `UserError` for a pooling that the cache does not hold."""
        self._require_pooling(pooling)
        return dict(zip(STATISTICS, self._index(f"statistics/{pooling}"), strict=True))

    def shards(self) -> Iterator[slice]:
        """The rows of each shard in turn: the unit in which reading is cheap."""
        return (self.header.rows_of(shard) for shard in range(self.header.shards))

    def read(self, rows: slice, layers: Sequence[int] | None = None, pooling: str = "mean") -> FloatRows:
        """A run of rows, float32 [rows, layers, dim]; only the bytes of the chosen `layers` are read.

        Raises `UserError` for a pooling that the cache does not hold, and for rows that are damaged.
        """
        parts = [self._stored(part, layers, pooling).decoded() for part in self._parts(rows)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def read_chunks(
        self, shard: int, out: ChunkBytes, layers: Sequence[int] | None = None, pooling: str = "mean"
    ) -> Scales | None:
        """Reads a shard as it is stored to `out`, see `chunks`; returns the scales of int8, [layers, dim].

        `rows_in(out, header)` are the values, of which the last shard has rows without meaning behind its own. Raises
        `UserError` as `read` does, of which it takes a third of the time.
        """
        self._require_pooling(pooling)
        wanted = range(len(self.layers)) if layers is None else layers
        rows, array = self.header.rows_of(shard), self._array(f"pooled/{pooling}")
        if not read_chunks(self.location, self.header, shard_file(pooling, shard), wanted, out):
            # Laid out in another way, as zarr may read it, or damaged: zarr says how.
            stored = self._values(array, rows, wanted)
            rows_in(out, self.header)[:, : rows.stop - rows.start] = stored.values.swapaxes(0, 1)
        return self._scales(rows, wanted, pooling) if self.header.capture.storage_type == "int8" else None

    def announce(self, shard: int, layers: Sequence[int] | None = None, pooling: str = "mean") -> None:
        """Has the system fetch what `read_chunks` of a shard will read, where it can."""
        wanted = range(len(self.layers)) if layers is None else layers
        announce_chunks(self.location, self.header, shard_file(pooling, shard), wanted)

    def token_states(self, text: int, layers: Sequence[int] | None = None) -> FloatRows:
        """The states of one text's tokens in their order, float32 [tokens, layers, dim].

        Raises `UserError` when the cache was made without `extract.token_states`.
        """
        if not self.header.capture.token_states:
            raise UserError(
                f"cache {self.path}",
                expected="token states",
                found="pooled rows alone",
                next_step="set extract.token_states to true and extract again",
            )
        tokens = self._tokens_of(text // self.header.shard_rows)
        place = text % self.header.shard_rows
        rows = slice(int(tokens.starts[place]), int(tokens.starts[place + 1]))
        return self._values(tokens.array, rows, layers).decoded()

    def gather(
        self, rows: npt.NDArray[np.int64], layers: Sequence[int] | None = None, pooling: str = "mean"
    ) -> FloatRows:
        """Chosen rows in the order asked for, float32 [len(rows), layers, dim]; each shard is read at most once."""
        out = np.empty((len(rows), len(self.layers) if layers is None else len(layers), self.dim), np.float32)
        shard_of = rows // self.header.shard_rows
        for shard in np.unique(shard_of):
            place = self.header.rows_of(int(shard))
            wanted = np.flatnonzero(shard_of == shard)
            out[wanted] = self.read(place, layers, pooling)[rows[wanted] - place.start]
        return out

    def _parts(self, rows: slice) -> list[slice]:
        """The run cut at the shards' borders, where scales change; other types are read in one go."""
        start, stop, _ = rows.indices(self.header.texts)
        if self.header.capture.storage_type != "int8":
            return [slice(start, stop)]
        step = self.header.shard_rows
        cuts = [start, *range(start - start % step + step, stop, step), stop]
        return [slice(a, b) for a, b in pairwise(cuts) if b > a] or [slice(start, start)]

    def _stored(self, rows: slice, layers: Sequence[int] | None, pooling: str) -> StoredRows:
        """Rows of one shard, or of several where the type has no scales."""
        self._require_pooling(pooling)
        stored = self._values(self._array(f"pooled/{pooling}"), rows, layers)
        return stored if stored.kind != "int8" else replace(stored, scales=self._scales(rows, layers, pooling))

    def _scales(self, rows: slice, layers: Sequence[int] | None, pooling: str) -> Scales:
        """Those of the shard that the rows are in, [layers, dim]."""
        scales = self._checked(rows, lambda: self._array(f"scale/{pooling}")[rows.start // self.header.shard_rows])
        if np.isnan(scales).any():
            raise self._damaged_rows(rows, "scales that are missing")
        return scales if layers is None else scales[list(layers)]

    def _values(self, array: zarr.Array[Any], rows: slice, layers: Sequence[int] | None) -> StoredRows:
        kind = self.header.capture.storage_type
        if layers is None or self._is_all(layers):
            stored = self._checked(rows, lambda: array[rows])
        else:
            each = [self._checked(rows, lambda layer=layer: array[rows, layer]) for layer in layers]
            stored = np.stack(each, axis=1)
        if missing(stored[..., :1], kind).any():  # one coordinate tells whether a chunk is there
            raise self._damaged_rows(rows, "a chunk that is missing")
        return StoredRows(stored, kind)

    def _is_all(self, layers: Sequence[int] | None) -> bool:
        return layers is None or tuple(layers) == tuple(range(len(self.layers)))

    def _checked(self, rows: slice, read: Any) -> npt.NDArray[Any]:
        try:
            return np.asarray(read())
        except UserError:
            raise
        except Exception as error:  # zarr has no error of its own for a bad checksum or a cut file
            found = " ".join(str(error).split())[:200]
            doing = f"reading rows {rows.start} to {rows.stop}"
            raise self.location.refusal(error, doing) or self._damaged_rows(rows, found) from None

    def _tokens_of(self, shard: int) -> _ShardTokens:
        """The shard's token states; the last one stays open, since texts are read one after the other."""
        if self._tokens is None or self._tokens.shard != shard:
            rows = self.header.rows_of(shard)
            counts = self._checked(rows, lambda: self._index_array("token_count")[rows])
            starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
            self._tokens = _ShardTokens(shard, starts, self._open(tokens_name(shard), int(starts[-1])))
        return self._tokens

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


def open_cache(place: str | Path | Location, fingerprint: str | None = None) -> Cache:
    """A finished cache in a folder or at a URL; with `fingerprint`, only one of that capture.

    Raises `UserError` when there is none, when it is unfinished, of another format version, damaged, or of another
    capture than the one expected.
    """
    location = Location(place)
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
