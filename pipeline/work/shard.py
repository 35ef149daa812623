"""The unit of work: a run of shards through the model, each to one write. Dask only decides where it runs.

Three things go on at once, each on one shard: the next one's texts are read and tokenised, this one is computed, the
last one is written and read back. Memory holds three shards' rows, whatever the run's length.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from ilse.tables import TEXT, TEXT_ID
from pipeline import store
from pipeline.capture.reader import Reader, Request
from pipeline.capture.tokens import Tokens, tokenise
from pipeline.cluster.executor import cores, worker_device
from pipeline.config import ModelParams
from pipeline.model.load import Compute, FrozenModel, ModelFacts, choose_device, load_model
from pipeline.work.donors import Loan, borrow
from pipeline.work.scratch import Scratch

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """What a worker needs to compute any shard of a cache; it travels with every task, so it is small."""

    model: ModelParams
    compute: Compute
    request: Request
    header: store.CacheHeader
    texts: Path
    scratch: Scratch
    donors: tuple[str, ...]
    run: str
    """Names this run of the command."""


@dataclass(frozen=True)
class Receipt:
    """What a task sends back of one shard: some hundred bytes, whatever the shard holds."""

    shard: int
    texts: int
    reused: int
    """Texts whose rows a donor gave."""
    tokens: int
    """Tokens that the model ran on."""
    seconds: float


@dataclass(frozen=True)
class _Input:
    """One shard before the model."""

    shard: int
    text_ids: list[str]
    tokens: Tokens
    loan: Loan | None


@dataclass(frozen=True)
class _Rows:
    """One shard behind the model: float32 [texts, layers, dim] a pooling, and [tokens, layers, dim]."""

    pooled: dict[str, store.FloatRows]
    token_states: store.FloatRows | None
    seconds: float


def prepare_worker(model: ModelParams, compute: Compute) -> ModelFacts:
    """Loads the model on this worker and says what it is."""
    return load_here(model, compute).facts


def load_here(model: ModelParams, compute: Compute) -> FrozenModel:
    """The model with this worker's cores and device, loaded once a process."""
    device = worker_device(choose_device(compute.device))
    return load_model(model, replace(compute, threads=compute.threads or cores(), device=device))


def compute_shards(job: Job, shards: Sequence[int]) -> list[Receipt]:
    """Computes, writes, verifies and records some shards, and returns a receipt of each.

    The same job and shard give the same bytes on every worker: batches depend on the shard's texts alone. A shard that
    has its record is left as it is: a task may run again after its worker was lost.
    """
    missing = [shard for shard in shards if job.scratch.recorded(shard) is None]
    frozen = load_here(job.model, job.compute)
    reader = reader_here(job.model, job.compute, job.request)
    receipts = []
    with ThreadPoolExecutor(1, "read") as before, ThreadPoolExecutor(1, "write") as after:
        writing: Future[Receipt] | None = None
        for work in _one_ahead(before, lambda shard: _read(job, frozen, shard), missing):
            rows = _compute(reader, job, work)
            if writing is not None:
                receipts.append(writing.result())
            writing = after.submit(_write, job, work, rows)
        if writing is not None:
            receipts.append(writing.result())
    return receipts


@functools.lru_cache(maxsize=1)
def reader_here(model: ModelParams, compute: Compute, request: Request) -> Reader:
    """The model on this worker made ready for one request, once a process."""
    return Reader(load_here(model, compute), request, compute.capture)


def _one_ahead(pool: ThreadPoolExecutor, function: Callable[[int], T], items: Sequence[int]) -> Iterator[T]:
    """Results in order; while the caller works on one, the next is made."""
    waiting: Future[T] | None = None
    for item in items:
        upcoming = pool.submit(function, item)
        if waiting is not None:
            yield waiting.result()
        waiting = upcoming
    if waiting is not None:
        yield waiting.result()


def _read(job: Job, frozen: FrozenModel, shard: int) -> _Input:
    place = job.header.rows_of(shard)
    table = pl.scan_parquet(job.texts).slice(place.start, place.stop - place.start).collect()
    text_ids = table[TEXT_ID].to_list()
    capture = job.header.capture
    tokens = tokenise(frozen.tokenizer, table[TEXT].to_list(), text_ids, capture.template, capture.max_tokens)
    loan = borrow(job.donors, job.run, store.text_id_rows(text_ids)) if job.donors else None
    return _Input(shard, text_ids, tokens, loan)


def _compute(reader: Reader, job: Job, work: _Input) -> _Rows:
    started = time.perf_counter()
    count, capture = len(work.text_ids), job.header.capture
    shape = (count, len(capture.layers), capture.dim)
    pooled = {pooling: np.empty(shape, np.float32) for pooling in capture.poolings}
    states: list[store.FloatRows] = [np.empty(0, np.float32)] * count
    todo = np.arange(count)
    if work.loan is not None:
        todo = np.flatnonzero(~work.loan.found)
        _put(work.loan, np.flatnonzero(work.loan.found), pooled, states)
    for positions, rows in reader.read_all(_some(work.tokens, todo), job.compute.batch_tokens):
        places = todo[positions.numpy()]
        for pooling, values in rows.pooled.items():
            pooled[pooling][places] = values.numpy()
        for place, text in zip(places, rows.tokens or [], strict=False):
            states[place] = text.numpy()
    token_states = np.concatenate(states) if capture.token_states else None
    return _Rows(pooled, token_states, time.perf_counter() - started)


def _put(
    loan: Loan, places: npt.NDArray[np.int64], pooled: dict[str, store.FloatRows], states: list[store.FloatRows]
) -> None:
    for pooling, values in loan.rows.items():
        pooled[pooling][places] = values
    for place, text in zip(places, loan.token_states or [], strict=False):
        states[place] = text


def _some(tokens: Tokens, chosen: npt.NDArray[np.int64]) -> Tokens:
    return Tokens(
        [tokens.ids[i] for i in chosen], [tokens.content[i] for i in chosen], [tokens.truncated[i] for i in chosen]
    )


def _write(job: Job, work: _Input, rows: _Rows) -> Receipt:
    counts = [len(ids) for ids in work.tokens.ids]
    content = store.ShardRows(work.text_ids, counts, work.tokens.truncated, rows.pooled, rows.token_states)
    record = store.write_shard(job.scratch.cache, job.header, work.shard, content)
    job.scratch.record(record)
    reused = 0 if work.loan is None else int(work.loan.found.sum())
    lent = 0 if work.loan is None else sum(np.array(counts)[work.loan.found])
    return Receipt(work.shard, len(counts), reused, int(sum(counts) - lent), rows.seconds)
