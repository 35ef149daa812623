"""The extract stage: every layer of a frozen model over `texts.parquet`, into a cache."""

from __future__ import annotations

import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tqdm import tqdm

from ilse.callable import make_callable
from ilse.errors import UserError
from ilse.tables import TEXT_ID, TEXTS_FILE
from pipeline import store
from pipeline.capture.layers import chosen_layers
from pipeline.capture.reader import Request
from pipeline.cluster.executor import Executor, open_executor, threads_of
from pipeline.config import ExtractParams
from pipeline.forecast.estimate import estimate
from pipeline.forecast.todo import to_do_of
from pipeline.model.load import Compute, ModelFacts
from pipeline.work.donors import unlent, usable
from pipeline.work.lock import Lock, hold
from pipeline.work.order import in_order, row_order
from pipeline.work.scratch import Scratch, move_into_place, open_scratch, previous, scratch_name
from pipeline.work.shard import Job, Receipt, compute_shards, prepare_worker

# A task is a run of shards: long enough that reading, computing and writing overlap, short enough that a lost worker
# loses little and the bar moves.
TASK_SHARDS = 8
TASKS_A_WORKER = 4


def extract(params: ExtractParams, texts: Path, out: str | Path, scratch_root: Path) -> dict[str, Any]:
    """Writes the cache of `texts` to `out`, a folder or a URL, and returns the run's figures.

    Unfinished work stays under `scratch_root` (on the same disk as a local `out`), or beside a remote one: a run that
    was killed goes on with the shards that are missing. A finished cache that is damaged has its damaged shards
    computed again; one that is whole is left alone. Raises `UserError` for whatever the user can mend.
    """
    started = time.perf_counter()
    place = store.Location(out)
    text_ids = read_text_ids(texts)
    compute = compute_of(params)
    with open_executor(params.cluster) as executor:
        _say(f"loading {params.model.hub or params.model.path}")
        facts = executor.call(prepare_worker, params.model, compute)
        header = header_of(params, facts, len(text_ids))
        ready = time.perf_counter() - started
        with hold(_lock_place(place, scratch_root), f"extraction to {place}") as lock:
            receipts = _bring_about(executor, params, facts, header, text_ids, texts, place, scratch_root, ready, lock)
    return _figures(header, facts, receipts, store.open_cache(place), time.perf_counter() - started)


def compute_of(params: ExtractParams) -> Compute:
    """How the workers run the model."""
    return Compute(
        type=params.compute_type,
        device=params.device,
        threads=threads_of(params.threads, params.cluster),
        batch_tokens=params.batch_tokens,
        compile=params.compile,
        capture=params.capture,
    )


def request_of(params: ExtractParams, facts: ModelFacts) -> Request:
    """What is captured of the model."""
    return Request(chosen_layers(params.layers, len(facts.layers)), tuple(params.poolings), params.token_states)


def header_of(params: ExtractParams, facts: ModelFacts, texts: int) -> store.CacheHeader:
    """The header of the cache that these parameters make with this model."""
    capture = store.CaptureSpec(
        model=facts.identity,
        tokenizer=facts.tokenizer,
        layers=tuple(facts.layers[i] for i in chosen_layers(params.layers, len(facts.layers))),
        dim=facts.dim,
        max_tokens=min(params.max_tokens, facts.window),
        template=params.template,
        compute_type=facts.compute_type,
        storage_type=params.storage_type,
        poolings=tuple(params.poolings),
        token_states=params.token_states,
    )
    return store.CacheHeader(capture, texts, params.shard_rows, facts.name, facts.parameters, facts.versions)


def read_text_ids(texts: Path) -> store.TextIds:
    """The texts' identities as bytes, [texts, 16]: 16 bytes a text, where Python strings would take 81."""
    if not texts.is_file():
        raise UserError(
            f"texts {texts}",
            expected="the table of distinct texts that 'ilse prepare' writes",
            found="no such file",
            next_step="run 'ilse prepare' first, or 'dvc repro'",
        )
    table = pl.scan_parquet(texts).select(TEXT_ID)
    count = int(table.select(pl.len()).collect().item())
    if not count:
        raise UserError(
            f"texts {texts}",
            expected="at least one text",
            found="an empty table",
            next_step="check the source in section 'prepare'",
        )
    step = 65_536
    rows = np.empty((count, store.TEXT_ID_BYTES), np.uint8)
    for start in range(0, count, step):
        rows[start : start + step] = store.text_id_rows(table.slice(start, step).collect()[TEXT_ID].to_list())
    return rows


def _bring_about(
    executor: Executor,
    params: ExtractParams,
    facts: ModelFacts,
    header: store.CacheHeader,
    text_ids: store.TextIds,
    texts: Path,
    out: store.Location,
    scratch_root: Path,
    ready: float,
    lock: Lock,
) -> list[Receipt]:
    """Makes the cache at `out` be there and whole; returns the receipts of the shards that had to be made."""
    earlier = usable([*_own(out, scratch_root), *params.donors], header, named=False)
    order = row_order(text_ids, earlier)
    text_ids = text_ids[order]
    if _is_whole(out, header, text_ids):
        return []
    # `auto` was decided by the first worker's hardware; the others follow it.
    compute, request = replace(compute_of(params), type=facts.compute_type), request_of(params, facts)
    # Asked anew: a cache that was too damaged to be opened lends its rows once `_is_whole` has restored its metadata.
    donors = _donors(params, header, out, scratch_root)
    new = order[unlent(donors, header, text_ids)]
    if len(new):
        forecast = estimate(executor, params, compute, request, header, facts, texts, ready, to_do_of(texts, new))
        _say("\n".join(forecast.lines()))
    else:
        _say(f"an earlier cache holds all {header.texts:,} texts: nothing runs through the model")
    name = scratch_name(header, text_ids, repr(astuple(compute)))
    scratch = open_scratch(scratch_root, out, header, text_ids, name)
    table = in_order(texts, order, scratch_root / name / TEXTS_FILE)
    job = Job(params.model, compute, request, header, table, scratch, donors, secrets.token_hex(4))
    receipts = _compute_missing(executor, job, params.cluster.workers, lock)
    if out.is_local:
        # Reading it all once more costs little on a disk; from an object store it would move every byte again, and
        # each shard was read back when it was written.
        _require_whole(scratch, header.shards)
    lock.check()
    store.finish(scratch.cache, header, text_ids, scratch.records(header.shards))
    move_into_place(scratch, out, scratch_root)
    shutil.rmtree(scratch_root / name, ignore_errors=True)
    return receipts


def _is_whole(out: store.Location, header: store.CacheHeader, text_ids: store.TextIds) -> bool:
    """Whether the very cache that is asked for stands at `out`, every byte as it was written."""
    listed = store.listed_sums(out)
    if listed is None or not store.is_same_cache(listed, header, text_ids):
        if not _same_without_list(out, header, text_ids):
            _require_free(out, header)
        return False
    damages = list(store.verify(out))
    if not damages:
        _say(f"{out} is complete and every byte of it is as it was written: nothing to compute")
        return True
    _say(f"{out} is damaged in {len(damages)} files, such as {damages[0].file}: what is intact is kept")
    store.restore_metadata(out, header, text_ids)
    return False


def _same_without_list(out: store.Location, header: store.CacheHeader, text_ids: store.TextIds) -> bool:
    """Whether a cache whose list of checksums is damaged says of itself that it is the one that is asked for."""
    try:
        cache = store.open_cache(out)
        return cache.header == header and bool(np.array_equal(cache.text_id_rows(), text_ids))
    except UserError:
        return False


def _require_free(out: store.Location, header: store.CacheHeader) -> None:
    """A finished cache in an object store is not overwritten by another: no store swaps two in one step."""
    if out.is_local:
        return
    try:
        there, complete = store.peek(out)
    except UserError:
        return
    if complete:
        raise UserError(
            f"cache {out}",
            expected="no cache yet, or the same one",
            found=f"a finished cache of {there.texts:,} texts, capture {there.capture.fingerprint[:16]}",
            next_step="name another URL with --out and this one under extract.donors, or delete this one",
        )


def _donors(
    params: ExtractParams, header: store.CacheHeader, out: store.Location, scratch_root: Path
) -> tuple[str, ...]:
    own = usable(_own(out, scratch_root), header, named=False)
    return (*usable(params.donors, header, named=True), *own)


def _own(out: store.Location, scratch_root: Path) -> list[str]:
    """The cache that this run replaces, where it lies and under its second name."""
    return [str(out), *([str(previous(scratch_root, out))] if out.is_local else [])]


def _compute_missing(executor: Executor, job: Job, workers: int, lock: Lock) -> list[Receipt]:
    done = job.scratch.intact()
    job.scratch.forget_all_but(done)
    missing = [shard for shard in range(job.header.shards) if shard not in done]
    if done:
        _say(f"{len(done)} of {job.header.shards} shards are there from an earlier run")
    _require_space(job, len(missing))
    texts = job.header.texts - sum(_length(job.header.rows_of(shard)) for shard in missing)
    receipts: list[Receipt] = []
    with tqdm(total=job.header.texts, initial=texts, unit="text", desc="extract", file=sys.stderr) as bar:
        started = time.perf_counter()
        for finished in executor.each(compute_shards, job, list(_tasks(missing, workers))):
            lock.check()
            receipts += finished
            rate = sum(receipt.tokens for receipt in receipts) / (time.perf_counter() - started)
            bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
            bar.update(sum(receipt.texts for receipt in finished))
    return receipts


def _length(rows: slice) -> int:
    return int(rows.stop - rows.start)


def _tasks(missing: list[int], workers: int) -> Iterator[tuple[int, ...]]:
    length = max(1, min(TASK_SHARDS, len(missing) // (workers * TASKS_A_WORKER)))
    return (tuple(missing[start : start + length]) for start in range(0, len(missing), length))


def _require_whole(scratch: Scratch, shards: int) -> None:
    damaged = sorted(set(range(shards)) - scratch.intact())
    if damaged:
        raise UserError(
            f"cache {scratch.cache}",
            expected=f"{shards} shards as they were written",
            found=f"other bytes in {len(damaged)} of them, the first is shard {damaged[0]}",
            next_step="check the disk, then run the same command again: those shards alone are computed anew",
        )


def _require_space(job: Job, missing: int) -> None:
    if not job.scratch.cache.is_local:
        return
    need = job.header.bytes * missing // job.header.shards
    free = shutil.disk_usage(job.scratch.work.path).free
    if free < need:
        raise UserError(
            f"disk of {job.scratch.work}",
            expected=f"{need / 1e9:,.2f} GB free for {missing} shards",
            found=f"{free / 1e9:,.2f} GB free",
            next_step="free space, or move the project; finished shards are kept",
        )


def _lock_place(out: store.Location, scratch_root: Path) -> store.Location:
    return store.Location(scratch_root) if out.is_local else out.sibling(".unfinished")


def _figures(
    header: store.CacheHeader, facts: ModelFacts, receipts: list[Receipt], cache: store.Cache, seconds: float
) -> dict[str, Any]:
    computing = sum(receipt.seconds for receipt in receipts)
    tokens = sum(receipt.tokens for receipt in receipts)
    reused = sum(receipt.reused for receipt in receipts)
    computed = sum(receipt.texts for receipt in receipts) - reused
    _say(f"{computed:,} texts computed, {header.texts - computed:,} reused")
    return {
        "model": facts.name,
        "fingerprint": header.capture.fingerprint,
        "compute_type": facts.compute_type,
        "texts": header.texts,
        "texts_computed": computed,
        "texts_reused": header.texts - computed,
        "texts_truncated": int(cache.truncated().sum()),
        "tokens": int(cache.token_counts().sum()),
        "tokens_per_second": round(tokens / computing, 1) if computing else 0.0,
        "layers": len(header.capture.layers),
        "dim": header.capture.dim,
        "bytes": header.bytes,
        "seconds": round(seconds, 2),
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


make_callable(__name__, "pipeline.library.extract")
