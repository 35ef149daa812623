"""The extract stage on a tiny model, for the tests that run it as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline import store
from pipeline.config import ExtractParams
from pipeline.stages.extract import extract

TEXTS = 50


def params_for(model: Path, **changes: Any) -> ExtractParams:
    values = {
        "model": {"path": str(model)},
        "compute_type": "float32",
        "max_tokens": 10,
        "batch_tokens": 64,
        "shard_rows": 8,
        "threads": 1,
        "cluster": {"kind": "synchronous"},
    }
    return ExtractParams.model_validate({**values, **changes})


def files_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def run(params: ExtractParams, texts: Path, folder: Path) -> dict[str, Any]:
    return extract(params, texts, folder / "cache.zarr", folder / "scratch")


def read_all(path: Path) -> np.ndarray[Any, Any]:
    cache = store.open_cache(path)
    return np.concatenate([cache.read(place) for place in cache.shards()])


def slowed_down(folder: Path) -> Path:
    site = folder / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(
        "import importlib.abc, sys, time\n"
        "class Slow(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name != 'pipeline.work.shard': return None\n"
        "        sys.meta_path.remove(self)\n"
        "        import pipeline.work.scratch as scratch\n"
        "        whole = scratch.Scratch.record\n"
        "        scratch.Scratch.record = lambda self, record: (time.sleep(0.05), whole(self, record))[1]\n"
        "        return None\n"
        "sys.meta_path.insert(0, Slow())\n"
    )
    return site
