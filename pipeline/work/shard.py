"""The unit of work: a run of shards through the model, each to one write. Dask only decides where it runs.

Three things go on at once, each on one shard: the next one's texts are read and tokenised, this one is computed, the
last one is written and read back. Memory holds three shards' rows, whatever the run's length.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ilse.core.errors import UserError
from ilse.core.files.table_files import scan_parquet
from ilse.core.machine.cpu_threads import cpu_threads
from ilse.core.tables import TEXT, TEXT_ID
from pipeline import store
from pipeline.capture.projection import Projection
from pipeline.capture.reader import Reader, Request, reader_of
from pipeline.capture.tokens import Tokens, tokens_of
from pipeline.capture.windows import tokens_read
from pipeline.cluster.executor import worker_device
from pipeline.cluster.machine import cores
from pipeline.config import ModelParams
from pipeline.model.load import Compute, FrozenModel, ModelFacts, choose_device, in_memory, load_model
from pipeline.work.donors import Loan, Refusal, borrow
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
    refused: tuple[Refusal, ...] = ()
    """Shards of donors that hold texts of this one and were not what their lists say."""


@dataclass(frozen=True)
class _Input:
    """One shard before the model."""

    shard: int
    text_ids: list[str]
    tokens: Tokens
    loan: Loan | None
    refused: tuple[Refusal, ...]


@dataclass(frozen=True)
class _Rows:
    """One shard behind the model: float32 [texts, layers, dim] a pooling, and [tokens, token layers, token width]."""

    pooled: dict[str, store.FloatRows]
    token_states: store.FloatRows | None
    seconds: float


def prepare_worker(model: ModelParams, compute: Compute) -> ModelFacts:
    """Loads the model on this worker and says what it is."""
    with cpu_threads(threads_here(compute)):
        return load_here(model, compute).facts


@dataclass
class _Here:
    """What this process keeps from one task to the next: the latest model, and the latest reader."""

    model: FrozenModel | None = None
    reader: Reader | None = None


_HERE, _LOCK = _Here(), threading.RLock()


def load_here(model: ModelParams, compute: Compute) -> FrozenModel:
    """The model as its files are now, on this worker's device; kept until another one is asked for."""
    compute = replace(compute, device=worker_device(choose_device(compute.device)))
    with _LOCK:
        if in_memory(model, compute) is not _HERE.model:
            _HERE.model = _HERE.reader = None  # before another one is read: two may not fit
        _HERE.model = load_model(model, compute)
        return _HERE.model


def reader_here(model: ModelParams, compute: Compute, request: Request) -> Reader:
    """The loaded model, prepared for one request; kept in this process for the next call."""
    with _LOCK:
        _HERE.reader = reader_of(load_here(model, compute), request, compute.capture)
        return _HERE.reader


def projection_here(job: Job, reader: Reader) -> Projection | None:
    """The job's basis on this worker's device, from the cache that is being written; None where it has none."""
    tokens = job.header.capture.tokens
    if tokens is None or tokens.basis is None:
        return None
    return _projection(job.scratch.cache, tokens.basis, str(reader.frozen.facts.device))


@functools.lru_cache(maxsize=1)
def _projection(cache: store.Location, sha256: str, device: str) -> Projection:
    basis = store.read_basis(cache, store.peek(cache)[0])
    assert basis is not None
    assert basis.sha256 == sha256
    return Projection(basis, device)


def let_go() -> None:
    """Frees what this process keeps of models, unless someone else uses it."""
    with _LOCK:
        _HERE.model = _HERE.reader = None
        _projection.cache_clear()


def threads_here(compute: Compute) -> int:
    """CPU threads of a worker."""
    return compute.threads or cores()


class Shards(tuple[int, ...]):
    """The shards of one task, as a message names them."""

    def __str__(self) -> str:
        return f"shards {self[0]} to {self[-1]}" if len(self) > 1 else f"shard {self[0]}"


def compute_shards(job: Job, shards: Sequence[int]) -> list[Receipt]:
    """Computes, writes, verifies and records some shards, and returns a receipt of each.

    The same job and shard give the same bytes on every worker: batches depend on the shard's texts alone. A shard that
    has its record is left as it is: a task may run again after its worker was lost.
    """
    missing = [shard for shard in shards if job.scratch.recorded(shard) is None]
    with cpu_threads(threads_here(job.compute)):
        reader = reader_here(job.model, job.compute, job.request)
        _require_same_model(job, reader.frozen.facts)
        return _compute_missing(job, reader, missing) if missing else []


def _require_same_model(job: Job, found: ModelFacts) -> None:
    """Rows stand under the name of the model that the run began with: files may have changed since, or differ here."""
    capture = job.header.capture
    if (found.identity, found.tokenizer) != (dict(capture.model), capture.tokenizer):
        raise UserError(
            f"model {job.model.hub or job.model.path}",
            expected=f"the files that this run began with, {capture.model}, on every worker",
            found=f"{found.identity}" + (", with another tokenizer" if found.tokenizer != capture.tokenizer else ""),
            next_step="put the same files on every machine, do not change them during a run, and run the same command "
            "again; finished shards are kept",
        )


def _compute_missing(job: Job, reader: Reader, missing: Sequence[int]) -> list[Receipt]:
    frozen, receipts, projection = reader.frozen, list[Receipt](), projection_here(job, reader)
    with ThreadPoolExecutor(1, "read") as before, ThreadPoolExecutor(1, "write") as after:
        writing: Future[Receipt] | None = None
        for work in _one_ahead(before, lambda shard: _read(job, frozen, shard), missing):
            rows = _compute(reader, job, work, projection)
            if writing is not None:
                receipts.append(writing.result())
            writing = after.submit(_write, job, work, rows)
        if writing is not None:
            receipts.append(writing.result())
    return receipts


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
    table = scan_parquet(job.texts).slice(place.start, place.stop - place.start).collect()
    text_ids = table[TEXT_ID].to_list()
    capture = job.header.capture
    tokens = tokens_of(capture, frozen.tokenizer, frozen.facts.vocabulary, table[TEXT].to_list(), text_ids)
    refused: list[Refusal] = []
    loan = borrow(job.donors, job.run, store.text_id_rows(text_ids), refused.append) if job.donors else None
    return _Input(shard, text_ids, tokens, loan, tuple(refused))


def _compute(reader: Reader, job: Job, work: _Input, projection: Projection | None) -> _Rows:
    started = time.perf_counter()
    count, capture = len(work.text_ids), job.header.capture
    shape = (count, len(capture.layers), capture.dim)
    pooled = {pooling: np.empty(shape, np.float32) for pooling in capture.poolings}
    states: list[store.FloatRows] = [np.empty(0, np.float32)] * count
    todo = np.arange(count)
    if work.loan is not None:
        todo = np.flatnonzero(~work.loan.found)
        _put(work.loan, np.flatnonzero(work.loan.found), pooled, states)
    for positions, rows in reader.read_all(work.tokens.take(todo.tolist()), job.compute.batch_tokens, projection):
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


def _write(job: Job, work: _Input, rows: _Rows) -> Receipt:
    counts = [len(ids) for ids in work.tokens.ids]
    content = store.ShardRows(work.text_ids, counts, work.tokens.truncated, rows.pooled, rows.token_states)
    record = store.write_shard(job.scratch.cache, job.header, work.shard, content)
    job.scratch.record(record)
    reused = 0 if work.loan is None else int(work.loan.found.sum())
    new = work.tokens if work.loan is None else work.tokens.take(np.flatnonzero(~work.loan.found).tolist())
    return Receipt(work.shard, len(counts), reused, tokens_read(new), rows.seconds, work.refused)
