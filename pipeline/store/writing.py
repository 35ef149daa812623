"""Writes a cache: lay it out, put shards one by one, in any order and from any process, and finish it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from ilse.core.errors import UserError
from pipeline.store import layout
from pipeline.store.basis import Basis
from pipeline.store.binding import binding_row
from pipeline.store.encoding import TOKEN_TYPES, FloatRows, Scales, Stored, decode, encode
from pipeline.store.layout import TextIds, sha256
from pipeline.store.location import Location
from pipeline.store.opening import read_basis
from pipeline.store.spec import CacheHeader, ShardRecord
from pipeline.store.verification import has_checksum

TOKEN_TYPE = "token_states.storage_type"
"""The setting of section `extract` that says how token states are stored."""


def create(
    location: Location, header: CacheHeader, text_ids: Sequence[str] | TextIds, basis: Basis | None = None
) -> None:
    """Lays out an empty, incomplete cache; `text_ids` are 32 hexadecimal digits each, in row order, or their bytes.

    `basis` is that of its token states, for a header that names one.
    """
    for name, data in _metadata(header, text_ids, complete=False, basis=_own_basis(header, basis)):
        location.put(name, data)


def _own_basis(header: CacheHeader, basis: Basis | None) -> Basis | None:
    """The basis that the header names; another one would give every stored value another meaning."""
    tokens = header.capture.tokens
    if tokens is None or tokens.rank is None:
        return None
    if basis is None or tokens.basis is None or basis.sha256 != tokens.basis:
        found = "none" if basis is None else f"one of SHA-256 {basis.sha256}"
        raise ValueError(f"a cache of token states in the basis {tokens.basis} takes that basis, got {found}")
    return basis


@dataclass(frozen=True)
class ShardRows:
    """What a shard holds, in row order."""

    text_ids: Sequence[str]
    token_count: Sequence[int]
    truncated: Sequence[bool]
    pooled: Mapping[str, FloatRows]
    """Pooling → [rows of the shard, layers, dim]"""
    token_states: FloatRows | None = None
    """[tokens of the shard, token layers, token width], text after text; in the cache's basis, where it has one"""


def write_shard(location: Location, header: CacheHeader, shard: int, rows: ShardRows) -> ShardRecord:
    """Writes one whole shard, reads it back and returns the record of it.

    One task owns a whole shard: writes that share one would corrupt it silently (dask #12583). Raises `UserError` for
    a value that is not finite or that the storage type cannot hold.
    """
    _require_shapes(header, shard, rows)
    kind = header.capture.storage_type
    encoded, sums = {}, {}
    for pooling, values in rows.pooled.items():
        check_range(kind, header.capture.layers, rows.text_ids, values)
        encoded[pooling] = encode(values, kind)
        sums[pooling] = _sums(*encoded[pooling], kind).tolist()
    tokens = None
    spec = header.capture.tokens
    if rows.token_states is not None and spec is not None:
        setting = TOKEN_TYPE if layout.has_whole_layers(header) else "storage_type"
        check_range(spec.storage_type, spec.layers, rows.text_ids, rows.token_states, rows.token_count, setting)
        tokens = encode(rows.token_states, spec.storage_type)
    files = layout.shard_files(header, shard, encoded, tokens)
    for name, data in files.items():
        location.put(name, data)
        if location.get(name) != data:
            raise UserError(
                f"cache {location}, shard {shard}, file {name}",
                expected="the bytes that were written",
                found="other bytes when read back",
                next_step="check the disk, then run the extraction again: the shard is computed again",
            )
    digests = {name: sha256(data) for name, data in files.items()}
    counts, cut, own = [int(n) for n in rows.token_count], [bool(t) for t in rows.truncated], _own_ids(rows)
    binding = binding_row(header, own, counts, cut, shard, files)
    return ShardRecord(shard, digests, sums, counts, cut, _claim(header, shard, own), binding)


def _own_ids(rows: ShardRows) -> TextIds:
    return np.ascontiguousarray(layout.text_id_rows(rows.text_ids))


def verify_shard(location: Location, record: ShardRecord) -> bool:
    """Whether the shard's files still have the recorded checksums; false also for a missing one."""
    return all(has_checksum(location, name, digest) for name, digest in record.files.items())


def claim_of(header: CacheHeader, text_ids: Sequence[str] | TextIds, shard: int) -> str:
    """Says what a shard is of: SHA-256 of the capture, the shard's number, and its own texts among all, in order."""
    own = np.ascontiguousarray(layout.text_id_rows(text_ids)[header.rows_of(shard)])
    return _claim(header, shard, own)


def _claim(header: CacheHeader, shard: int, own: TextIds) -> str:
    return sha256(f"{header.capture.fingerprint} {shard}\n".encode() + own.tobytes())


def finish(
    location: Location, header: CacheHeader, text_ids: Sequence[str] | TextIds, records: Iterable[ShardRecord]
) -> None:
    """Writes index, statistics and checksums from the records of all shards, in shard order; at last, `complete`.

    Raises `UserError` where a shard's record is missing, or is one of other texts.
    """
    index, ids = _Index(header), layout.text_id_rows(text_ids)
    for record in records:
        if record.shard != index.shards or record.claim != claim_of(header, ids, record.shard):
            break  # one is missing
        index.add(record)
    if index.shards != header.shards:
        raise UserError(
            f"cache {location}",
            expected=f"a record of each of its {header.shards} shards",
            found=f"none of shard {index.shards}",
            next_step="run the extraction again: it computes the missing shards",
        )
    root = layout.root_file(header, complete=True)
    sums = {**index.sums, layout.ROOT: sha256(root[layout.ROOT])}
    basis = _own_basis(header, read_basis(location, header))
    for name, data in chain(_arrays(header, text_ids, basis), index.files()):
        location.put(name, data)
        sums[name] = sha256(data)
    _remove_others(location, sums)
    location.put(layout.SUMS, layout.sums_file(sums))
    # One put of one file is atomic everywhere, which renaming a folder is not: this is the commit.
    location.put(layout.ROOT, root[layout.ROOT])


def _remove_others(location: Location, sums: Mapping[str, str]) -> None:
    """Removes what another cache, which was never finished, left in the same place; names of the format alone."""
    for name in [name for name, _ in location.list() if name not in sums and layout.belongs_to_an_array(name)]:
        location.delete(name)


def is_same_cache(listed: Mapping[str, str], header: CacheHeader, text_ids: Sequence[str] | TextIds) -> bool:
    """Whether a finished cache with these checksums is exactly the one that `header` and `text_ids` make.

    Its basis is looked at by who reads it: the header names it by its own checksum.
    """
    return all(listed.get(name) == sha256(data) for name, data in _metadata(header, text_ids, complete=True))


def restore_metadata(
    location: Location, header: CacheHeader, text_ids: Sequence[str] | TextIds, basis: Basis | None = None
) -> None:
    """Puts back metadata files that are damaged, those of the `basis` too; for a cache that `is_same_cache` knows."""
    for name, data in _metadata(header, text_ids, complete=True, basis=basis):
        if not has_checksum(location, name, sha256(data)):
            location.put(name, data)


Named = Iterator[tuple[str, bytes]]
"""Files one by one: name inside the cache, content."""


def _arrays(header: CacheHeader, text_ids: Sequence[str] | TextIds, basis: Basis | None = None) -> Named:
    yield from layout.array_files(header).items()
    if basis is not None:
        yield from layout.basis_files(header, basis).items()
    yield from layout.index_files(header, "text_id", layout.text_id_rows(text_ids))


def _metadata(
    header: CacheHeader, text_ids: Sequence[str] | TextIds, complete: bool, basis: Basis | None = None
) -> Named:
    """What follows from header, texts and basis alone; the group's own file comes last."""
    yield from _arrays(header, text_ids, basis)
    yield from layout.root_file(header, complete).items()


class _Index:
    """Gathers the records: some bytes per text."""

    def __init__(self, header: CacheHeader) -> None:
        self.shards = 0
        self.sums: dict[str, str] = {}
        self._header = header
        self._token_count = np.zeros(header.texts, "<i4")
        self._truncated = np.zeros(header.texts, bool)
        layers = len(header.capture.layers)
        self._totals = {pooling: np.zeros((4, layers)) for pooling in header.capture.poolings}
        self._binding = np.zeros((header.shards, layout.binding_columns(header)), "<u4")

    def add(self, record: ShardRecord) -> None:
        # In shard order, whatever the order of computation: the sums' last bits depend on it.
        place = self._header.rows_of(record.shard)
        self._token_count[place], self._truncated[place] = record.token_count, record.truncated
        self._binding[record.shard] = record.binding
        for pooling, total in self._totals.items():
            sums = np.array(record.sums[pooling])
            total[:3] += sums[:3]
            total[3] = np.maximum(total[3], sums[3])
        self.sums |= record.files
        self.shards += 1

    def files(self) -> Named:
        arrays: dict[str, npt.NDArray[Any]] = {"token_count": self._token_count, "truncated": self._truncated}
        arrays |= {f"statistics/{pooling}": self._statistics(total) for pooling, total in self._totals.items()}
        arrays[layout.BINDING] = self._binding
        for name, values in arrays.items():
            yield from layout.index_files(self._header, name, values)

    def _statistics(self, total: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        values = self._header.texts * self._header.capture.dim
        mean = total[1] / values
        std = np.sqrt(np.maximum(total[2] / values - mean**2, 0))
        return np.stack([total[0] / self._header.texts, mean, std, total[3]])


def _require_shapes(header: CacheHeader, shard: int, rows: ShardRows) -> None:
    """NumPy would repeat a single row over the whole shard without a word."""
    place, capture = header.rows_of(shard), header.capture
    texts, row = place.stop - place.start, (len(capture.layers), capture.dim)
    expected: dict[str, Any] = {pooling: (texts, *row) for pooling in capture.poolings}
    found: dict[str, Any] = {pooling: values.shape for pooling, values in rows.pooled.items()}
    if capture.tokens is not None:
        expected["tokens"] = (sum(rows.token_count), *layout.token_row(header))
    if rows.token_states is not None:
        found["tokens"] = rows.token_states.shape
    lengths = {len(rows.text_ids), len(rows.token_count), len(rows.truncated)}
    if found != expected or lengths != {texts}:
        raise ValueError(f"shard {shard} takes {expected} for {texts} texts, got {found} for {lengths}")


def _sums(stored: Stored, scales: Scales | None, kind: str) -> npt.NDArray[np.float64]:
    """Sums of a shard for the statistics, [4, layers], over the stored values and not those before rounding."""
    sums = np.empty((4, stored.shape[1]))
    for layer in range(stored.shape[1]):  # one at a time stays in the processor's cache: twice as fast
        values = decode(stored[:, layer], kind, None if scales is None else scales[layer])
        squares = np.einsum("nd,nd->n", values, values, dtype=np.float64)
        total = values.sum(dtype=np.float64)
        sums[:, layer] = np.sqrt(squares).sum(), total, squares.sum(), max(values.max(), -values.min())
    return sums


def check_range(
    kind: str,
    layers: Sequence[str],
    text_ids: Sequence[str],
    values: FloatRows,
    counts: Sequence[int] | None = None,
    setting: str = "storage_type",
) -> None:
    """Refuses a value that a storage type can't hold.

    Parameters
    ----------
    layers, text_ids
        Names of the axes of `values`, [texts, layers, dim], for the message.
    counts
        Of token states, [tokens, layers, width]: how many of them are each text's, one after the other.
    setting
        What says the storage type, for the message.

    Raises
    ------
    UserError
        For a value that is not finite or beyond the type's largest.
    """
    if not len(values):
        return
    limit = TOKEN_TYPES[kind].limit
    if -limit <= values.min() and values.max() <= limit:  # false for NaN
        return
    row, layer, coordinate = (int(i) for i in np.argwhere(~(np.abs(values) <= limit))[0])
    text = row if counts is None else int(np.searchsorted(np.cumsum(counts), row, side="right"))
    value = float(values[row, layer, coordinate])
    raise UserError(
        f"layer '{layers[layer]}', text {text_ids[text]}, dimension {coordinate}",
        expected=f"a finite value that {kind} can hold (|value| ≤ {limit:g})",
        found=f"{value:g}",
        next_step=f"set extract.{setting} to bfloat16 or float32"
        if np.isfinite(value)
        else "set extract.compute_type to float32",
    )


def record_to_json(record: ShardRecord) -> bytes:
    """The record as a small file, with a checksum of all that it says."""
    values: dict[str, Any] = {name: getattr(record, name) for name in ShardRecord.__dataclass_fields__}
    return json.dumps({**values, "checksum": _checksum(values)}, allow_nan=False).encode()


def record_from_json(data: bytes) -> ShardRecord | None:
    """The record in a file, or None for a damaged one, or one that a power cut left empty: its shard is made again."""
    try:
        values = json.loads(data)
        checksum = values.pop("checksum")
        return ShardRecord(**values) if checksum == _checksum(values) else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _checksum(values: Mapping[str, Any]) -> str:
    return sha256(json.dumps(values, sort_keys=True).encode())
