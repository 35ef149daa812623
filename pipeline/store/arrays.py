"""Common part of all reads of a finished cache: arrays match the header, and values belong to the cache."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from ilse.core.errors import UserError
from pipeline.store.binding import TOKEN_COUNT, TRUNCATED, Binding
from pipeline.store.chunks import read_scales
from pipeline.store.encoding import Scales, StoredRows, missing
from pipeline.store.layout import BINDING, TEXT_ID_BYTES, TextIds, is_as_laid_out, scale_file, scales_shape
from pipeline.store.location import Location
from pipeline.store.opening import damaged, open_group
from pipeline.store.proven import ProvenLocation
from pipeline.store.spec import CacheHeader

FOREIGN = "other values than were written for these texts"


class CheckedArrays:
    """A finished cache's arrays: the index of its texts, and what reads values of any kind. Nothing is unchecked."""

    def __init__(self, location: Location, header: CacheHeader) -> None:
        self.location = location
        self.header = header
        self._group = open_group(location)
        self._arrays: dict[str, zarr.Array[Any]] = {}

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

    @property
    def is_local(self) -> bool:
        """Whether the cache is on this machine."""
        return self.location.is_local

    @property
    def shard_rows(self) -> int:
        """Texts of a shard; the last one may have fewer."""
        return self.header.shard_rows

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
        """Mask of the texts that were longer than `max_tokens`, [texts]."""
        return self._bound_index("truncated", TRUNCATED)

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
        """Checked positions of layers, which may be counted from the last one; None means all."""
        every = range(len(self.layers))
        return every if layers is None else [every[layer] for layer in layers]

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

    def _read_scales(self, shard: int, what: str) -> Scales:
        rows, shape = self.header.rows_of(shard), scales_shape(self.header, what)
        scales = read_scales(self.location, scale_file(what, shard), shape)
        if scales is None:  # written in another way, as zarr may read it, or damaged: zarr says how
            scales = self._checked(rows, lambda: self._array(f"scale/{what}")[shard])
        if np.isnan(scales).any():
            raise self._damaged_rows(rows, "scales that are missing")
        return scales

    def _checked(self, rows: slice, read: Any) -> npt.NDArray[Any]:
        try:
            return np.asarray(read())
        except UserError:
            raise
        except Exception as error:  # zarr has no error of its own for a bad checksum or a cut file
            found = " ".join(str(error).split())[:200]
            doing = f"reading rows {rows.start} to {rows.stop}"
            raise self.location.refusal(error, doing) or self._damaged_rows(rows, found) from None

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

    def _damaged_rows(self, rows: slice, found: str) -> UserError:
        return UserError(
            f"cache {self.path}, rows {rows.start} to {rows.stop}",
            expected="the values that were recorded",
            found=found,
            next_step=f"'ilse verify {self.path}' lists all damage; 'ilse extract' computes the damaged shards again",
        )
