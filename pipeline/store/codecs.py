"""Chunks are decoded in Rust where the package zarrs is installed: half the processor time of zarr's own pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import zarr


@contextmanager
def fast_codecs() -> Iterator[None]:
    """Arrays that are opened within decode by zarrs, where it is there and knows the store; a folder it does.

    For reading whole shards only: where zarrs 0.2 decodes a shard in part, it checks no checksum.
    """
    if find_spec("zarrs") is None:
        yield
        return
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        yield
