"""What token states cost: bytes a token by choice, reading speed against raw bytes, extraction against pooled rows.

    python -m benchmarks.tokens [--quick] [--model FOLDER_OR_FILE …] [--texts texts.parquet]

Reading is of made-up caches in the page cache: all shards by `Cache.shard_tokens`, against the store's reading of the
same files with their CRC-32C, in turn, by the processor's time. `read_fraction` is of rank 64 in int8,
`read_whole_fraction` of whole float16 states in a cache of `token_states: true`. `read_layer_fraction` is of one layer
of seven against a seventh of the raw time; of shards of 2.5 MB, as here, opening and proving the file is most of it.

Extraction is the worker's function with and without token states of rank 64 in int8, in turn, the model loaded, one
thread, on the same texts; `extraction_NAME` is the ratio of the processor's time, which other programs on the machine
hardly move. `basis_NAME_texts` is what the basis takes, once a cache: as many texts could have been extracted pooled.
`extraction_NAME_16000` is both, of as many texts as Emotion trains on. Layers are every fifth and the last one, and all
of a model of fewer than ten. Without `--model`, all-MiniLM-L6-v2; without `--texts`, the demo's news.

The last line is JSON; a machine that is too noisy for the reading's figures ends with exit code 1.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import google_crc32c
import numpy as np

from benchmarks.demo import RAW, demo_texts
from benchmarks.steady import QUICK_ENOUGH, report, rounds_until_steady
from ilse.core.params import load_section
from pipeline import store
from pipeline.config import ExtractParams
from pipeline.stages.extract import compute_of, header_of, read_text_ids, request_of
from pipeline.stages.fetch import FetchParams, fetch
from pipeline.work.bases import make_basis_here, read_sample, sample_rows
from pipeline.work.scratch import Scratch
from pipeline.work.shard import Job, compute_shards, prepare_worker, reader_here

RANK, LAYERS, DIM, TOKENS_A_TEXT, SHARD_ROWS = 64, 7, 384, 22, 256
ENOUGH = 0.2
"""Spread that is allowed: files in the page cache differ more from one reading to the next than arithmetic does."""


def main() -> None:
    """Measures, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few shards, texts and rounds")
    parser.add_argument("--model", action="append", type=Path, help="a folder, or a GGUF file; may be given again")
    parser.add_argument("--texts", type=Path, help="a table with text_id and text")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        caches = made_up_caches(folder, texts=1_024 if given.quick else 8_192)
        reading(caches)  # lists of texts and counts, once a cache
        rounds = rounds_until_steady(
            lambda: reading(caches), *((2, 6) if given.quick else (7, 21)), QUICK_ENOUGH if given.quick else ENOUGH
        )
        texts = given.texts or demo_texts(folder / "news", whole=False)
        figures: dict[str, Any] = {"bytes_a_token": bytes_a_token(caches)} | rounds.medians()
        for model in given.model or [minilm()]:
            figures |= extraction(model, texts, folder / "work", rounds=1 if given.quick else 3)
        report(figures, rounds)


def minilm() -> Path:
    """The model of section `fetch.minilm`, fetched where it is not there."""
    if not (RAW / "minilm").exists():
        fetch(load_section("fetch.minilm", FetchParams).root, RAW / "minilm")
    return RAW / "minilm"


def made_up_caches(folder: Path, texts: int) -> dict[str, store.Cache]:
    """A cache by choice; values are random, sizes those of Emotion under MiniLM."""
    names = tuple(f"block {i}" for i in range(LAYERS))
    random = np.random.default_rng(0)
    basis = store.Basis(
        np.zeros((LAYERS, DIM), np.float32),
        np.ones((LAYERS, DIM), np.float32),
        np.stack([np.eye(RANK, DIM, dtype=np.float32)] * LAYERS),
        np.ones(LAYERS, np.float32),
    )
    choices: dict[str, store.TokenSpec | bool] = {
        "whole float16": True,
        "whole int8": store.TokenSpec(names, None, "int8"),
        f"rank {RANK} float16": store.TokenSpec(names, RANK, "float16", basis.sha256),
        f"rank {RANK} int8": store.TokenSpec(names, RANK, "int8", basis.sha256),
    }
    caches = {}
    for name, choice in choices.items():
        spec = store.CaptureSpec(
            {"sha256": "0"}, "0", names, DIM, 128, "{text}", "float32", "float16", ("mean",), choice
        )
        header = store.CacheHeader(spec, texts // (8 if "whole" in name else 1), SHARD_ROWS, "made up", 1)
        caches[name] = _write(folder / f"{name}.zarr", header, basis, random)
    return caches


def _write(path: Path, header: store.CacheHeader, basis: store.Basis, random: np.random.Generator) -> store.Cache:
    location, ids = store.Location(path), [f"{i:032x}" for i in range(header.texts)]
    store.create(location, header, ids, basis)
    records = []
    for shard in range(header.shards):
        place = header.rows_of(shard)
        counts = [TOKENS_A_TEXT] * (place.stop - place.start)
        rows = np.zeros((len(counts), LAYERS, DIM), np.float32)
        states = random.standard_normal((sum(counts), LAYERS, header.capture.token_width), np.float32)
        content = store.ShardRows(ids[place], counts, [False] * len(counts), {"mean": rows}, states)
        records.append(store.write_shard(location, header, shard, content))
    store.finish(location, header, ids, records)
    return store.open_cache(path)


def bytes_a_token(caches: dict[str, store.Cache]) -> dict[str, float]:
    """Bytes of all files of token states, over the tokens; of seven layers."""
    sizes = {}
    for name, cache in caches.items():
        files = [size for prefix in ("tokens", "scale", "basis") for _, size in cache.location.list(prefix)]
        sizes[name] = round(sum(files) / (cache.header.texts * TOKENS_A_TEXT), 1)
    return sizes


def reading(caches: dict[str, store.Cache]) -> dict[str, float]:
    """Shares of the raw speed, of one round."""
    ranked, whole = caches[f"rank {RANK} int8"], caches["whole float16"]
    raw, raw_whole = _seconds(lambda: _raw(ranked)), _seconds(lambda: _raw(whole))
    return {
        "read_fraction": raw / _seconds(lambda: _read(ranked, None)),
        "read_layer_fraction": raw / LAYERS / _seconds(lambda: _read(ranked, [3])),
        "read_whole_fraction": raw_whole / _seconds(lambda: _read(whole, None)),
    }


def _raw(cache: store.Cache) -> None:
    for shard in range(cache.header.shards):
        google_crc32c.value(cache.location.get(f"tokens/{shard}/c/0/0/0"))


def _read(cache: store.Cache, layers: list[int] | None) -> None:
    for shard in range(cache.header.shards):
        cache.shard_tokens(shard, layers)


def _seconds(job: Callable[[], object]) -> float:
    """Of the processor: the files lie in the page cache, and other programs hardly move it."""
    started = time.process_time()
    job()
    return time.process_time() - started


def extraction(model: Path, texts: Path, folder: Path, rounds: int) -> dict[str, float]:
    """The processor's time with token states over that without; see above."""
    name, count = ("smollm2" if "smollm2" in model.name.lower() else model.stem), len(read_text_ids(texts))
    shards, based = list[float](), list[float]()
    plain, kept = _run(model, texts, folder, False), _run(model, texts, folder, True)
    plain(8)
    kept(8)  # what is slow once a process is nobody's
    for _ in range(rounds):
        pooled, (both, basis) = plain(None)[0], kept(None)
        shards.append(both / pooled)
        based.append(basis / pooled * count)
    ratio, once = median(shards), median(based)
    return {
        f"extraction_{name}": round(ratio, 3),
        f"basis_{name}_texts": round(once),
        f"extraction_{name}_16000": round(ratio + once / 16_000, 3),
    }


def _run(model: Path, texts: Path, folder: Path, tokens: bool) -> Callable[[int | None], tuple[float, float]]:
    """A whole cache, but for the calibration and the move into place: seconds of its shards, and of its basis."""
    values: dict[str, Any] = {"model": {"path": str(model)}, "max_tokens": 128, "shard_rows": SHARD_ROWS, "threads": 1}
    params = ExtractParams.model_validate(values)
    facts = prepare_worker(params.model, compute_of(params))
    if tokens:
        count = len(facts.layers)
        layers = list(range(count)) if count < 10 else [*range(0, count - 1, 5), count - 1]
        choice = {"layers": layers, "rank": RANK, "storage_type": "int8"}
        params = ExtractParams.model_validate({**values, "token_states": choice})
    compute, request, ids = (
        replace(compute_of(params), type=facts.compute_type),
        request_of(params, facts),
        read_text_ids(texts),
    )

    def run(some: int | None) -> tuple[float, float]:
        shutil.rmtree(folder, ignore_errors=True)
        own = ids[:some]
        header, basis = header_of(params, facts, len(own)), None
        reader_here(params.model, compute, request)  # its proofs are a process's, not a cache's
        started = time.process_time()
        if tokens:
            names, chosen = read_sample(texts, own, sample_rows(own))
            basis = make_basis_here(params.model, compute, request, header.capture, chosen, names)
            header = replace(header, capture=header.capture.with_basis(basis.sha256))
        based = time.process_time()
        scratch = Scratch(store.Location(folder / "cache"), store.Location(folder))
        store.create(scratch.cache, header, own, basis)
        compute_shards(Job(params.model, compute, request, header, texts, scratch, (), ""), range(header.shards))
        return time.process_time() - based, based - started

    return run


if __name__ == "__main__":
    main()
