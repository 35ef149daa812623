"""Reads a finished cache: runs of rows, chosen rows, one layer's bytes at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ilse.core.errors import UserError
from pipeline.store.arrays import FOREIGN
from pipeline.store.chunks import ChunkBytes, announce_chunks, checksums_of, chunk_bytes, read_chunks, rows_in, seal
from pipeline.store.encoding import FloatRows, Scales, StoredRows
from pipeline.store.layout import STATISTICS, SUMS, scale_file, shard_file, statistics_file
from pipeline.store.location import Location
from pipeline.store.opening import check_sizes, damaged, peek
from pipeline.store.proven import ProvenLocation
from pipeline.store.token_reading import TokenStates
from pipeline.store.verification import has_checksum, listed_sums


class Cache(TokenStates):
    """A finished cache, open for reading; made by `open_cache`.

    It is indexed as an array [texts, layers, dim] of mean-pooled rows (of the first pooling, where it holds no mean),
    and reads only what is asked for:

        cache.shape          # (2096, 31, 576)
        cache[0]             # [layers, dim], float32
        cache[:100, -1]      # the last layer of 100 texts, [100, dim]
        np.asarray(cache)    # everything

    `read`, `gather` and `read_chunks` read other poolings, and `text_ids` says which text a row belongs to.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """Texts, layers and width."""
        return self.header.texts, len(self.layers), self.dim

    def __len__(self) -> int:
        return self.header.texts

    def __getitem__(self, key: Any) -> FloatRows:
        """Rows as float32, for an index, a slice, a list or a mask of texts; with a second one for layers.

        Raises `IndexError` for texts or layers that the cache does not have, and `UserError` for damaged rows.
        """
        texts, layers = key if isinstance(key, tuple) and len(key) == 2 else (key, slice(None))
        rows, places = _places_of(texts, len(self), "texts"), _places_of(layers, len(self.layers), "layers")
        pooling = "mean" if "mean" in self.header.capture.poolings else self.header.capture.poolings[0]
        found = self.gather(np.atleast_1d(rows), np.atleast_1d(places).tolist(), pooling)
        return found[(0 if rows.ndim == 0 else slice(None), 0 if places.ndim == 0 else slice(None))]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("the rows of a cache are read from disk: an array of them is always a copy")
        return self[:].astype(dtype or np.float32, copy=False)

    def __repr__(self) -> str:
        texts, layers, dim = self.shape
        capture = self.header.capture
        kept = f", token states of {len(capture.tokens.layers)} layers" if capture.tokens else ""
        return (
            f"<Cache {self.path}: {texts:,} texts x {layers} layers x {dim}, {capture.storage_type}, "
            f"pooling {', '.join(capture.poolings)}{kept}, of {self.header.model_name}>"
        )

    def statistics(self, pooling: str = "mean") -> dict[str, npt.NDArray[np.float64]]:
        """The rows of `STATISTICS`, each [layers]. Raises `UserError` for a pooling that the cache does not hold."""
        self._require_pooling(pooling)
        name = f"statistics/{pooling}"
        values = self._index(name)
        if not self.is_proven and (sums := listed_sums(self.location)) is not None:
            file = statistics_file(pooling)
            # The list has to be this cache's own: it names the texts too.
            texts = [name for name in sums if name.startswith("text_id/c/")]
            if not texts or not all(has_checksum(self.location, each, sums.get(each, "")) for each in (file, *texts)):
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

        `rows_in(out, header)` are the values, of which the last shard has rows without meaning after its own. Raises
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
        """Scales of a shard, [layers, dim]."""
        scales = self._read_scales(shard, pooling)
        if self._binding and not self._binding.has_scales(shard, pooling, scales):
            raise self._damaged_rows(self.header.rows_of(shard), f"{FOREIGN}, in {scale_file(pooling, shard)}")
        return scales[list(layers)]

    def _require_pooling(self, pooling: str) -> None:
        held = self.header.capture.poolings
        if pooling not in held:
            raise UserError(
                f"cache {self.path}",
                expected=f"the pooling '{pooling}'",
                found=f"{', '.join(held)}",
                next_step=f"set train.pooling to one of these, or add '{pooling}' to extract.poolings",
            )


def _run_of(places: npt.NDArray[np.int64]) -> slice | npt.NDArray[np.int64]:
    """A slice where they follow each other: NumPy then copies nothing in between."""
    whole = len(places) and (np.diff(places) == 1).all()
    return slice(int(places[0]), int(places[-1]) + 1) if whole else places


def _places_of(key: Any, count: int, what: str) -> npt.NDArray[np.int64]:
    """The places that an index, a slice, a list or a mask names, none of them below 0; a single one has no axis."""
    if isinstance(key, slice):
        return np.arange(*key.indices(count))
    if key is Ellipsis:
        return np.arange(count)
    given = np.asarray(key)
    if given.dtype == bool:
        if given.shape != (count,):
            raise IndexError(f"a mask of {count:,} {what} is needed, this one has the shape {given.shape}")
        return np.flatnonzero(given)
    if given.size == 0:
        return np.empty(0, np.int64)
    if given.ndim > 1 or not np.issubdtype(given.dtype, np.integer):
        raise IndexError(f"{what} are named by a number, a slice, a list of numbers or a mask, not by {key!r:.80}")
    if given.min() < -count or given.max() >= count:
        raise IndexError(
            f"the cache has {count:,} {what}: no number {given.max() if given.max() >= count else given.min()}"
        )
    return np.where(given < 0, given + count, given).astype(np.int64)


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
            next_step="run 'ilse extract' again: it resumes where it stopped",
        )
    if fingerprint is not None and header.capture.fingerprint != fingerprint:
        raise UserError(
            f"cache {location}",
            expected=f"capture {fingerprint[:16]}",
            found=f"capture {header.capture.fingerprint[:16]} ({header.model_name})",
            next_step="use the cache that is expected, or train again on this one",
        )
    check_sizes(location, header)
    return Cache(location, header)


def open_proven(place: str | Path | Location) -> Cache:
    """A finished cache of which nothing is read but what it was written with: for those who sign its rows again.

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
        expected=f"its list of checksums, {SUMS}, which says what its shards belong to",
        found="none, or a damaged one",
        next_step="pull the cache again, or extract again",
    )
