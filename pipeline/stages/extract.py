"""The extract stage: every layer of a frozen model over `texts.parquet`, into a cache."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ilse.core.errors import MissingError, UserError
from ilse.core.files.atomic import require_ours
from ilse.core.files.ownership import CACHE
from ilse.core.files.table_files import scan_parquet
from ilse.core.progress_bars import progress_bar
from ilse.core.tables import TEXT_ID, TEXTS_FILE
from ilse.core.terminal import say
from pipeline import store
from pipeline.capture.layers import chosen_layers
from pipeline.capture.reader import Request
from pipeline.cluster.executor import Executor, open_executor, threads_of
from pipeline.config import ExtractParams
from pipeline.forecast.estimate import estimate
from pipeline.forecast.todo import to_do_of
from pipeline.model.load import Compute, ModelFacts
from pipeline.work.bases import basis_of, forget_bases, kept_beside, other_bases
from pipeline.work.donors import Note, Refusal, refusals_in_words, unlent, usable
from pipeline.work.lock import Lock, hold
from pipeline.work.order import in_order, row_order
from pipeline.work.scratch import Scratch, move_into_place, open_scratch, previous, scratch_name
from pipeline.work.settings import Settings, keep_settings, settings_of
from pipeline.work.shard import Job, Receipt, Shards, compute_shards, let_go, prepare_worker
from pipeline.work.standing import is_whole, standing
from pipeline.work.token_choice import token_choice, token_layers
from pipeline.work.window_choice import window_choice

# A task is a run of shards: long enough that reading, computing and writing overlap, short enough that a lost worker
# loses little and the bar moves.
TASK_SHARDS = 8
TASKS_A_WORKER = 4


def extract(params: ExtractParams, texts: Path, out: str | Path, scratch_root: Path) -> dict[str, Any]:
    """Writes the cache of `texts` to `out`, a folder or a URL, and returns the run's figures.

    Unfinished work stays under `scratch_root` (on the same disk as a local `out`), or beside a remote one: a run that
    was killed resumes with the missing shards. A finished cache that is damaged has its damaged shards
    computed again; one that is whole is left alone. Raises `UserError` for whatever the user can mend.
    """
    started = time.perf_counter()
    place = store.Location(out)
    if place.is_local:
        require_ours(place.path, CACHE, "--out")
    text_ids = read_text_ids(texts)
    compute = compute_of(params)
    with ExitStack() as ending:
        executor = ending.enter_context(open_executor(params.cluster))
        ending.callback(let_go)  # where the shards were computed in this process
        say(f"loading {params.model.hub or params.model.path}")
        facts = executor.call(prepare_worker, params.model, compute)
        header = header_of(params, facts, len(text_ids))
        ready = time.perf_counter() - started
        with hold(_lock_place(place, scratch_root), f"extraction to {place}") as lock:
            header, basis = _with_basis(executor, params, facts, header, text_ids, texts, place, scratch_root)
            receipts = _bring_about(
                executor, params, facts, header, basis, text_ids, texts, place, scratch_root, ready, lock
            )
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
    """The request for what is captured from the model."""
    layers, tokens = chosen_layers(params.layers, len(facts.layers)), token_layers(params, facts)
    return Request(layers, tuple(params.poolings), tokens or False)


def header_of(params: ExtractParams, facts: ModelFacts, texts: int) -> store.CacheHeader:
    """The header of the cache that these parameters make with this model; without a basis, which texts decide."""
    capture = store.CaptureSpec(
        model=facts.identity,
        tokenizer=facts.tokenizer,
        layers=tuple(facts.layers[i] for i in chosen_layers(params.layers, len(facts.layers))),
        dim=facts.dim,
        max_tokens=params.limit(facts.window),
        template=params.template,
        compute_type=facts.compute_type,
        storage_type=params.storage_type,
        poolings=tuple(params.poolings),
        token_states=token_choice(params, facts),
        windows=window_choice(params, facts),
        noise=None if params.noise is None else store.NoiseSpec(**params.noise.model_dump()),
    )
    return store.CacheHeader(capture, texts, params.shard_rows, facts.name, facts.parameters, facts.versions)


def read_text_ids(texts: Path) -> store.TextIds:
    """The texts' identities as bytes, [texts, 16]: 16 bytes per text, where Python strings would take 81."""
    if not texts.is_file():
        raise MissingError(
            f"texts {texts}",
            expected="the table of distinct texts that 'ilse prepare' writes",
            found="no such file",
            next_step="run 'ilse prepare' first, or 'dvc repro'",
        )
    table = scan_parquet(texts).select(TEXT_ID)
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


def _with_basis(
    executor: Executor,
    params: ExtractParams,
    facts: ModelFacts,
    header: store.CacheHeader,
    text_ids: store.TextIds,
    texts: Path,
    out: store.Location,
    scratch_root: Path,
) -> tuple[store.CacheHeader, store.Basis | None]:
    """The header with the basis that its token states are in, where they are in one; and that basis."""
    compute = replace(compute_of(params), type=facts.compute_type)
    earlier, kept = [*_own(out, scratch_root), *params.donors], kept_beside(out, scratch_root)
    request = request_of(params, facts)
    basis = basis_of(executor, params.model, compute, request, header.capture, texts, text_ids, earlier, kept)
    if basis is None:
        return header, None
    header = replace(header, capture=header.capture.with_basis(basis.sha256))
    for line in other_bases(header.capture, params.donors):
        say(line)
    return header, basis


def _bring_about(
    executor: Executor,
    params: ExtractParams,
    facts: ModelFacts,
    header: store.CacheHeader,
    basis: store.Basis | None,
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
    there = standing(out, header, text_ids)
    if there is not None and is_whole(out, there, header, text_ids, basis):
        return []
    header = there or header  # a cache that is mended keeps its notes
    # `auto` was decided by the first worker's hardware; the others follow it.
    compute, request = replace(compute_of(params), type=facts.compute_type), request_of(params, facts)
    # Asked again: a cache that was too damaged to be opened lends its rows once `is_whole` has restored its metadata.
    refused: list[Refusal] = []
    donors = _donors(params, header, out, scratch_root, refused.append)
    _say_refused(refused)
    new = order[unlent(donors, header, text_ids)]
    if len(new):
        forecast = estimate(executor, params, compute, request, header, facts, texts, ready, to_do_of(texts, new))
        say("\n".join(forecast.lines()))
        if forecast.lacking:
            raise forecast.lacking
    else:
        say(f"an earlier cache holds all {header.texts:,} texts: nothing runs through the model")
    name = scratch_name(header, text_ids)
    scratch = open_scratch(scratch_root, out, header, text_ids, name, basis)
    table = in_order(texts, order, scratch_root / name / TEXTS_FILE, text_ids)
    job = Job(params.model, compute, request, header, table, scratch, donors, secrets.token_hex(4))
    settings = settings_of(compute, facts.device, facts.versions)
    workers = max(params.cluster.workers, executor.workers)
    receipts = _compute_missing(executor, job, text_ids, settings, workers, lock)
    _say_refused([refusal for receipt in receipts for refusal in receipt.refused])
    if out.is_local:
        # Reading it all once more costs little on a disk; from an object store it would move every byte again, and
        # each shard was read back when it was written.
        _require_whole(scratch, header, text_ids)
    lock.check()
    store.finish(scratch.cache, header, text_ids, scratch.records(header.shards))
    move_into_place(scratch, out, scratch_root)
    shutil.rmtree(scratch_root / name, ignore_errors=True)
    if basis is not None:
        forget_bases(kept_beside(out, scratch_root))
    return receipts


def _donors(
    params: ExtractParams, header: store.CacheHeader, out: store.Location, scratch_root: Path, note: Note
) -> tuple[str, ...]:
    own = usable(_own(out, scratch_root), header, named=False, note=note)
    return (*usable(params.donors, header, named=True), *own)


def _own(out: store.Location, scratch_root: Path) -> list[str]:
    """The cache that this run replaces, where it lies and under its second name."""
    return [str(out), *([str(previous(scratch_root, out))] if out.is_local else [])]


def _say_refused(refusals: Sequence[Refusal]) -> None:
    for line in refusals_in_words(refusals):
        say(line)


def _compute_missing(
    executor: Executor, job: Job, text_ids: store.TextIds, settings: Settings, workers: int, lock: Lock
) -> list[Receipt]:
    done = job.scratch.intact(job.header, text_ids)
    job.scratch.forget_all_but(done)
    missing = [shard for shard in range(job.header.shards) if shard not in done]
    if done:
        say(f"{len(done)} of {job.header.shards} shards are there from an earlier run")
    if changed := keep_settings(job.scratch, settings, len(done)):
        say(
            f"computed with other settings, {', '.join(changed)}: new rows may differ in their last digits from those "
            f"of a run in one go; for such a run, delete {job.scratch.work} first"
        )
    _require_space(job, len(missing))
    texts = job.header.texts - sum(_length(job.header.rows_of(shard)) for shard in missing)
    receipts: list[Receipt] = []
    with progress_bar(job.header.texts, "extract", "text", done=texts, delay=0.0) as bar:
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


def _tasks(missing: list[int], workers: int) -> Iterator[Shards]:
    length = max(1, min(TASK_SHARDS, len(missing) // (workers * TASKS_A_WORKER)))
    return (Shards(missing[start : start + length]) for start in range(0, len(missing), length))


def _require_whole(scratch: Scratch, header: store.CacheHeader, text_ids: store.TextIds) -> None:
    shards = header.shards
    damaged = sorted(set(range(shards)) - scratch.intact(header, text_ids))
    if damaged:
        raise UserError(
            f"cache {scratch.cache}",
            expected=f"{shards} shards as they were written",
            found=f"other bytes in {len(damaged)} of them, the first is shard {damaged[0]}",
            next_step="check the disk, then run the same command again: only those shards are computed again",
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
    say(f"{computed:,} texts computed, {header.texts - computed:,} reused")
    return {
        **_token_figures(cache),
        "model": facts.name,
        "fingerprint": header.capture.fingerprint,
        "compute_type": facts.compute_type,
        "texts": header.texts,
        "texts_computed": computed,
        "texts_reused": header.texts - computed,
        "texts_truncated": int(cache.truncated().sum()),
        **_window_figures(cache),
        "tokens": int(cache.token_counts().sum()),
        "tokens_per_second": round(tokens / computing, 1) if computing else 0.0,
        "layers": len(header.capture.layers),
        "dim": header.capture.dim,
        "bytes": header.bytes,
        "seconds": round(seconds, 2),
    }


def _window_figures(cache: store.Cache) -> dict[str, Any]:
    """How many texts are longer than a window, where they are read in windows."""
    windows = cache.header.capture.windows
    return {} if windows is None else {"texts_in_windows": int((cache.token_counts() > windows.tokens).sum())}


def _token_figures(cache: store.Cache) -> dict[str, Any]:
    """Figures about token states, if any are kept."""
    tokens, basis = cache.header.capture.tokens, cache.basis() if cache.token_layers else None
    if tokens is None:
        return {}
    shares = (
        {}
        if basis is None
        else {name: round(float(share), 4) for name, share in zip(tokens.layers, basis.share, strict=True)}
    )
    if shares:
        low, high = min(shares.values()), max(shares.values())
        say(f"the basis keeps {low:.0%} to {high:.0%} of the variance of each layer's token states")
    return {"token_layers": len(tokens.layers), "token_width": cache.token_width, "token_variance_kept": shares}
