"""Describes a cache for `ilse inspect`: its spec, size and state, and one line per layer."""

from __future__ import annotations

from pathlib import Path

from pipeline.store import CacheHeader, CaptureSpec, Location, open_cache, peek

UNFINISHED = "UNFINISHED"


def describe(place: str | Path) -> str:
    """Describes the cache in a folder or at a URL; an unfinished one by its spec and size alone."""
    path = Location(place)
    header, complete = peek(path)
    lines = [f"{path}: {'complete' if complete else UNFINISHED}", *_spec_lines(header), *_size_lines(path, header)]
    if complete:
        for pooling in header.capture.poolings:
            lines += ["", *_layer_lines(path, pooling)]
        lines += _basis_lines(path)
    return "\n".join(lines)


def _spec_lines(header: CacheHeader) -> list[str]:
    capture = header.capture
    pinned = ", ".join(f"{key} {value}" for key, value in capture.model.items())
    lines = [
        f"  fingerprint   {capture.fingerprint}",
        f"  model         {header.model_name} ({header.model_parameters:,} parameters; {pinned})",
        f"  tokenizer     sha256 {capture.tokenizer}",
        f"  template      {capture.template!r}, {capture.lengths_in_words}",
        *([f"  noise         {capture.noise_in_words}"] if capture.noise else []),
        f"  types         computed in {capture.compute_type}, stored as {capture.storage_type}",
        f"  poolings      {', '.join(capture.poolings)}" + (", and token states" if capture.token_states else ""),
        *_token_lines(capture),
        f"  versions      {', '.join(f'{name} {number}' for name, number in header.versions.items())}",
    ]
    taken = [f"{name} {value}" for name, value in header.origin.items()]
    return [*lines, f"  origin        {', '.join(taken)}"] if taken else lines


def _token_lines(capture: CaptureSpec) -> list[str]:
    tokens = capture.tokens
    if tokens is None:
        return []
    layers = "all layers" if tokens.layers == capture.layers else ", ".join(tokens.layers)
    width = "whole" if tokens.rank is None else f"rank {tokens.rank}, in the basis {str(tokens.basis)[:16]}…"
    return [f"  token states  of {layers}; {width}; stored as {tokens.storage_type}"]


def _basis_lines(path: Location) -> list[str]:
    """The share of variance that the basis of token states keeps, one line per layer."""
    cache = open_cache(path)
    basis, tokens = cache.basis() if cache.token_layers else None, cache.header.capture.tokens
    if basis is None or tokens is None:
        return []
    shares = zip(tokens.layers, basis.share, strict=True)
    return ["", f"  {'token states':<14}{'variance':>12}", *(f"  {name:<14}{share:>12.1%}" for name, share in shares)]


def _size_lines(path: Location, header: CacheHeader) -> list[str]:
    disk = sum(size for _, size in path.list())
    shape = f"{header.texts:,} texts × {len(header.capture.layers)} layers × {header.capture.dim}"
    return [
        f"  size          {shape}, {header.shards} shards of {header.shard_rows} texts, {disk / 1e6:,.1f} MB on disk"
    ]


def _layer_lines(path: Location, pooling: str) -> list[str]:
    cache = open_cache(path)
    statistics = cache.statistics(pooling)
    counts = cache.token_counts()
    lines = [
        f"  {int(counts.sum()):,} tokens, {counts.mean():.1f} per text; {int(cache.truncated().sum())} texts truncated",
        "",
        f"  {pooling:<14}" + "".join(f"{name:>12}" for name in statistics),
    ]
    for layer, name in enumerate(cache.layers):
        lines.append(f"  {name:<14}" + "".join(f"{values[layer]:>12.4g}" for values in statistics.values()))
    return lines
