"""Workload of the local model and texts, from a sample of the texts."""

from __future__ import annotations

from pipeline.capture.reader import Request
from pipeline.forecast.costs import KeptTokens, Workload
from pipeline.model.load import COMPUTE_TYPES, ModelFacts
from pipeline.store import CacheHeader, TokenSpec


def sampled_workload(header: CacheHeader, facts: ModelFacts, request: Request, tokens: int, texts: int) -> Workload:
    """The workload of a cache with this header, from the token counts of a sample of its texts."""
    all_blocks = len(facts.layers) - 1
    blocks = min(max(request.layers) + 1, all_blocks)
    return Workload(
        texts=header.texts,
        tokens=round(tokens * header.texts / texts),
        layers=len(header.capture.layers),
        dim=facts.dim,
        parameters=facts.parameters,
        flops_per_token=facts.flops_per_token * blocks / all_blocks,
        blocks=blocks,
        intermediate=4 * facts.dim,
        compute_bytes=COMPUTE_TYPES[facts.compute_type].itemsize,
        stored_bytes=facts.stored_bytes,
        held_bytes=facts.bytes,
        poolings=len(header.capture.poolings),
        storage_type=header.capture.storage_type,
        shard_rows=header.shard_rows,
        token_states=bool(header.capture.token_states),
        kept_tokens=_kept(header),
        in_windows=header.capture.windows is not None,
    )


def _kept(header: CacheHeader) -> KeptTokens | None:
    tokens = header.capture.token_states
    if not isinstance(tokens, TokenSpec):
        return None
    return KeptTokens(len(tokens.layers), header.capture.token_width, tokens.storage_type, tokens.rank is not None)
