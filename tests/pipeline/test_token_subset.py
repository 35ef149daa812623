"""A subset that keeps token states has the bytes that an extraction of its texts and layers would have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from ilse.cli import main
from ilse.core.errors import UserError
from pipeline import store
from pipeline.stages.subset import Selection, subset
from tests.pipeline.caches import header, ids_of, random_rows, shard_rows, token_counts, token_states

WHOLE: dict[str, Any] = {"token_states": True}
LAYERS = ("block 0", "block 2")
KINDS: dict[str, dict[str, Any]] = {
    "whole": WHOLE,
    "whole in float16": WHOLE | {"storage_type": "float16"},
    "two layers": {"token_states": store.TokenSpec(LAYERS, None, "float32")},
    "two layers in bfloat16": {"token_states": store.TokenSpec(LAYERS, None, "bfloat16")},
}


def written(folder: Path, texts: int = 10, **capture: Any) -> store.Cache:
    """A cache whose pooled rows and token states are made up, `token_states` of the layers that it keeps."""
    head = header(texts, **capture)
    location, ids = store.Location(folder), ids_of(texts)
    basis = None
    if head.capture.tokens is not None and head.capture.tokens.rank is not None:
        basis = basis_for(head)
        head = header(texts, **{**capture, "token_states": head.capture.with_basis(basis.sha256).token_states})
    store.create(location, head, ids, basis)
    records = []
    for shard in range(head.shards):
        rows = shard_rows(head, shard, random_rows(head))
        records.append(store.write_shard(location, head, shard, with_states(head, shard, rows)))
    store.finish(location, head, ids, records)
    return store.open_cache(folder)


def states_of(head: store.CacheHeader, rows: list[int]) -> np.ndarray[Any, Any]:
    tokens = head.capture.tokens
    assert tokens is not None
    kept = [head.capture.layers.index(name) for name in tokens.layers]
    return np.concatenate([token_states(head)[row][:, kept, : head.capture.token_width] for row in rows])


def with_states(head: store.CacheHeader, shard: int, rows: store.ShardRows) -> store.ShardRows:
    place = head.rows_of(shard)
    states = states_of(head, list(range(place.start, place.stop)))
    return store.ShardRows(rows.text_ids, rows.token_count, rows.truncated, rows.pooled, states)


def basis_for(head: store.CacheHeader) -> store.Basis:
    tokens = head.capture.tokens
    assert tokens is not None
    random, layers, dim = np.random.default_rng(3), len(tokens.layers), head.capture.dim
    directions = np.stack([np.linalg.qr(random.normal(size=(dim, dim)))[0][: tokens.rank] for _ in range(layers)])
    return store.Basis(
        random.normal(size=(layers, dim)).astype(np.float32),
        np.ones((layers, dim), np.float32),
        directions.astype(np.float32),
        np.full(layers, 0.5, np.float32),
    )


def bytes_of(folder: str) -> dict[str, bytes]:
    """All files but the two that tell of the origin."""
    files = {str(file.relative_to(folder)): file.read_bytes() for file in Path(folder).rglob("*") if file.is_file()}
    return {name: data for name, data in files.items() if name not in ("zarr.json", "SHA256SUMS")}


def direct(folder: Path, full: store.Cache, rows: list[int], layers: list[int]) -> store.Cache:
    """The same texts and layers written by themselves, from what the full cache was written with."""
    small = store.open_cache(folder.parent / "small.zarr")
    head = small.header
    location, ids = store.Location(folder), [full.text_ids()[row] for row in rows]
    store.create(location, head, ids, small.basis())
    records = []
    for shard in range(head.shards):
        place = head.rows_of(shard)
        own = rows[place]
        pooled = {"mean": random_rows(full.header)[own][:, layers]}
        counts, cut = (
            [token_counts(full.header.texts)[row] for row in own],
            [bool(full.truncated()[row]) for row in own],
        )
        every = [name for name in head.capture.tokens.layers]  # type: ignore[union-attr]
        kept = [full.layers.index(name) for name in every]
        states = np.concatenate([token_states(full.header)[row][:, kept, : head.capture.token_width] for row in own])
        records.append(
            store.write_shard(location, head, shard, store.ShardRows(ids[place], counts, cut, pooled, states))
        )
    store.finish(location, head, ids, records)
    return store.open_cache(folder)


@pytest.mark.parametrize("kind", [*KINDS, "a rank"])
def test_texts_and_layers_keep_the_bytes_of_a_direct_cache(tmp_path: Path, kind: str) -> None:
    capture = {"token_states": store.TokenSpec(LAYERS, 3, "float16")} if kind == "a rank" else KINDS[kind]
    full = written(tmp_path / "full.zarr", **capture)
    rows, layers = [1, 2, 5, 6, 7, 9], [1, 2]
    pl.DataFrame({"text_id": [full.text_ids()[row] for row in rows]}).write_parquet(tmp_path / "texts.parquet")
    told = subset(
        full.path, tmp_path / "small.zarr", Selection(("1..2",), texts=tmp_path / "texts.parquet", tokens=True)
    )
    assert "left out" not in told
    small = store.open_cache(tmp_path / "small.zarr")
    assert bytes_of(small.path) == bytes_of(direct(tmp_path / "direct.zarr", full, rows, layers).path)
    assert list(store.verify(small.location)) == []
    kept = (0, 1) if full.header.capture.token_states is True else (1,)
    assert small.token_layers == kept
    for place, row in enumerate(rows):
        expected = full.token_states(row, [layers[layer] for layer in kept])
        np.testing.assert_array_equal(small.token_states(place), expected)


def test_the_basis_is_that_of_the_layers_that_are_kept(tmp_path: Path) -> None:
    full = written(tmp_path / "full.zarr", token_states=store.TokenSpec(LAYERS, 3, "float16"))
    subset(full.path, tmp_path / "same.zarr", Selection(share=1.0, tokens=True))
    same = store.open_cache(tmp_path / "same.zarr")
    assert same.fingerprint == full.fingerprint
    subset(full.path, tmp_path / "one.zarr", Selection((2,), tokens=True))
    basis, whole = store.open_cache(tmp_path / "one.zarr").basis(), full.basis()
    assert basis is not None
    assert whole is not None
    np.testing.assert_array_equal(basis.directions, whole.directions[1:])
    assert basis.sha256 == whole.at([1]).sha256


@pytest.mark.parametrize("kind", store.SCALED)
def test_levels_are_kept_with_all_their_texts_and_refused_with_some(tmp_path: Path, kind: str) -> None:
    full = written(tmp_path / "full.zarr", token_states=store.TokenSpec(LAYERS, None, kind))
    subset(full.path, tmp_path / "small.zarr", Selection((0, 1), tokens=True))
    small = store.open_cache(tmp_path / "small.zarr")
    for shard in range(small.header.shards):
        ours, theirs = small.shard_tokens(shard), full.shard_tokens(shard, [0])
        np.testing.assert_array_equal(ours.values, theirs.values)
        np.testing.assert_allclose(ours.scales, theirs.scales, rtol=1e-6)
    with pytest.raises(UserError, match=r"(?s)token states.*all texts of a cache of " + kind + r".*leave --tokens out"):
        subset(full.path, tmp_path / "other.zarr", Selection(share=0.5, tokens=True))


def test_what_has_no_token_states_cannot_keep_them(tmp_path: Path) -> None:
    full = written(tmp_path / "full.zarr", token_states=store.TokenSpec(LAYERS, None, "float32"))
    with pytest.raises(UserError, match=r"(?s)--tokens.*those of layers 0, 2, of which none is chosen"):
        subset(full.path, tmp_path / "small.zarr", Selection((1,), tokens=True))
    subset(full.path, tmp_path / "small.zarr", Selection((1,)))
    with pytest.raises(UserError, match=r"(?s)--tokens.*pooled rows alone"):
        subset(str(tmp_path / "small.zarr"), tmp_path / "smaller.zarr", Selection(tokens=True))


def test_the_command_keeps_them_when_it_is_told_to(tmp_path: Path) -> None:
    full = written(tmp_path / "full.zarr", **WHOLE)
    result = CliRunner().invoke(main, ["subset", full.path, str(tmp_path / "small.zarr"), "--share", "0.5", "--tokens"])
    assert result.exit_code == 0, result.output
    assert store.open_cache(tmp_path / "small.zarr").token_layers == (0, 1, 2)
