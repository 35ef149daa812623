"""Token states of chosen layers, in a basis, of a type of their own: written, read, damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilse.core.errors import UserError
from pipeline import store
from pipeline.store import Basis, CaptureSpec, TokenSpec
from pipeline.store.basis import LIMIT
from pipeline.store.encoding import decode, encode
from pipeline.store.token_chunks import TokenGrid, stored_in, token_checksums_in
from tests.pipeline.caches import files_of, header, ids_of, random_rows, token_counts

NAMES = ("block 0", "block 2")
KINDS = list(store.TOKEN_TYPES)


def some_basis(layers: int = 2, rank: int = 3, dim: int = 5, seed: int = 0) -> Basis:
    random = np.random.default_rng(seed)
    directions = np.stack([np.linalg.qr(random.normal(size=(dim, dim)))[0][:rank] for _ in range(layers)])
    scale = random.uniform(0.5, 2, (layers, dim))
    parts = random.normal(size=(layers, dim)), scale, directions, random.uniform(0, 1, layers)
    return Basis(*(part.astype(np.float32) for part in parts))


def kept_header(kind: str, rank: int | None = None, **shape: Any) -> store.CacheHeader:
    basis = None if rank is None else some_basis(rank=rank).sha256
    return header(token_states=TokenSpec(NAMES, rank, kind, basis), **shape)


def states_of(head: store.CacheHeader, seed: int = 1) -> list[store.FloatRows]:
    """[tokens, token layers, token width] of each text."""
    random, tokens = np.random.default_rng(seed), head.capture.tokens
    assert tokens is not None
    row = (len(tokens.layers), head.capture.token_width)
    return [random.normal(size=(count, *row)).astype(np.float32) for count in token_counts(head.texts)]


def write_tokens(place: Path, head: store.CacheHeader, seed: int = 1) -> store.Cache:
    location, ids, states = store.Location(place), ids_of(head.texts), states_of(head, seed)
    rank = head.capture.tokens.rank if head.capture.tokens else None
    store.create(location, head, ids, None if rank is None else some_basis(rank=rank))
    records = []
    for shard in range(head.shards):
        rows = head.rows_of(shard)
        counts = token_counts(head.texts)[rows]
        content = store.ShardRows(
            ids[rows], counts, [False] * len(counts), {"mean": random_rows(head)[rows]}, np.concatenate(states[rows])
        )
        records.append(store.write_shard(location, head, shard, content))
    store.finish(location, head, ids, records)
    return store.open_cache(location)


def expected(head: store.CacheHeader, seed: int = 1) -> list[store.FloatRows]:
    """The slow twin: each shard's states, rounded together, text by text."""
    out, states, tokens = [], states_of(head, seed), head.capture.tokens
    assert tokens is not None
    for shard in range(head.shards):
        own = states[head.rows_of(shard)]
        stored, scales = encode(np.concatenate(own), tokens.storage_type)
        values = decode(stored, tokens.storage_type, scales)
        out += np.split(values, np.cumsum([len(text) for text in own])[:-1])
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [None, 3])
def test_what_is_written_is_read(tmp_path: Path, kind: str, rank: int | None) -> None:
    head = kept_header(kind, rank)
    cache = write_tokens(tmp_path / "cache.zarr", head)
    assert cache.token_layers == (0, 2)
    assert cache.token_width == (rank or 5)
    texts = expected(head)
    for shard in range(head.shards):
        file = cache.location.get(f"tokens/{shard}/c/0/0/0")
        count = sum(token_counts(head.texts)[head.rows_of(shard)])
        assert any(token_checksums_in(file, head, count))  # laid out as the fast way reads it
        tokens = cache.shard_tokens(shard)
        own = np.concatenate(texts[head.rows_of(shard)])
        np.testing.assert_array_equal(tokens.decoded(), own)
        for layers in ([2], [0], [2, 0], [-1]):
            part = cache.shard_tokens(shard, layers)
            np.testing.assert_array_equal(part.decoded(), own[:, [0 if layer == 0 else 1 for layer in layers]])
        for place, text in enumerate(texts[head.rows_of(shard)]):
            np.testing.assert_array_equal(tokens.text(place), text)
            np.testing.assert_array_equal(cache.token_states(shard * head.shard_rows + place), text)
    order = np.array([9, 0, 5, 4, 5])
    for found, text in zip(cache.gather_tokens(order), order, strict=True):
        np.testing.assert_array_equal(found, texts[text])
    assert list(store.verify(cache.location)) == []
    np.testing.assert_array_equal(
        store.open_proven(cache.path).shard_tokens(1).decoded(), cache.shard_tokens(1).decoded()
    )


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32"])
def test_states_of_older_caches_are_read_by_the_shard_too(tmp_path: Path, kind: str) -> None:
    from tests.pipeline.caches import write

    head = header(texts=200, shard_rows=200, dim=2, storage_type=kind, token_states=True)  # more than one chunk
    cache = write(tmp_path / "cache.zarr", head, random_rows(head))
    tokens = cache.shard_tokens(0, [2, 0])
    assert len(tokens.values) > 256
    grid = TokenGrid.of(head, len(tokens.values))
    fast = stored_in(cache.location.get("tokens/0/c/0/0/0"), grid, [2, 0])
    assert fast is not None  # or zarr would have read it, which is as right and slow
    np.testing.assert_array_equal(fast, tokens.values)
    for text in range(0, 200, 7):
        np.testing.assert_array_equal(tokens.text(text), cache.token_states(text, [2, 0]))


@settings(max_examples=25, deadline=None)
@given(
    texts=st.integers(1, 9),
    shard_rows=st.integers(1, 4),
    rank=st.sampled_from([None, 1, 5]),
    kind=st.sampled_from(KINDS),
)
def test_any_shape_makes_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, texts: int, shard_rows: int, rank: int | None, kind: str
) -> None:
    head = kept_header(kind, rank, texts=texts, shard_rows=shard_rows)
    cache = write_tokens(tmp_path_factory.mktemp("cache") / "cache.zarr", head)
    found = np.concatenate([cache.shard_tokens(shard).decoded() for shard in range(head.shards)])
    np.testing.assert_array_equal(found, np.concatenate(expected(head)))


def test_the_short_forms_are_written_and_hashed_as_before() -> None:
    for short in (True, False):
        spec = header(token_states=short).capture
        written = header(token_states=short).attributes(complete=True)["capture"]
        assert written["token_states"] is short
        assert CaptureSpec.from_attributes(written) == spec
    # As the releases had it in which that was the only choice.
    assert (
        header(token_states=True).capture.fingerprint
        == "44115b2ddffb393f2658cec479c4e18305de10c1c512eb13460d6923f926bb74"
    )


def test_a_choice_makes_the_round_trip_through_attributes() -> None:
    capture = kept_header("int8", 3).capture
    assert CaptureSpec.from_attributes(kept_header("int8", 3).attributes(complete=True)["capture"]) == capture
    assert capture.without_basis.tokens == TokenSpec(NAMES, 3, "int8")
    others = [kept_header("int8", 2), kept_header("float16", 3), kept_header("int8"), header(token_states=True)]
    assert len({capture.fingerprint, *(head.capture.fingerprint for head in others)}) == 5


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (TokenSpec(("block 9",)), "some of the layers block 0"),
        (TokenSpec(("block 2", "block 0")), "in that order"),
        (TokenSpec(()), "some of the layers"),
        (TokenSpec(NAMES, 6), "a rank of at most the width, 5"),
    ],
)
def test_a_choice_that_the_capture_has_not_is_refused(tokens: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        header(token_states=tokens)


@pytest.mark.parametrize(
    "wrong", [{"storage_type": "int2"}, {"rank": 0}, {"rank": 2, "basis": "00"}, {"basis": "0" * 64}]
)
def test_a_choice_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="token_states"):
        TokenSpec(NAMES, **wrong)


def test_what_is_not_kept_is_refused_with_the_way_out(tmp_path: Path) -> None:
    cache = write_tokens(tmp_path / "cache.zarr", kept_header("int8", 3))
    with pytest.raises(UserError, match=r"token states of layer 'block 1'(.|\n)*add the layer to"):
        cache.shard_tokens(0, [1])
    pooled = write_tokens_free(tmp_path / "pooled.zarr")
    assert pooled.token_layers == ()
    for ask in (lambda: pooled.shard_tokens(0), lambda: pooled.token_states(0), pooled.basis):
        with pytest.raises(UserError, match=r"expected: token states(.|\n)*extract.token_states to true"):
            ask()


def write_tokens_free(place: Path) -> store.Cache:
    from tests.pipeline.caches import write

    return write(place, header(), random_rows(header()))


def test_a_cache_takes_the_basis_that_it_names_and_no_other(tmp_path: Path) -> None:
    head = kept_header("float32", 3)
    for basis in (None, some_basis(seed=1)):
        with pytest.raises(ValueError, match="takes that basis"):
            store.create(store.Location(tmp_path / "cache.zarr"), head, ids_of(10), basis)


def test_every_file_of_token_states_is_guarded(tmp_path: Path) -> None:
    """A changed byte anywhere is an error or changes nothing that is read; a missing file is an error."""
    head = kept_header("int8", 3)
    cache = write_tokens(tmp_path / "cache.zarr", head)
    good = read_all(cache.path)
    for name, data in files_of(cache.path).items():
        if name.split("/")[0] not in ("tokens", "basis") and not name.startswith("scale/"):
            continue
        for place in {0, len(data) // 2, len(data) - 1}:
            file = Path(cache.path, name)
            file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            assert read_all(cache.path) in (good, None), (name, place)
            file.unlink()
            assert read_all(cache.path) is None or name.endswith("zarr.json"), name
            file.write_bytes(data)
    assert read_all(cache.path) == good


def read_all(place: str) -> bytes | None:
    try:
        cache = store.open_cache(place)
        basis = cache.basis()
        assert basis is not None
        shards = [cache.shard_tokens(shard).decoded().tobytes() for shard in range(cache.header.shards)]
        return b"".join([*shards, basis.to_bytes()])
    except UserError:
        return None


@pytest.mark.parametrize("kind", ["int8", "int4", "float16"])
def test_whole_shards_of_another_cache_are_told(tmp_path: Path, kind: str) -> None:
    head = kept_header(kind, 3, texts=8)
    ours, theirs = write_tokens(tmp_path / "a.zarr", head), write_tokens(tmp_path / "b.zarr", head, seed=2)
    # Shards 0 and 1 have as many tokens: each other's files have the right shape.
    for name in files_of(theirs.path):
        if name.startswith(("tokens/", "scale/tokens/c/")):
            file = Path(ours.path, name)
            own = file.read_bytes()
            other = Path(theirs.path, name).read_bytes()
            if own == other:
                continue
            file.write_bytes(other)
            with pytest.raises(UserError, match="other values than were written"):
                [store.open_cache(ours.path).shard_tokens(shard) for shard in range(head.shards)]
            file.write_bytes(own)


def test_projecting_is_centring_scaling_cutting_and_a_product() -> None:
    basis = some_basis()
    states = np.random.default_rng(3).normal(size=(7, 2, 5)).astype(np.float32) * 30
    found = basis.project(states)
    for token in range(7):
        for layer in range(2):
            for direction in range(3):
                total = 0.0
                for i in range(5):
                    value = (states[token, layer, i] - basis.mean[layer, i]) / basis.scale[layer, i]
                    total += max(-LIMIT, min(LIMIT, value)) * basis.directions[layer, direction, i]
                assert found[token, layer, direction] == pytest.approx(total, abs=1e-4)
    np.testing.assert_array_equal(basis.at([1]).project(states[:, [1]])[:, 0], found[:, 1])


def test_what_is_not_finite_is_not_cut_to_something_that_is() -> None:
    states = np.zeros((2, 2, 5), np.float32)
    states[1, 0, 3] = np.inf
    found = some_basis().project(states)
    assert np.isnan(found[1, 0]).all()
    assert np.isfinite(found[0]).all()


@pytest.mark.parametrize(
    "wrong", [{"mean": np.zeros((2, 4))}, {"scale": np.zeros((2, 5))}, {"share": np.array([np.nan, 1])}]
)
def test_arrays_that_are_no_basis_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="basis of token states"):
        replace(some_basis(), **{name: value.astype(np.float32) for name, value in wrong.items()})
