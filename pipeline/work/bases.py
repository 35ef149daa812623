"""Finds the basis of a cache's token states: from an earlier cache, an earlier run, or a sample of the texts.

Rows in another basis are other rows, so a basis is made once and kept: by the cache that holds it, by the caches that
replace that one, and by those that it lends rows to. Until a first cache is finished its basis stays next to the
unfinished work, under the name of what it is of:

    <scratch>/bases/<capture and sample>.npz      or <out>.unfinished/bases/… in an object store
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ilse.core.errors import UserError
from ilse.core.files.table_files import scan_parquet
from ilse.core.machine.cpu_threads import cpu_threads
from ilse.core.tables import TEXT, TEXT_ID
from ilse.core.terminal import say
from pipeline import store
from pipeline.capture.directions import SAMPLE_TEXTS, SAMPLE_TOKENS, make_basis
from pipeline.capture.reader import Request
from pipeline.capture.tokens import tokens_of
from pipeline.cluster.executor import Executor
from pipeline.config import ModelParams
from pipeline.model.load import Compute
from pipeline.work.shard import reader_here, threads_here

FOLDER = "bases"


def basis_of(
    executor: Executor,
    model: ModelParams,
    compute: Compute,
    request: Request,
    capture: store.CaptureSpec,
    texts: Path,
    text_ids: store.TextIds,
    earlier: Sequence[str],
    kept: store.Location,
) -> store.Basis | None:
    """The basis of a capture that does not name one yet; None where it needs none.

    That of the first `earlier` cache of the same capture, or the one that a run before this left in `kept`, or a new
    one of the sample, which is then left there. Raises `UserError` where the model fails on the sample.
    """
    tokens = capture.tokens
    if tokens is None or tokens.rank is None:
        return None
    lent = _lent(capture, earlier)
    if lent is not None:
        return lent
    sample = sample_rows(text_ids)
    name = _name(capture, text_ids[sample])
    found = _kept(kept, name, capture)
    if found is None:
        ids, chosen = read_sample(texts, text_ids, sample)
        say(f"a basis of rank {tokens.rank} for the token states of {len(tokens.layers)} layers, from a sample")
        found = executor.call(make_basis_here, model, compute, request, capture, chosen, ids)
        kept.put(name, found.to_bytes())
    return found


def forget_bases(kept: store.Location) -> None:
    """Removes what unfinished runs left, once a cache holds its basis."""
    for name in [name for name, _ in kept.list()]:
        kept.delete(name)
    if kept.is_local:
        with suppress(OSError):
            kept.path.rmdir()


def kept_beside(out: store.Location, scratch_root: Path) -> store.Location:
    """Folder in which bases wait until their cache is written."""
    return store.Location(scratch_root / FOLDER) if out.is_local else out.sibling(f".unfinished/{FOLDER}")


def other_bases(capture: store.CaptureSpec, donors: Sequence[str]) -> list[str]:
    """A line for each donor that is of this capture, but in another basis."""
    lines = []
    for donor in donors:
        there = _capture(donor)
        if there is not None and there.without_basis == capture.without_basis and there != capture:
            lines.append(
                f"donor {donor} lends nothing: its token states are in another basis; of two caches of the same "
                "capture, the one that is replaced and then the first donor give theirs"
            )
    return lines


def sample_rows(text_ids: store.TextIds) -> npt.NDArray[np.int64]:
    """The rows of the texts with the smallest ids, in the order of these: the same texts wherever they stand."""
    firsts = np.ascontiguousarray(text_ids[:, :8]).view(">u8").reshape(-1).astype(np.uint64)
    count = min(SAMPLE_TEXTS, len(firsts))
    smallest = np.argpartition(firsts, count - 1)[:count]
    return np.asarray(smallest[np.argsort(firsts[smallest], kind="stable")], np.int64)


def make_basis_here(
    model: ModelParams,
    compute: Compute,
    request: Request,
    capture: store.CaptureSpec,
    texts: Sequence[str],
    text_ids: Sequence[str],
) -> store.Basis:
    """The basis of a sample, on this worker, read as the shards will be."""
    with cpu_threads(threads_here(compute)):
        reader = reader_here(model, compute, request)
        if capture.windows is not None:  # such a text may be a book: its beginning stands for it
            limit = max(capture.windows.tokens + 1, SAMPLE_TOKENS)
            capture = replace(capture, max_tokens=min(capture.max_tokens or limit, limit))
        tokens = tokens_of(capture, reader.frozen.tokenizer, reader.frozen.facts.vocabulary, texts, text_ids)
        spec = capture.tokens
        assert spec is not None
        assert spec.rank is not None
        return make_basis(reader, tokens, spec.rank, compute.batch_tokens)


def _lent(capture: store.CaptureSpec, earlier: Sequence[str]) -> store.Basis | None:
    for place in earlier:
        there = _capture(place)
        if there is None or there.without_basis != capture.without_basis:
            continue
        with suppress(UserError):  # damaged: another one may hold it
            return store.read_basis(store.Location(place), store.peek(place)[0])
    return None


def _capture(place: str) -> store.CaptureSpec | None:
    """Capture of a finished cache; None if there is none to read."""
    try:
        header, complete = store.peek(place)
    except UserError:
        return None
    return header.capture if complete else None


def _kept(kept: store.Location, name: str, capture: store.CaptureSpec) -> store.Basis | None:
    tokens = capture.tokens
    assert tokens is not None
    try:
        basis = store.Basis.from_bytes(kept.get(name))
    except (FileNotFoundError, UserError):  # none, or one that a power cut left
        return None
    return basis if basis.directions.shape == (len(tokens.layers), tokens.rank, capture.dim) else None


def _name(capture: store.CaptureSpec, sample: store.TextIds) -> str:
    digest = hashlib.sha256(f"{capture.fingerprint}\n".encode() + np.ascontiguousarray(sample).tobytes())
    return f"{digest.hexdigest()[:32]}.npz"


def read_sample(texts: Path, text_ids: store.TextIds, sample: npt.NDArray[np.int64]) -> tuple[list[str], list[str]]:
    """Ids and texts of the sample, in its order."""
    ids = [text_ids[row].tobytes().hex() for row in sample]
    found = scan_parquet(texts).select(TEXT_ID, TEXT).filter(pl.col(TEXT_ID).is_in(ids)).collect()
    by_id = dict(found.iter_rows())
    return ids, [by_id[one] for one in ids]
