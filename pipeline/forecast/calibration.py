"""A few seconds of real work on a worker, from which the time of a run is estimated."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ilse.core.files.table_files import scan_parquet
from ilse.core.machine.cpu_threads import cpu_threads
from ilse.core.tables import TEXT
from pipeline import store
from pipeline.capture.batching import Batch
from pipeline.capture.reader import Reader, Request
from pipeline.capture.tokens import Tokens, tokens_of
from pipeline.capture.windows import in_windows
from pipeline.config import ModelParams
from pipeline.forecast.costs import peak_memory
from pipeline.forecast.room import Room, most_tokens, room_here, round_down
from pipeline.forecast.workload import sampled_workload
from pipeline.model.load import Compute
from pipeline.tokenizer.unknown import Unknown
from pipeline.work.shard import reader_here, threads_here

SAMPLE_TEXTS = 2_000
SAMPLE_RUN = 64
"""Neighbouring texts that are sampled together: few places to read, and many enough that one source does not rule."""
SECONDS = 2.0
"""Seconds of computing after which a calibration ends if it has seen `LEAST_BATCHES`; it ends anyway after `LONGEST`
times as long. A batch that has begun is finished.
"""
LEAST_BATCHES, LONGEST = 4, 2.5
_WRITE_VALUES = 16_000_000  # of a shard that is written as a trial: a few tenths of a second


@dataclass(frozen=True)
class Calibration:
    """Measurements on the sample; rates are those of one worker."""

    texts: int
    tokens: int
    windows: int
    """Windows in which the model reads the texts: one per text where each is read in one piece."""
    tokens_read: int
    """Tokens of all windows: more than `tokens`, as windows overlap and each has its own special tokens."""
    spread: float
    """Standard error of the mean length, as a part of it; 0 when every text was counted."""
    padded_tokens: int
    """Tokens in the sample's batches, including padding."""
    shapes: int
    """Different (texts, length) among them."""
    padded_rate: float
    """Padded tokens per second, of shapes that were seen before."""
    first_seconds: float
    """Extra seconds of the first batch of a shape, compared with the next one."""
    shapes_seen: int
    """Shapes that this calibration ran: they are not new to this worker any more."""
    tokenise_rate: float
    """Tokens a second."""
    write_rate: float
    """Values a second: conversion, checksums, writing to this machine's temporary folder, reading back."""
    cpu_share: float
    """CPU time that the batches got, as a part of what its threads could have had; 1 on another device."""
    seconds: float
    """Seconds that the calibration itself took."""
    threads: int
    """CPU threads that the worker took."""
    batch: int
    """Tokens of the largest batch, padding included; where shards hold more texts than the sample, by their number."""
    longest: int
    """Tokens of the longest text, or of its longest window."""
    room: Room
    """Memory of the worker."""


def sample_texts(texts: Path, count: int) -> list[str]:
    """All `count` texts, or about `SAMPLE_TEXTS` of them in short runs spread evenly over the table."""
    table = scan_parquet(texts).select(TEXT)
    if count <= SAMPLE_TEXTS:
        everything: list[str] = table.collect()[TEXT].to_list()
        return everything
    starts = np.linspace(0, count - SAMPLE_RUN, SAMPLE_TEXTS // SAMPLE_RUN).astype(int)
    return [text for start in starts for text in table.slice(start, SAMPLE_RUN).collect()[TEXT].to_list()]


def calibrate(
    model: ModelParams,
    compute: Compute,
    request: Request,
    header: store.CacheHeader,
    texts: Sequence[str],
    seconds: float = SECONDS,
) -> Calibration:
    """Measures on this worker, with batches as the shards of `texts` have them.

    The texts are a sample of all, before anything is computed: raises `UserError` where the tokenizer does not know
    most of their words.

    The first batch of a shape is slower, kernels being compiled for it: each batch runs twice, both are kept apart.
    """
    with cpu_threads(threads_here(compute)):
        return _calibrate(model, compute, request, header, texts, seconds)


def _calibrate(
    model: ModelParams,
    compute: Compute,
    request: Request,
    header: store.CacheHeader,
    texts: Sequence[str],
    seconds: float,
) -> Calibration:
    started = time.perf_counter()
    reader = reader_here(model, compute, request)
    frozen = reader.frozen
    began = time.perf_counter()
    capture = header.capture
    names = [repr(text if len(text) <= 40 else f"{text[:40]}…") for text in texts]
    tokens = tokens_of(capture, frozen.tokenizer, frozen.facts.vocabulary, texts, names)
    tokenising = time.perf_counter() - began
    Unknown(frozen.tokenizer).see(texts, tokens)
    lengths = np.array([len(ids) for ids in tokens.ids])
    windows = [len(ids) for ids in in_windows(tokens).ids]
    work = _batches(tokens, reader, header, compute.batch_tokens)
    largest, room = _largest(work, len(texts), header, compute.batch_tokens), room_here(frozen.facts.device)
    need = peak_memory(sampled_workload(header, frozen.facts, request, int(lengths.sum()), len(texts)), largest)
    if (most := most_tokens(need, largest, room)) < largest:  # such a run is refused; what is measured here has to fit
        work = _batches(tokens, reader, header, max(1, round_down(most)))
    threads = threads_here(compute)
    wall, cpu = time.perf_counter(), time.process_time()
    firsts, agains, seen = _timed(reader, work, seconds)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    extra = np.array(firsts) - [took for took, _ in agains]
    return Calibration(
        texts=len(texts),
        tokens=int(lengths.sum()),
        windows=len(windows),
        tokens_read=sum(windows),
        spread=_standard_error(lengths, header.texts),
        padded_tokens=sum(batch.ids.numel() for batch in work),
        shapes=len({tuple(batch.ids.shape) for batch in work}),
        # Medians: on a machine that others use too, a single batch may take ten times as long.
        padded_rate=float(np.median([size / took for took, size in agains])),
        first_seconds=max(0.0, float(np.nanmedian(extra))),
        shapes_seen=seen,
        tokenise_rate=float(lengths.sum()) / tokenising,
        write_rate=_write_rate(header),
        cpu_share=min(1.0, cpu / wall / threads) if frozen.facts.device == "cpu" else 1.0,
        seconds=time.perf_counter() - started,
        threads=threads,
        batch=largest,
        longest=max(windows),
        room=room,
    )


def _largest(work: Sequence[Batch], sampled: int, header: store.CacheHeader, batch_tokens: int) -> int:
    """Tokens of the largest batch: `batch_tokens`, or fewer where a whole shard has no more."""
    found = max(batch.ids.numel() for batch in work)
    of_a_shard = min(header.shard_rows, header.texts)
    if of_a_shard <= sampled:
        return found
    return max(found, min(batch_tokens, found * of_a_shard // sampled))


def _timed(reader: Reader, work: Sequence[Batch], seconds: float) -> tuple[list[float], list[tuple[float, int]], int]:
    """Seconds of each batch's first run; seconds and padded tokens of its second; how many shapes were run."""
    reader.read(min(work, key=lambda batch: batch.ids.numel()))  # what is slow once a process is not the batches'
    firsts: list[float] = []
    agains: list[tuple[float, int]] = []
    shapes: set[tuple[int, ...]] = set()
    started = time.perf_counter()
    for batch in _spread_out(work):
        spent = time.perf_counter() - started
        if agains and spent > seconds * (1 if len(agains) >= LEAST_BATCHES else LONGEST):
            break
        shape = tuple(batch.ids.shape)
        firsts.append(_seconds(reader, batch) if shape not in shapes else np.nan)
        shapes.add(shape)
        agains.append((_seconds(reader, batch), batch.ids.numel()))
    return firsts, agains, len(shapes)


def _seconds(reader: Reader, batch: Batch) -> float:
    started = time.perf_counter()
    reader.read(batch)  # its rows are in main memory when it returns, so the device has finished
    return time.perf_counter() - started


def _spread_out(work: Sequence[Batch]) -> Iterator[Batch]:
    """Every batch once, in an order whose every beginning is spread over the lengths: by golden ratio."""
    by_length = sorted(work, key=lambda batch: (-batch.ids.shape[1], -batch.ids.shape[0]))
    places = (np.arange(len(work)) * 0.618_033_988_75) % 1
    return (by_length[i] for i in np.argsort(places))


def _batches(tokens: Tokens, reader: Reader, header: store.CacheHeader, batch_tokens: int) -> list[Batch]:
    """Every batch of the sample's shards."""
    shards = _shards(tokens, header.shard_rows)
    return [batch for shard in shards for batch in reader.batches(shard, batch_tokens)]


def _shards(tokens: Tokens, rows: int) -> Iterator[Tokens]:
    for start in range(0, len(tokens.ids), rows):
        yield tokens.take(range(start, min(start + rows, len(tokens.ids))))


def _standard_error(lengths: np.ndarray[tuple[int], np.dtype[np.int64]], population: int) -> float:
    """Standard error of the mean, relative to it. Neighbouring texts may be alike, so each run counts as one
    observation.
    """
    means = [lengths[start : start + SAMPLE_RUN].mean() for start in range(0, len(lengths), SAMPLE_RUN)]
    if len(means) < 2 or len(lengths) >= population:
        return 0.0
    unseen = np.sqrt(1 - len(lengths) / population)
    return float(np.std(means, ddof=1) / np.sqrt(len(means)) / np.mean(means) * unseen)


def _write_rate(header: store.CacheHeader) -> float:
    """Values a second of writing one shard, of as many rows as `_WRITE_VALUES` allow."""
    capture = replace(header.capture, poolings=("mean",), token_states=False)
    row = len(capture.layers) * capture.dim
    rows = max(1, min(header.shard_rows, _WRITE_VALUES // row))
    trial = replace(header, capture=capture, texts=rows, shard_rows=rows)
    values = np.random.default_rng(0).random((rows, len(capture.layers), capture.dim), np.float32)
    ids = [f"{i:032x}" for i in range(rows)]
    shard = store.ShardRows(ids, [1] * rows, [False] * rows, {"mean": values})
    with tempfile.TemporaryDirectory() as folder:
        location = store.Location(folder)
        started = time.perf_counter()
        store.write_shard(location, trial, 0, shard)
        return values.size / (time.perf_counter() - started)
