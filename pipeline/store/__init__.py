"""The cache format: the one seam that the pipeline, which writes caches, and the trainer, which reads them, share.

`spec` says what a cache is, `encoding` how a value stands in it, `layout` which files it has, `chunks` how the bytes of
the large ones follow one another, `location` where they lie; `writing`, `opening`, `reading` and `verification` are
what one does with it.
"""

from pipeline.store.chunks import chunk_bytes
from pipeline.store.encoding import STORAGE_TYPES, FloatRows, StoredRows, value_bytes
from pipeline.store.layout import STATISTICS, TEXT_ID_BYTES, TextIds, shard_of_file, text_id_rows
from pipeline.store.location import Location
from pipeline.store.opening import peek
from pipeline.store.reading import Cache, open_cache
from pipeline.store.spec import FORMAT_VERSION, POOLINGS, CacheHeader, CaptureSpec, ShardRecord
from pipeline.store.verification import Damage, listed_sums, verify
from pipeline.store.writing import (
    ShardRows,
    as_stored,
    create,
    finish,
    has_checksum,
    is_same_cache,
    record_from_json,
    record_to_json,
    restore_metadata,
    verify_shard,
    write_shard,
)

__all__ = [
    "FORMAT_VERSION",
    "POOLINGS",
    "STATISTICS",
    "STORAGE_TYPES",
    "TEXT_ID_BYTES",
    "Cache",
    "CacheHeader",
    "CaptureSpec",
    "Damage",
    "FloatRows",
    "Location",
    "ShardRecord",
    "ShardRows",
    "StoredRows",
    "TextIds",
    "as_stored",
    "chunk_bytes",
    "create",
    "finish",
    "has_checksum",
    "is_same_cache",
    "listed_sums",
    "open_cache",
    "peek",
    "record_from_json",
    "record_to_json",
    "restore_metadata",
    "shard_of_file",
    "text_id_rows",
    "value_bytes",
    "verify",
    "verify_shard",
    "write_shard",
]
