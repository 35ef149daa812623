"""The files of a cache: array names, shapes, chunks and attributes are spelled here and nowhere else.

A cache is a Zarr v3 group (docs/cache-format.md):

    pooled/<pooling>     [texts, layers, dim]   shards of `shard_rows` whole rows, one inner chunk a layer
    scale/<pooling>      [shards, layers, dim]  int8 only: the step of a stored level, float32
    tokens/<shard>       [tokens, token layers, token width]  token states only: those of the shard's texts in turn
    scale/tokens         [shards, token layers, token width]  token states of int8 and int4 only
    basis/<part>         token states of a rank only: mean, scale, directions and share, see `basis`
    text_id              [texts, 16] uint8      identity of the text of row i
    token_count          [texts] int32          tokens that the model saw, after truncation
    truncated            [texts] bool
    statistics/<pooling> [4, layers] float64    the rows of `STATISTICS`
    binding              [shards, …] uint32     what ties each shard's values to its texts, see `binding`
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

from pipeline.store.basis import Basis
from pipeline.store.encoding import SCALED, TOKEN_TYPES, Scales, Stored, stored_width
from pipeline.store.spec import CacheHeader, TokenSpec

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
BINDING = "binding"
BINDING_CHUNK_ROWS = 1_024
TOKEN_CHUNK_ROWS = 256
"""Tokens of a chunk where `token_states` is `true`; where it says what is kept, a chunk is all of a layer."""
TOKENS = "tokens"
BASIS = ("mean", "scale", "directions", "share")

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
    if has_token_scales(header):
        _create(group, f"scale/{TOKENS}", _form(header, f"scale/{TOKENS}"))
    return _content(files, without=(ROOT,))


def basis_files(header: CacheHeader, basis: Basis) -> Files:
    """The arrays of the basis, whole."""
    files: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(files))
    for part, values in basis.arrays().items():
        name = f"basis/{part}"
        _create(group, name, _form(header, name))[...] = values
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
    tokens: tuple[Stored, Scales | None] | None = None,
) -> Files:
    """A shard's files from its stored values: [rows of the shard, layers, dim] a pooling, [tokens, layers, width]."""
    files: Files = {}
    for pooling, (stored, scales) in pooled.items():
        for name, values in {f"pooled/{pooling}": stored, f"scale/{pooling}": scales}.items():
            if values is not None:
                form = _form(header, name)
                rows = values if name.startswith("pooled/") else values[None]
                files[_chunk_file(name, shard)] = _one_shard(form, rows)
    if tokens is not None:
        memory: dict[str, Any] = {}
        name, (stored, scales) = tokens_name(shard), tokens
        _create(zarr.create_group(MemoryStore(memory)), name, _form(header, name, len(stored)))[...] = stored
        files |= _content(memory, without=(ROOT, "tokens/zarr.json"))
        if scales is not None:
            files[scale_file(TOKENS, shard)] = _one_shard(_form(header, f"scale/{TOKENS}"), scales[None])
    return files


def has_token_scales(header: CacheHeader) -> bool:
    """Whether token states are levels of int8 or int4, with steps of their own."""
    tokens = header.capture.tokens
    return tokens is not None and tokens.storage_type in SCALED


def has_whole_layers(header: CacheHeader) -> bool:
    """Whether a chunk of token states is a layer of the whole shard, and each is bound; where `token_states` is `true`,
    as in every cache of earlier releases, chunks are of `TOKEN_CHUNK_ROWS` tokens and the file is bound as a whole.
    """
    return isinstance(header.capture.token_states, TokenSpec)


def shard_file(pooling: str, shard: int) -> str:
    """The file of a shard's pooled rows."""
    return _chunk_file(f"pooled/{pooling}", shard)


def statistics_file(pooling: str) -> str:
    """The file of a pooling's statistics."""
    return f"statistics/{pooling}/c/0/0"


def scale_file(pooling: str, shard: int) -> str:
    """The file of a shard's scales: those of a pooling, or of `TOKENS`."""
    return _chunk_file(f"scale/{pooling}", shard)


def tokens_file(shard: int) -> str:
    """The file of a shard's token states."""
    return f"{tokens_name(shard)}/c/0/0/0"


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
    arrays = ("pooled", "scale", "tokens", "basis", "statistics", "text_id", "token_count", "truncated", BINDING)
    return bool(rest) and first in arrays


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
    """The form of an array, from its metadata."""

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
            kind, shards = header.capture.storage_type, (header.shard_rows, header.shard_rows)
            return _rows_form(kind, (header.texts, *row), *shards, "text")
        case "tokens":
            return _tokens_form(header, tokens)
        case "basis":
            shape = basis_shape(header, name.removeprefix("basis/"))
            return _Form(shape, shape, np.dtype("<f4"), float("nan"))
        case "scale":
            steps = scales_shape(header, name.removeprefix("scale/"))
            return _Form((header.shards, *steps), (1, *steps), np.dtype("<f4"), float("nan"))
        case "statistics":
            shape = (len(STATISTICS), row[0])
            return _Form(shape, shape, np.dtype("<f8"))
        case "binding":
            columns = binding_columns(header)
            return _Form((header.shards, columns), (min(BINDING_CHUNK_ROWS, header.shards), columns), np.dtype("<u4"))
    rest, dtype = {"text_id": ((TEXT_ID_BYTES,), "u1"), "token_count": ((), "<i4"), "truncated": ((), "?")}[name]
    return _Form((header.texts, *rest), (min(INDEX_CHUNK_ROWS, header.texts), *rest), np.dtype(dtype))


def token_row(header: CacheHeader) -> tuple[int, int]:
    """Layers and values per layer of a stored token state."""
    tokens = header.capture.tokens
    return (0 if tokens is None else len(tokens.layers)), header.capture.token_width


def scales_shape(header: CacheHeader, what: str) -> tuple[int, int]:
    """Shape of a shard's scales, for a pooling or for `TOKENS`."""
    return token_row(header) if what == TOKENS else (len(header.capture.layers), header.capture.dim)


def basis_shape(header: CacheHeader, part: str) -> tuple[int, ...]:
    """Shape of one of the parts in `BASIS`."""
    (layers, rank), dim = token_row(header), header.capture.dim
    return {"mean": (layers, dim), "scale": (layers, dim), "directions": (layers, rank, dim), "share": (layers,)}[part]


def binding_columns(header: CacheHeader) -> int:
    """Number of columns of the binding: those of the texts, their counts, truncations and tokens; for each pooling its
    layers and scales; and for token states with chunks of whole layers likewise.
    """
    scaled = header.capture.storage_type == "int8"
    pooled = 4 + len(header.capture.poolings) * (len(header.capture.layers) + scaled)
    return pooled + (token_row(header)[0] + has_token_scales(header) if has_whole_layers(header) else 0)


def _tokens_form(header: CacheHeader, tokens: int) -> _Form:
    spec = header.capture.tokens
    kind, (layers, width) = spec.storage_type if spec else header.capture.storage_type, token_row(header)
    shape = tokens, layers, stored_width(kind, width)
    if has_whole_layers(header):
        return _rows_form(kind, shape, tokens, tokens, "token")
    return _rows_form(kind, shape, -(-tokens // TOKEN_CHUNK_ROWS) * TOKEN_CHUNK_ROWS, TOKEN_CHUNK_ROWS, "token")


def _rows_form(kind: str, shape: tuple[int, int, int], shard_rows: int, chunk_rows: int, what: str) -> _Form:
    _, layers, dim = shape
    return _Form(
        shape=shape,
        chunks=(chunk_rows, 1, dim),
        dtype=TOKEN_TYPES[kind].dtype,
        fill_value=TOKEN_TYPES[kind].missing,
        shards=(shard_rows, layers, dim),
        dimension_names=(what, "layer", "dimension"),
        attributes={"encoding": kind} if kind in ("bfloat16", *SCALED) else {},
    )


def _create(group: zarr.Group, name: str, form: _Form) -> zarr.Array[Any]:
    return group.create_array(
        name,
        **{item.name: getattr(form, item.name) for item in fields(form)},
        compressors=[Crc32cCodec()],
        config={"write_empty_chunks": True},  # or a table of zeros and a lost file would look the same
    )


def _one_shard(form: _Form, values: npt.NDArray[Any]) -> bytes:
    """The bytes of one shard that holds `values`, and the fill value after them."""
    files: dict[str, Any] = {}
    shape = form.shards or form.chunks
    array = _create(zarr.create_group(MemoryStore(files)), "a", replace(form, shape=shape))
    if len(values) < shape[0]:
        values = np.concatenate([values, np.full((shape[0] - len(values), *shape[1:]), form.fill_value, form.dtype)])
    array[...] = values
    return _content(files)["a/c/0/0/0"]


def _described(array: zarr.Array[Any]) -> dict[str, Any]:
    """All metadata that decides which value is stored where."""
    return {
        name: value for name, value in array.metadata.to_dict().items() if name not in ("attributes", "dimension_names")
    }


def _content(files: dict[str, Any], without: Sequence[str] = ()) -> Files:
    """The buffers as bytes; `files` is emptied on the way, so that a million texts' ids are never held twice."""
    return {name: files.pop(name).to_bytes() for name in list(files) if name not in without}
