"""The extract stage: every layer of a frozen model over `texts.parquet`, into a cache."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock, Timeout
from tqdm import tqdm

from ilse.errors import UserError
from ilse.tables import TEXT_ID
from pipeline import store
from pipeline.config import ExtractParams
from pipeline.executor import Executor, open_executor, threads_of
from pipeline.model import ModelFacts
from pipeline.scratch import move_into_place, open_scratch, sweep
from pipeline.shard import Job, Receipt, compute_shard, prepare_worker


def extract(params: ExtractParams, texts: Path, out: Path, scratch_root: Path) -> dict[str, Any]:
    """Writes the cache of `texts` to `out` and returns the run's figures (texts, tokens, seconds, bytes, …).

    Unfinished work stays under `scratch_root` (on the same disk as `out`): a run that was killed goes on with the
    shards that are missing. Raises `UserError` for whatever the user can mend.
    """
    started = time.perf_counter()
    text_ids = _read_text_ids(texts)
    threads = threads_of(params.threads, params.cluster)
    with open_executor(params.cluster) as executor:
        _say(f"loading {params.model.hub or params.model.path}")
        facts = executor.call(prepare_worker, params.model, params.compute_type, params.device, threads)
        header = plan(params, facts, len(text_ids))
        _say(_summary(header, facts))
        with _only_extraction(scratch_root):
            scratch = open_scratch(scratch_root, header, text_ids)
            sweep(scratch)
            job = Job(params.model, facts.device, threads, params.batch_tokens, header, texts, scratch)
            receipts = _compute_missing(executor, job)
            records = list(scratch.recorded().values())
            store.finish(scratch.cache, records)
            move_into_place(scratch, out)
    return _figures(header, facts, receipts, records, time.perf_counter() - started)


def plan(params: ExtractParams, facts: ModelFacts, texts: int) -> store.CacheHeader:
    """The header of the cache that these parameters make with this model."""
    capture = store.CaptureSpec(
        model=facts.identity,
        tokenizer=facts.tokenizer,
        layers=facts.layers,
        dim=facts.dim,
        max_tokens=min(params.max_tokens, facts.window),
        template=params.template,
        compute_type=facts.compute_type,
        storage_type=params.storage_type,
        poolings=(params.pooling,),
    )
    return store.CacheHeader(capture, texts, params.shard_rows, facts.name, facts.parameters, facts.versions)


def _compute_missing(executor: Executor, job: Job) -> list[Receipt]:
    done = job.scratch.recorded()
    missing = [shard for shard in range(job.header.shards) if shard not in done]
    if done:
        _say(f"{len(done)} of {job.header.shards} shards are there from an earlier run")
    _require_space(job, len(missing))
    receipts = []
    tokens = 0
    texts = sum(len(record.token_count) for record in done.values())
    with tqdm(total=job.header.texts, initial=texts, unit="text", desc="extract", file=sys.stderr) as bar:
        started = time.perf_counter()
        for receipt in executor.each(compute_shard, job, missing):
            receipts.append(receipt)
            tokens += receipt.tokens
            bar.set_postfix_str(f"{tokens / (time.perf_counter() - started):,.0f} tokens/s", refresh=False)
            bar.update(receipt.texts)
    return receipts


def _read_text_ids(texts: Path) -> list[str]:
    if not texts.is_file():
        raise UserError(
            f"texts {texts}",
            expected="the table of distinct texts that 'ilse prepare' writes",
            found="no such file",
            next_step="run 'ilse prepare' first, or 'dvc repro'",
        )
    ids: list[str] = pl.read_parquet(texts, columns=[TEXT_ID])[TEXT_ID].to_list()
    if not ids:
        raise UserError(
            f"texts {texts}",
            expected="at least one text",
            found="an empty table",
            next_step="check the source in section 'prepare'",
        )
    return ids


def _require_space(job: Job, missing: int) -> None:
    need = job.header.bytes * missing // job.header.shards
    free = shutil.disk_usage(job.scratch.folder).free
    if free < need:
        raise UserError(
            f"disk of {job.scratch.folder}",
            expected=f"{need / 1e9:,.2f} GB free for {missing} shards",
            found=f"{free / 1e9:,.2f} GB free",
            next_step="free space, or move the project; finished shards are kept",
        )


@contextmanager
def _only_extraction(scratch_root: Path) -> Iterator[None]:
    """Holds the scratch folder's lock, which the system takes back from a process that dies."""
    scratch_root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(scratch_root / "lock", blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"scratch folder {scratch_root}",
            expected="one extraction at a time",
            found="another one that is running",
            next_step="wait for it, or end it; its finished shards are kept",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _summary(header: store.CacheHeader, facts: ModelFacts) -> str:
    return (
        f"{facts.name}: {facts.architecture}, {facts.parameters / 1e6:,.1f} M parameters, {len(facts.layers)} layers "
        f"of width {facts.dim}; computing in {facts.compute_type} on {facts.device}\n"
        f"{header.texts:,} texts, {header.shards} shards, {header.bytes / 1e6:,.1f} MB as "
        f"{header.capture.storage_type}; texts are cut at {header.capture.max_tokens} tokens"
    )


def _figures(
    header: store.CacheHeader,
    facts: ModelFacts,
    receipts: list[Receipt],
    records: list[store.ShardRecord],
    seconds: float,
) -> dict[str, Any]:
    computing = sum(receipt.seconds for receipt in receipts)
    return {
        "model": facts.name,
        "fingerprint": header.capture.fingerprint,
        "compute_type": facts.compute_type,
        "texts": header.texts,
        "texts_computed": sum(receipt.texts for receipt in receipts),
        "texts_truncated": sum(sum(record.truncated) for record in records),
        "tokens": sum(sum(record.token_count) for record in records),
        "tokens_per_second": round(sum(r.tokens for r in receipts) / computing, 1) if computing else 0.0,
        "layers": len(header.capture.layers),
        "dim": header.capture.dim,
        "bytes": header.bytes,
        "seconds": round(seconds, 2),
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
