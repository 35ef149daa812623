"""The cache format, version 1: array names, attributes, chunk shapes and types are spelled here and nowhere else.

A cache is a Zarr v3 group (docs/cache-format.md):

    pooled/<pooling>     [texts, layers, dim]   shards of `shard_rows` whole rows, one inner chunk a layer
    text_id              [texts, 16] uint8      row i is row i of texts.parquet
    token_count          [texts] int32          tokens that the model saw, after truncation
    truncated            [texts] bool
    statistics/<pooling> [4, layers] float64    the rows of `STATISTICS`
    record/<pooling>     [shards, 32] uint8     SHA-256 of each shard's stored values

One inner chunk holds one layer of one shard, so that a head on a single layer reads a single layer's bytes.
The group's attribute `ilse_cache` is written last: a cache is complete when its record says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec

from ilse.errors import UserError

FORMAT_VERSION = 1
ATTRIBUTE = "ilse_cache"
POOLINGS = ("mean",)
STORAGE_TYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
STATISTICS = ("norm", "mean", "std", "max_abs")
"""Per layer over all texts: mean L2 norm of a row, mean and standard deviation of a coordinate, largest |value|."""

TEXT_ID_BYTES = 16
# The small per-text arrays share files of a megabyte or so: few files, and appending rewrites only the last one.
INDEX_CHUNK_ROWS = 65_536

FloatRows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class CaptureSpec:
    """Everything that a cached value depends on. Two caches with equal fingerprints hold comparable rows.

    Validated at construction; nobody checks it again.
    """

    model: Mapping[str, str]
    """What pins the weights: {"hub": id, "revision": commit}, or {"sha256": checksum of the file or folder}."""
    tokenizer: str
    """SHA-256 of the serialised tokenizer."""
    layers: tuple[str, ...]
    """Names of the rows, in depth order: embedding output, each block, the last one after the final norm."""
    dim: int
    """Width of a row."""
    max_tokens: int
    """Longer texts are cut here, special tokens included."""
    template: str
    """What the model reads; `{text}` stands for the text."""
    compute_type: str
    """Type of the weights and activations while computing."""
    storage_type: str
    """Type of the stored values, one of `STORAGE_TYPES`."""
    poolings: tuple[str, ...] = ("mean",)

    def __post_init__(self) -> None:
        _require(self.storage_type in STORAGE_TYPES, "storage_type", list(STORAGE_TYPES), self.storage_type)
        _require(len(self.layers) >= 2, "layers", "at least an embedding and one block", self.layers)
        _require(len(set(self.layers)) == len(self.layers), "layers", "distinct names", self.layers)
        _require(self.dim >= 1, "dim", "at least 1", self.dim)
        _require(self.max_tokens >= 1, "max_tokens", "at least 1", self.max_tokens)
        _require("{text}" in self.template, "template", "a place for {text}", self.template)
        unknown = [name for name in self.poolings if name not in POOLINGS]
        _require(bool(self.poolings) and not unknown, "poolings", list(POOLINGS), list(self.poolings))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON of this spec and the format version, 64 hexadecimal digits."""
        document = {"format_version": FORMAT_VERSION, **asdict(self)}
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_attributes(cls, values: Mapping[str, Any]) -> CaptureSpec:
        """The spec as it stands in a cache's attributes."""
        lists = {"layers": tuple(values["layers"]), "poolings": tuple(values["poolings"])}
        return cls(**{**values, **lists})


@dataclass(frozen=True)
class CacheHeader:
    """What a cache says of itself: its spec, its size, and facts that do not enter the fingerprint."""

    capture: CaptureSpec
    texts: int
    shard_rows: int
    model_name: str
    model_parameters: int
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(self.texts >= 1, "texts", "at least 1", self.texts)
        _require(self.shard_rows >= 1, "shard_rows", "at least 1", self.shard_rows)

    @property
    def shards(self) -> int:
        """How many shards hold the texts; the last one may be partly filled."""
        return -(-self.texts // self.shard_rows)

    @property
    def bytes(self) -> int:
        """Bytes of the stored activations, without metadata (a few kilobytes) and with the last shard's padding."""
        row = len(self.capture.layers) * self.capture.dim * STORAGE_TYPES[self.capture.storage_type].itemsize
        return self.shards * self.shard_rows * row * len(self.capture.poolings)

    def rows_of(self, shard: int) -> slice:
        """The rows of texts that a shard owns."""
        return slice(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.texts))

    def attributes(self, complete: bool) -> dict[str, Any]:
        """The group's attribute, as plain JSON."""
        return {
            "format_version": FORMAT_VERSION,
            "complete": complete,
            "fingerprint": self.capture.fingerprint,
            **json.loads(json.dumps(asdict(self))),
        }


@dataclass(frozen=True)
class ShardRecord:
    """Proof that a shard was written and read back: its checksum, and what the statistics need of it."""

    shard: int
    sha256: Mapping[str, str]
    """Pooling → SHA-256 of the stored values of the shard's rows, little-endian, row by row."""
    sums: Mapping[str, list[list[float]]]
    """Pooling → per layer: sum of row norms, sum, sum of squares, largest |value|; [4, layers]."""
    token_count: list[int]
    truncated: list[bool]


def create(path: Path, header: CacheHeader, text_ids: Sequence[str]) -> None:
    """Lays out an empty, incomplete cache at `path`; `text_ids` are 32 hexadecimal digits each, in row order."""
    capture = header.capture
    shape = (header.texts, len(capture.layers), capture.dim)
    group = zarr.create_group(path, zarr_format=3, attributes={ATTRIBUTE: header.attributes(complete=False)})
    for pooling in capture.poolings:
        group.create_array(
            f"pooled/{pooling}",
            shape=shape,
            dtype=STORAGE_TYPES[capture.storage_type],
            shards=(header.shard_rows, *shape[1:]),
            chunks=(header.shard_rows, 1, capture.dim),
            compressors=[Crc32cCodec()],
            fill_value=np.nan,  # no stored value is NaN, so a missing chunk can't pass for data
            dimension_names=["text", "layer", "dimension"],
            config={"write_empty_chunks": True},
        )
    identities = np.frombuffer(bytes.fromhex("".join(text_ids)), np.uint8).reshape(header.texts, TEXT_ID_BYTES)
    _put_index(group, "text_id", identities)


def write_shard(
    path: Path, shard: int, rows: Mapping[str, FloatRows], token_count: Sequence[int], truncated: Sequence[bool]
) -> ShardRecord:
    """Writes one whole shard, reads it back and returns the record of it.

    `rows` maps each pooling to float32 [rows of the shard, layers, dim], in row order. One task owns a whole shard:
    writes that share one would corrupt it silently (dask #12583). Raises `UserError` for a value that is not finite
    or that the storage type cannot hold.
    """
    group = zarr.open_group(path, mode="r+")
    header = _read_header(path, group)
    place = header.rows_of(shard)
    digests, sums = {}, {}
    for pooling, values in rows.items():
        _check_range(header, group, place, values)
        stored = values.astype(STORAGE_TYPES[header.capture.storage_type])
        array = _array(group, f"pooled/{pooling}")
        # zarr reads a shard that is there before it writes into it, and fails on what a killed writer left.
        (path / array.path / array.metadata.encode_chunk_key((shard, 0, 0))).unlink(missing_ok=True)
        array[place] = stored
        back = np.asarray(array[place])
        if back.tobytes() != stored.tobytes():
            raise UserError(
                f"cache {path}, shard {shard}",
                expected="the values that were written",
                found="other values when read back",
                next_step="check the disk, then run the extraction again: the shard is computed anew",
            )
        digests[pooling] = _digest(stored)
        sums[pooling] = _sums(stored).tolist()
    return ShardRecord(shard, digests, sums, [int(n) for n in token_count], [bool(t) for t in truncated])


def verify_shard(path: Path, record: ShardRecord) -> bool:
    """Whether the shard's stored values still have the recorded checksum; false also for a damaged or missing file."""
    group = zarr.open_group(path, mode="r")
    place = _read_header(path, group).rows_of(record.shard)
    try:
        stored = {pooling: np.asarray(_array(group, f"pooled/{pooling}")[place]) for pooling in record.sha256}
    except Exception:  # zarr has no error of its own for a bad checksum or a cut file
        return False
    return all(_digest(values) == record.sha256[pooling] for pooling, values in stored.items())


def finish(path: Path, records: Sequence[ShardRecord]) -> None:
    """Writes record, statistics and index arrays from the records of all shards, and marks the cache complete."""
    group = zarr.open_group(path, mode="r+")
    header = _read_header(path, group)
    ordered = sorted(records, key=lambda record: record.shard)
    if [record.shard for record in ordered] != list(range(header.shards)):
        raise UserError(
            f"cache {path}",
            expected=f"a record of each of its {header.shards} shards",
            found=f"{len(ordered)} records",
            next_step="run the extraction again: it computes the missing shards",
        )
    _put_index(group, "token_count", np.concatenate([np.asarray(r.token_count, "<i4") for r in ordered]))
    _put_index(group, "truncated", np.concatenate([np.asarray(r.truncated, bool) for r in ordered]))
    for pooling in header.capture.poolings:
        digests = bytes.fromhex("".join(record.sha256[pooling] for record in ordered))
        _put_index(group, f"record/{pooling}", np.frombuffer(digests, np.uint8).reshape(header.shards, 32))
        _put_index(group, f"statistics/{pooling}", _statistics(header, [r.sums[pooling] for r in ordered]))
    group.attrs[ATTRIBUTE] = header.attributes(complete=True)


class Cache:
    """A finished cache, open for reading. Use `open_cache`."""

    def __init__(self, path: Path, group: zarr.Group, header: CacheHeader) -> None:
        self.path = path
        self.header = header
        self._group = group

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

    def text_ids(self) -> list[str]:
        """Identity of each text, in row order."""
        joined = np.asarray(_array(self._group, "text_id")[:]).tobytes().hex()
        width = 2 * TEXT_ID_BYTES
        return [joined[start : start + width] for start in range(0, len(joined), width)]

    def token_counts(self) -> npt.NDArray[np.int32]:
        """Tokens that the model saw of each text, [texts]."""
        return np.asarray(_array(self._group, "token_count")[:])

    def truncated(self) -> npt.NDArray[np.bool_]:
        """Which texts were longer than `max_tokens`, [texts]."""
        return np.asarray(_array(self._group, "truncated")[:])

    def statistics(self, pooling: str = "mean") -> dict[str, npt.NDArray[np.float64]]:
        """The rows of `STATISTICS`, each [layers]."""
        table = np.asarray(_array(self._group, f"statistics/{pooling}")[:])
        return dict(zip(STATISTICS, table, strict=True))

    def shards(self) -> Iterator[slice]:
        """The rows of each shard in turn: the unit in which reading is cheap."""
        return (self.header.rows_of(shard) for shard in range(self.header.shards))

    def read(self, rows: slice, layers: Sequence[int] | None = None, pooling: str = "mean") -> FloatRows:
        """A run of rows, float32 [rows, layers, dim]; only the bytes of the chosen `layers` are read."""
        array = _array(self._group, f"pooled/{pooling}")
        try:
            if layers is None:
                values = np.asarray(array[rows], np.float32)
            else:
                values = np.stack([np.asarray(array[rows, layer], np.float32) for layer in layers], axis=1)
        except Exception as error:  # zarr has no error of its own for a bad checksum or a cut file
            raise self._damaged_rows(rows, str(error)) from error
        if np.isnan(values[..., 0]).any():  # the fill value: one coordinate tells whether a chunk is there
            raise self._damaged_rows(rows, "a chunk that is missing")
        return values

    def _damaged_rows(self, rows: slice, found: str) -> UserError:
        return UserError(
            f"cache {self.path}, rows {rows.start} to {rows.stop}",
            expected="the values that were recorded",
            found=found,
            next_step="pull the cache again, or remove it and run 'ilse extract'",
        )

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


def open_cache(path: Path, fingerprint: str | None = None) -> Cache:
    """A finished cache at `path`; with `fingerprint`, only one of that capture.

    Raises `UserError` when there is none, when it is unfinished, of another format version, damaged, or of another
    capture than the one expected.
    """
    path = Path(path)
    header, complete = peek(path)
    if not complete:
        raise UserError(
            f"cache {path}",
            expected="a finished cache",
            found="one whose record says that it is unfinished",
            next_step="run 'ilse extract' again: it goes on where it stopped",
        )
    if fingerprint is not None and header.capture.fingerprint != fingerprint:
        raise UserError(
            f"cache {path}",
            expected=f"capture {fingerprint[:16]}",
            found=f"capture {header.capture.fingerprint[:16]} ({header.model_name})",
            next_step="use the cache that the expectation comes from, or train again on this one",
        )
    return Cache(path, zarr.open_group(path, mode="r"), header)


def peek(path: Path) -> tuple[CacheHeader, bool]:
    """What a cache says of itself, finished or not, and whether its record says that it is complete."""
    try:
        group = zarr.open_group(path, mode="r")
    except (FileNotFoundError, ValueError, OSError) as error:
        raise UserError(
            f"cache {path}",
            expected="a cache written by 'ilse extract'",
            found="nothing there" if not Path(path).exists() else f"no Zarr group ({type(error).__name__})",
            next_step="run 'ilse extract', or 'dvc pull' to fetch one",
        ) from error
    header = _read_header(path, group)
    attributes: Any = group.attrs[ATTRIBUTE]
    return header, attributes["complete"] is True


def _read_header(path: Path, group: zarr.Group) -> CacheHeader:
    attributes: Any = group.attrs.get(ATTRIBUTE)
    if not isinstance(attributes, dict):
        raise UserError(
            f"cache {path}",
            expected=f"a Zarr group with the attribute '{ATTRIBUTE}'",
            found="a Zarr group without it",
            next_step="name a folder that 'ilse extract' wrote",
        )
    if attributes.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"cache {path}",
            expected=f"cache format version {FORMAT_VERSION}",
            found=f"version {attributes.get('format_version')}",
            next_step="extract again, or install the release of ilse-cache that wrote it",
        )
    try:
        values = {name: attributes[name] for name in CacheHeader.__dataclass_fields__ if name != "capture"}
        header = CacheHeader(capture=CaptureSpec.from_attributes(attributes["capture"]), **values)
        damaged = header.capture.fingerprint != attributes["fingerprint"]
    except (KeyError, TypeError) as error:
        raise _damaged(path, f"attributes that do not parse ({type(error).__name__}: {error})") from error
    if damaged:
        raise _damaged(path, "a spec that does not have the fingerprint beside it")
    return header


def _damaged(path: Path, found: str) -> UserError:
    return UserError(
        f"cache {path}",
        expected="attributes as 'ilse extract' wrote them",
        found=found,
        next_step="the file was edited or damaged: pull it again, or extract again",
    )


def _check_range(header: CacheHeader, group: zarr.Group, place: slice, values: FloatRows) -> None:
    limit = float(np.finfo(STORAGE_TYPES[header.capture.storage_type]).max)
    bad = ~(np.abs(values) <= limit)  # also true for NaN
    if not bad.any():
        return
    row, layer, coordinate = (int(i) for i in np.argwhere(bad)[0])
    text_id = np.asarray(_array(group, "text_id")[place.start + row]).tobytes().hex()
    value = float(values[row, layer, coordinate])
    finite = np.isfinite(value)
    raise UserError(
        f"layer '{header.capture.layers[layer]}', text {text_id}, dimension {coordinate}",
        expected=f"a finite value that {header.capture.storage_type} can hold (|value| ≤ {limit:g})",
        found=f"{value:g}",
        next_step="set extract.storage_type to float32" if finite else "set extract.compute_type to float32",
    )


def _digest(stored: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(stored).data).hexdigest()


def _sums(stored: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    wide = stored.astype(np.float64)
    squares = np.einsum("nld,nld->nl", wide, wide)
    return np.stack([np.sqrt(squares).sum(0), wide.sum((0, 2)), squares.sum(0), np.abs(wide).max((0, 2))])


def _statistics(header: CacheHeader, sums: Sequence[list[list[float]]]) -> npt.NDArray[np.float64]:
    # In shard order, whatever the order of computation, so that the bytes do not depend on the scheduler.
    total = np.array(sums, np.float64)
    values = header.texts * header.capture.dim
    norm, first, second = total[:, :3].sum(0)
    mean = first / values
    std = np.sqrt(np.maximum(second / values - mean**2, 0))
    return np.stack([norm / header.texts, mean, std, total[:, 3].max(0)])


def _put_index(group: zarr.Group, name: str, values: npt.NDArray[Any]) -> None:
    chunks = (min(INDEX_CHUNK_ROWS, len(values)), *values.shape[1:])
    group.create_array(
        name,
        data=values,
        chunks=chunks,
        compressors=[Crc32cCodec()],
        overwrite=True,
        config={"write_empty_chunks": True},  # or a table of zeros and a lost file would look the same
    )


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def _require(holds: bool, name: str, expected: object, found: object) -> None:
    if not holds:
        raise UserError(
            f"cache specification, {name}", expected=str(expected), found=str(found), next_step=f"correct {name}"
        )
