"""The unit of work: one shard's texts, through the model, to one write. Dask only decides where it runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ilse.tables import TEXT, TEXT_ID
from pipeline import store
from pipeline.batching import batches, tokenise
from pipeline.capture import pooled_layers, prove_capture
from pipeline.config import ModelParams
from pipeline.model import FrozenModel, ModelFacts, load_model, quieten
from pipeline.scratch import Scratch


@dataclass(frozen=True)
class Job:
    """What a worker needs to compute any shard of a cache; it travels with every task, so it is small."""

    model: ModelParams
    device: str
    threads: int
    batch_tokens: int
    header: store.CacheHeader
    texts: Path
    scratch: Scratch


@dataclass(frozen=True)
class Receipt:
    """What a finished task sends back: some hundred bytes, whatever the shard holds."""

    shard: int
    texts: int
    tokens: int
    seconds: float


def prepare_worker(model: ModelParams, compute_type: str, device: str, threads: int) -> ModelFacts:
    """Loads the model on this worker, proves capture on it and says what the model is."""
    quieten()
    frozen = load_model(model, compute_type, device, threads)
    prove_capture(frozen.model)
    return frozen.facts


def compute_shard(job: Job, shard: int) -> Receipt:
    """Computes, writes, verifies and records one shard.

    The same job and shard give the same bytes on every worker: batches depend on the shard's texts alone.
    """
    started = time.perf_counter()
    quieten()
    frozen = load_model(job.model, job.header.capture.compute_type, job.device, job.threads)
    place = job.header.rows_of(shard)
    table = pl.scan_parquet(job.texts).slice(place.start, place.stop - place.start).collect()
    capture = job.header.capture
    tokens = tokenise(
        frozen.tokenizer, table[TEXT].to_list(), table[TEXT_ID].to_list(), capture.template, capture.max_tokens
    )
    rows = _pooled_rows(frozen, tokens.ids, job.batch_tokens)
    counts = [len(row) for row in tokens.ids]
    record = store.write_shard(job.scratch.cache, shard, {"mean": rows}, counts, tokens.truncated)
    job.scratch.record(record)
    return Receipt(shard, len(counts), sum(counts), time.perf_counter() - started)


def _pooled_rows(frozen: FrozenModel, ids: list[list[int]], batch_tokens: int) -> store.FloatRows:
    """Float32 [texts of the shard, layers, dim], in the shard's order."""
    rows = np.empty((len(ids), len(frozen.facts.layers), frozen.facts.dim), np.float32)
    pad = frozen.tokenizer.pad_token_id or 0
    for batch in batches(ids, batch_tokens, pad):
        device = frozen.model.device
        pooled = pooled_layers(frozen.model, batch.ids.to(device), batch.mask.to(device))
        rows[batch.positions.numpy()] = pooled.cpu().numpy()
    return rows
