"""What an extraction costs in bytes and operations: arithmetic alone, so that it answers without a model or a GPU."""

from __future__ import annotations

from dataclasses import dataclass

VALUE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "int8": 1}
TOKEN_VALUE_BYTES = VALUE_BYTES | {"int4": 0.5}
"""Bytes of one stored value, by storage type."""

SHARDS_IN_FLIGHT = 3
"""Shards whose rows a worker holds at once: tokenised ahead, computed, written behind."""
RUNTIME_BYTES = 600_000_000
"""Python with torch, transformers, polars and zarr imported, before any weight. Measured: 0.5 to 0.6 GB."""

_SCALE_BYTES = 4  # int8: a float32 step for each shard, layer and dimension
_TEXT_BYTES = 16 + 4 + 1  # identity, token count, whether the text was cut
_CHUNK_BYTES = 4 + 16  # each layer of a shard: its checksum, and its place in the shard's index
_INDEX_BYTES = 4  # the checksum of that index
_SUM_BYTES = 96  # a file's line in the list of checksums: 64 digits and a name
_METADATA_BYTES = 8_000  # the arrays' and the group's JSON, whatever the size
_TOKEN_ARRAY_BYTES = 1_300  # token states: JSON and list entries of the array that each shard gets
_TOKEN_CHUNK_ROWS = 256  # a shard's token states end with a whole chunk: half of one more, on average
_STATISTICS = 4
# What a block holds of a token at its widest point, in widths of the model: residual, normalised, query, key, value,
# attention's output; and in widths of its inner layer: gate, up, their product.
_STATES = 6
_INNER_STATES = 3


@dataclass(frozen=True)
class KeptTokens:
    """The part of the token states that is kept, if not all of them, whole and in the cache's storage type."""

    layers: int
    width: int
    storage_type: str
    based: bool = False
    """Whether the values are those of a basis, which the cache then holds."""


@dataclass(frozen=True)
class Workload:
    """An extraction to plan: everything that its bytes and operations depend on."""

    texts: int
    tokens: int
    """Tokens of all texts, including special tokens but not padding."""
    layers: int
    """Layers that are kept; a model of B blocks has B + 1."""
    dim: int
    parameters: int
    flops_per_token: float
    """Two for every weight that is multiplied with a token; attention comes on top, see `flops`."""
    blocks: int
    """Blocks that are run."""
    intermediate: int
    """Width of a block's inner layer."""
    compute_bytes: int = 2
    """Bytes per weight or activation while computing: 2 in bfloat16 and float16, 4 in float32."""
    stored_bytes: int = 0
    """Bytes of the model's files; 0 means 2 per parameter."""
    held_bytes: int = 0
    """Bytes of the weights in memory if known; 0 means `compute_bytes` per parameter."""
    poolings: int = 1
    storage_type: str = "float16"
    shard_rows: int = 256
    token_states: bool = False
    kept_tokens: KeptTokens | None = None
    """Beside `token_states`: what is kept of them."""
    in_windows: bool = False
    """Whether long texts are read in windows, whose rows are put together beside those of the shard."""

    @property
    def shards(self) -> int:
        """How many shards hold the texts; the last one may be partly filled."""
        return -(-self.texts // self.shard_rows)

    @property
    def tokens_per_text(self) -> float:
        """Mean length of a text."""
        return self.tokens / self.texts

    @property
    def model_bytes(self) -> int:
        """Bytes of the model's files."""
        return self.stored_bytes or 2 * self.parameters

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in memory."""
        return self.held_bytes or self.parameters * self.compute_bytes

    @property
    def values(self) -> int:
        """Numbers that are stored."""
        return self.texts * self.poolings * self.layers * self.dim + self.tokens * self.token_values

    @property
    def token_values(self) -> int:
        """Numbers that are stored of a token."""
        kept = self.kept_tokens
        if not self.token_states:
            return 0
        return self.layers * self.dim if kept is None else kept.layers * kept.width

    @property
    def objects(self) -> int:
        """Files or objects that hold rows: one per shard and pooling, and what stands beside it."""
        kinds = self.poolings * (2 if self.storage_type == "int8" else 1) + (2 if self.token_states else 0)
        scaled = self.kept_tokens is not None and self.kept_tokens.storage_type in ("int8", "int4")
        return self.shards * (kinds + scaled)


def disk_bytes(work: Workload, storage_type: str | None = None) -> int:
    """Bytes of the finished cache, metadata included; the last shard takes a whole shard's room."""
    storage_type = storage_type or work.storage_type
    row = work.layers * work.dim
    size = VALUE_BYTES[storage_type]
    shard = work.shard_rows * row * size + work.layers * _CHUNK_BYTES + _INDEX_BYTES + _SUM_BYTES
    if storage_type == "int8":
        shard += row * _SCALE_BYTES + _SUM_BYTES
    fixed = _METADATA_BYTES + work.poolings * _STATISTICS * work.layers * 8
    total = work.shards * shard * work.poolings + work.texts * _TEXT_BYTES + fixed
    return total + _token_bytes(work, storage_type)


def _token_bytes(work: Workload, storage_type: str) -> int:
    kept = work.kept_tokens
    if not work.token_states:
        return 0
    if kept is None:
        rows = work.tokens + work.shards * _TOKEN_CHUNK_ROWS // 2
        values = rows * work.layers * work.dim * VALUE_BYTES[storage_type]
        return values + rows // _TOKEN_CHUNK_ROWS * work.layers * _CHUNK_BYTES + work.shards * _TOKEN_ARRAY_BYTES
    row = kept.layers * kept.width
    shard = kept.layers * (_CHUNK_BYTES + 4) + _TOKEN_ARRAY_BYTES  # its column of the binding
    if kept.storage_type in ("int8", "int4"):
        shard += row * _SCALE_BYTES + _SUM_BYTES
    basis = 4 * kept.layers * (2 * work.dim + kept.width * work.dim + 1) + _METADATA_BYTES // 2 if kept.based else 0
    stored = kept.layers * -(-round(2 * kept.width * TOKEN_VALUE_BYTES[kept.storage_type]) // 2)
    return work.tokens * stored + work.shards * shard + basis


def flops(work: Workload) -> float:
    """Operations of the forward passes, padding not counted.

    Attention adds 4 × length × dim for each token and block: two products with every token of the same text. Its
    length is the mean one, which is a little low where lengths differ much.
    """
    attention = 4 * work.tokens_per_text * work.dim * work.blocks
    return work.tokens * (work.flops_per_token + attention)


@dataclass(frozen=True)
class Memory:
    """The largest need of one worker, in bytes."""

    weights: int
    activations: int
    """One block's token states of one batch, and the float32 copy that pooling makes of one layer."""
    shards: int
    """Rows of the shards in flight in float32, and one shard encoded."""
    runtime: int = RUNTIME_BYTES

    @property
    def total(self) -> int:
        """Bytes needed on a machine without separate device memory."""
        return self.weights + self.activations + self.shards + self.runtime

    @property
    def device(self) -> int:
        """Bytes needed on the GPU; the rest is on the host."""
        return self.weights + self.activations


def peak_memory(work: Workload, batch_tokens: int) -> Memory:
    """The need of one worker. It depends neither on the number of texts nor on tokens × layers.

    Except with token states, where the rows of a shard are the states of all its tokens.
    """
    widest = _STATES * work.dim + _INNER_STATES * work.intermediate
    activations = batch_tokens * (widest * work.compute_bytes + 2 * work.dim * 4)
    pooled = work.shard_rows * work.poolings * work.layers * work.dim
    tokens = round(work.shard_rows * work.tokens_per_text * work.token_values)
    values, kind = pooled + tokens, work.kept_tokens.storage_type if work.kept_tokens else work.storage_type
    # The stored values, and the file made of them.
    encoded = round(2 * (pooled * VALUE_BYTES[work.storage_type] + tokens * TOKEN_VALUE_BYTES[kind]))
    return Memory(work.weight_bytes, activations, (SHARDS_IN_FLIGHT + work.in_windows) * values * 4 + encoded)
