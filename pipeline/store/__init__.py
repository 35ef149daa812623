"""The cache format: the one seam that the pipeline, which writes caches, and the trainer, which reads them, share.

`spec` says what a cache is, `encoding` how a value stands in it, `basis` in which directions a token state does,
`layout` which files it has, `chunks` and `token_chunks` how the bytes of the large ones follow each other, `binding`
which values belong to which texts, `location` where they lie, and `proven` the same with every byte compared with the
list of checksums; `writing`, `opening`, `reading` and `verification` are what one does with it. `reading` stands on
`token_reading`, and both on `arrays`, which checks what is read.
"""

from pipeline.store.basis import Basis
from pipeline.store.chunks import chunk_bytes
from pipeline.store.encoding import SCALED, STORAGE_TYPES, TOKEN_TYPES, FloatRows, StoredRows, value_bytes
from pipeline.store.layout import STATISTICS, TEXT_ID_BYTES, TextIds, shard_of_file, text_id_rows
from pipeline.store.location import Location
from pipeline.store.opening import peek, read_basis
from pipeline.store.row_reading import Cache, open_cache, open_proven
from pipeline.store.spec import (
    FORMAT_VERSION,
    POOLINGS,
    CacheHeader,
    CaptureSpec,
    NoiseSpec,
    Pooling,
    ShardRecord,
    TokenSpec,
    WindowSpec,
)
from pipeline.store.token_chunks import ShardTokens
from pipeline.store.verification import Damage, has_checksum, listed_sums, verify
from pipeline.store.writing import (
    TOKEN_TYPE,
    ShardRows,
    check_range,
    claim_of,
    create,
    finish,
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
    "SCALED",
    "STATISTICS",
    "STORAGE_TYPES",
    "TEXT_ID_BYTES",
    "TOKEN_TYPE",
    "TOKEN_TYPES",
    "Basis",
    "Cache",
    "CacheHeader",
    "CaptureSpec",
    "Damage",
    "FloatRows",
    "Location",
    "NoiseSpec",
    "Pooling",
    "ShardRecord",
    "ShardRows",
    "ShardTokens",
    "StoredRows",
    "TextIds",
    "TokenSpec",
    "WindowSpec",
    "check_range",
    "chunk_bytes",
    "claim_of",
    "create",
    "finish",
    "has_checksum",
    "is_same_cache",
    "listed_sums",
    "open_cache",
    "open_proven",
    "peek",
    "read_basis",
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
