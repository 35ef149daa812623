"""The files of a cache: array names, shapes, chunks and attributes are spelled here and nowhere else.

A cache is a Zarr v3 group (docs/cache-format.md):

    pooled/<pooling>     [texts, layers, dim]   shards of `shard_rows` whole rows, one inner chunk a layer
    scale/<pooling>      [shards, layers, dim]  int8 only: the step of a stored level, float32
    tokens/<shard>       [tokens, layers, dim]  token states only: those of the shard's texts, one after the other
    text_id              [texts, 16] uint8      identity of the text of row i
    token_count          [texts] int32          tokens that the model saw, after truncation
    truncated            [texts] bool
    statistics/<pooling> [4, layers] float64    the rows of `STATISTICS`
    SHA256SUMS           checksum of every other file

Files are made in memory, by zarr, and put in place whole; nothing else writes into a cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec
from zarr.storage import MemoryStore

from pipeline.store.encoding import STORAGE_TYPES, Scales, Stored
from pipeline.store.spec import CacheHeader

ATTRIBUTE = "ilse_cache"
ROOT = "zarr.json"
"""The group's own file, written last: a cache is complete when its attribute says so."""
SUMS = "SHA256SUMS"
STATISTICS = ("norm", "mean", "std", "max_abs")
"""Per layer over all texts: mean L2 norm of a row, mean and standard deviation of a coordinate, largest |value|."""

TEXT_ID_BYTES = 16
TextIds = npt.NDArray[np.uint8]
"""[texts, 16]"""
# The small per-text arrays share files of a megabyte or so: few files, and appending rewrites only the last one.
INDEX_CHUNK_ROWS = 65_536
# So that one text's token states are read without those of the whole shard.
TOKEN_CHUNK_ROWS = 256

Files = dict[str, bytes]
"""Name inside the cache → content."""


def sha256(data: bytes) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def array_files(header: CacheHeader) -> Files:
    """The metadata of the big arrays, without a value in them."""
    files: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(files))
    scaled = header.capture.storage_type == "int8"
    for pooling in header.capture.poolings:
        for name in (f"pooled/{pooling}", *([f"scale/{pooling}"] if scaled else [])):
            _create(group, name, _form(header, name))
    return _content(files, without=(ROOT,))


def root_file(header: CacheHeader, complete: bool) -> Files:
    """The group's own file."""
    files: dict[str, Any] = {}
    zarr.create_group(MemoryStore(files), zarr_format=3, attributes={ATTRIBUTE: header.attributes(complete)})
    return _content(files)


def index_files(header: CacheHeader, name: str, values: npt.NDArray[Any]) -> Iterator[tuple[str, bytes]]:
    """A small array as a whole, file by file: of a million texts' ids only one chunk is in memory a second time."""
    files: dict[str, Any] = {}
    form = _form(header, name)
    array = _create(zarr.create_group(MemoryStore(files)), name, form)
    for start in range(0, len(values), form.chunks[0]):
        place = slice(start, start + form.chunks[0])
        array[place] = values[place]
        yield from _content(files, without=(ROOT,)).items()


def shard_files(
    header: CacheHeader,
    shard: int,
    pooled: Mapping[str, tuple[Stored, Scales | None]],
    tokens: Stored | None = None,
) -> Files:
    """A shard's files from its stored values: [rows of the shard, layers, dim] a pooling, [tokens, layers, dim]."""
    files: Files = {}
    for pooling, (stored, scales) in pooled.items():
        for name, values in {f"pooled/{pooling}": stored, f"scale/{pooling}": scales}.items():
            if values is not None:
                form = _form(header, name)
                rows = values if name.startswith("pooled/") else values[None]
                files[_chunk_file(name, shard)] = _one_shard(form, rows)
    if tokens is not None:
        memory: dict[str, Any] = {}
        name = tokens_name(shard)
        _create(zarr.create_group(MemoryStore(memory)), name, _form(header, name, len(tokens)))[...] = tokens
        files |= _content(memory, without=(ROOT, "tokens/zarr.json"))
    return files


def shard_file(pooling: str, shard: int) -> str:
    """The file of a shard's pooled rows."""
    return _chunk_file(f"pooled/{pooling}", shard)


def _chunk_file(name: str, shard: int) -> str:
    return f"{name}/c/{shard}/0/0"


def tokens_name(shard: int) -> str:
    """The array of a shard's token states."""
    return f"tokens/{shard}"


def is_as_laid_out(array: zarr.Array[Any], header: CacheHeader, name: str, tokens: int = 0) -> bool:
    """Whether an array's metadata is what the header asks for; a damaged number there would shift rows silently.

    `tokens` are those of the shard, for an array of token states.
    """
    expected = _create(zarr.create_group(MemoryStore()), name, _form(header, name, tokens))
    return _described(array) == _described(expected)


def belongs_to_an_array(name: str) -> bool:
    """Whether a file's name is one that the format gives to metadata or chunks of an array."""
    first, _, rest = name.partition("/")
    return bool(rest) and first in ("pooled", "scale", "tokens", "statistics", "text_id", "token_count", "truncated")


def shard_of_file(name: str) -> int | None:
    """The shard that a file belongs to, or None for metadata and index files."""
    parts = name.split("/")
    number = ""
    if parts[0] == "tokens" and len(parts) > 2:
        number = parts[1]
    elif parts[0] in ("pooled", "scale") and len(parts) > 3:
        number = parts[3]
    return int(number) if number.isascii() and number.isdigit() else None


def sums_file(sums: Mapping[str, str]) -> bytes:
    """`SHA256SUMS` as `sha256sum --check` reads it; its first line is the checksum of the lines that follow."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()
    return f"# {sha256(lines)}\n".encode() + lines


def parse_sums(data: bytes) -> dict[str, str] | None:
    """Name → checksum, or None when the file is damaged, or names what is not inside the cache."""
    first, _, lines = data.partition(b"\n")
    if first != f"# {sha256(lines)}".encode():
        return None
    try:
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines.decode().splitlines())}
    except ValueError:
        return None
    return sums if all(map(is_inside, sums)) else None


def is_inside(name: str) -> bool:
    """Whether a name is one of a file inside the cache: relative, and never up."""
    return name.isprintable() and not name.startswith("/") and ".." not in name.split("/")


def text_id_rows(text_ids: Sequence[str] | TextIds) -> TextIds:
    """Text ids of 32 hexadecimal digits as [texts, 16] bytes."""
    if isinstance(text_ids, np.ndarray):
        return text_ids
    return np.frombuffer(bytes.fromhex("".join(text_ids)), np.uint8).reshape(-1, TEXT_ID_BYTES)


@dataclass(frozen=True)
class _Form:
    """What the metadata of an array say."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    fill_value: float | int = 0
    shards: tuple[int, ...] | None = None
    dimension_names: tuple[str, ...] | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


def _form(header: CacheHeader, name: str, tokens: int = 0) -> _Form:
    """The form of an array by its name; `tokens` are those of the shard, for an array of token states."""
    row = (len(header.capture.layers), header.capture.dim)
    match name.split("/")[0]:
        case "pooled":
            return _rows_form(header, header.texts, header.shard_rows, header.shard_rows, "text")
        case "tokens":
            whole = -(-tokens // TOKEN_CHUNK_ROWS) * TOKEN_CHUNK_ROWS
            return _rows_form(header, tokens, whole, TOKEN_CHUNK_ROWS, "token")
        case "scale":
            return _Form((header.shards, *row), (1, *row), np.dtype("<f4"), float("nan"))
        case "statistics":
            shape = (len(STATISTICS), row[0])
            return _Form(shape, shape, np.dtype("<f8"))
    rest, dtype = {"text_id": ((TEXT_ID_BYTES,), "u1"), "token_count": ((), "<i4"), "truncated": ((), "?")}[name]
    return _Form((header.texts, *rest), (min(INDEX_CHUNK_ROWS, header.texts), *rest), np.dtype(dtype))


def _rows_form(header: CacheHeader, rows: int, shard_rows: int, chunk_rows: int, what: str) -> _Form:
    kind, layers, dim = header.capture.storage_type, len(header.capture.layers), header.capture.dim
    return _Form(
        shape=(rows, layers, dim),
        chunks=(chunk_rows, 1, dim),
        dtype=STORAGE_TYPES[kind].dtype,
        fill_value=STORAGE_TYPES[kind].missing,
        shards=(shard_rows, layers, dim),
        dimension_names=(what, "layer", "dimension"),
        attributes={"encoding": kind} if kind in ("bfloat16", "int8") else {},
    )


def _create(group: zarr.Group, name: str, form: _Form) -> zarr.Array[Any]:
    return group.create_array(
        name,
        **{item.name: getattr(form, item.name) for item in fields(form)},
        compressors=[Crc32cCodec()],
        config={"write_empty_chunks": True},  # or a table of zeros and a lost file would look the same
    )


def _one_shard(form: _Form, values: npt.NDArray[Any]) -> bytes:
    """The bytes of one shard that holds `values`, and the fill value behind them."""
    files: dict[str, Any] = {}
    shape = form.shards or form.chunks
    array = _create(zarr.create_group(MemoryStore(files)), "a", replace(form, shape=shape))
    if len(values) < shape[0]:
        values = np.concatenate([values, np.full((shape[0] - len(values), *shape[1:]), form.fill_value, form.dtype)])
    array[...] = values
    return _content(files)["a/c/0/0/0"]


def _described(array: zarr.Array[Any]) -> dict[str, Any]:
    """All that decides which value stands where."""
    return {
        name: value for name, value in array.metadata.to_dict().items() if name not in ("attributes", "dimension_names")
    }


def _content(files: dict[str, Any], without: Sequence[str] = ()) -> Files:
    """The buffers as bytes; `files` is emptied on the way, so that a million texts' ids are never held twice."""
    return {name: files.pop(name).to_bytes() for name in list(files) if name not in without}
