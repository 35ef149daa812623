"""A task whose cache keeps token states, in which single tokens carry the label and a text's average does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline import store
from tests.trainer.conftest import DIM, LABELS, LAYERS, TELLING, Made

MAX_TOKENS = 9


def tokens_for(label: int, seed: int, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """[tokens, layers, dim]: noise of another scale in each layer, one token with the label and one against."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(count, len(LAYERS), DIM))
    direction = np.random.default_rng(99).normal(size=(len(LABELS), DIM))[label]
    telling = generator.permutation(count)
    values[telling[0], TELLING] += 4 * direction
    if count > 1:  # the average says nothing
        values[telling[1], TELLING] -= 4 * direction
    return (values * 10.0 ** np.arange(len(LAYERS))[:, None]).astype(np.float32)


def write_tokens(
    path: Path, ids: list[str], texts: list[np.ndarray[Any, np.dtype[np.float32]]], **capture: Any
) -> None:
    """A cache of these texts, with their means as pooled rows."""
    facts: dict[str, Any] = {
        "model": {"sha256": "00"}, "tokenizer": "11", "layers": LAYERS, "dim": DIM, "max_tokens": 16,
        "template": "{text}", "compute_type": "float32", "storage_type": "float32", "token_states": True,
    }  # fmt: skip
    header = store.CacheHeader(store.CaptureSpec(**{**facts, **capture}), len(ids), 16, "tiny", 1000, {})
    location = store.Location(path)
    store.create(location, header, ids)
    records = []
    for shard in range(header.shards):
        place = header.rows_of(shard)
        own = texts[place]
        mean = np.stack([text.sum(0) / max(len(text), 1) for text in own]).astype(np.float32)
        counts = [len(text) for text in own]
        pooled = dict.fromkeys(header.capture.poolings, mean)
        kept = [LAYERS.index(name) for name in header.capture.tokens.layers] if header.capture.tokens else []
        states = np.concatenate(own)[:, kept] if kept else None
        rows = store.ShardRows(ids[place], counts, [False] * len(own), pooled, states)
        records.append(store.write_shard(location, header, shard, rows))
    store.finish(location, header, ids, records)


def write_token_task(folder: Path, pairs: bool = False, seed: int = 0, **capture: Any) -> Made:
    """Examples of one text with a label, or of two with a label that says whether they are alike (0, 1)."""
    splits = ["train"] * 120 + ["validation"] * 40 + ["test"] * 40
    generator = np.random.default_rng(seed)
    labels = generator.integers(len(LABELS), size=len(splits) + 7)
    ids = [f"{i:032x}" for i in generator.permutation(10_000)[: len(labels)]]
    counts = generator.integers(1, MAX_TOKENS + 1, size=len(labels))
    texts = [tokens_for(int(label), i, int(n)) for i, (label, n) in enumerate(zip(labels, counts, strict=True))]
    order = generator.permutation(len(labels)).tolist()
    write_tokens(folder / "cache.zarr", [ids[i] for i in order], [texts[i] for i in order], **capture)
    size = len(splits)
    columns: dict[str, Any] = {"text_id": ids[:size], "source_row": range(size), "split": splits}
    if pairs:
        others = generator.permutation(size)
        alike = (labels[:size] == labels[others]).astype(int)
        columns |= {"pair_text_id": [ids[i] for i in others], "label": [("no", "yes")[i] for i in alike]}
        columns["label_index"] = alike
    else:
        columns |= {"label": [LABELS[i] for i in labels[:size]], "label_index": labels[:size]}
    table = pl.DataFrame(columns).sample(fraction=1, shuffle=True, seed=seed)
    table.write_parquet(folder / "examples.parquet")
    return Made(folder / "cache.zarr", folder / "examples.parquet", table, dict(zip(ids, texts, strict=True)))
