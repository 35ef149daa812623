"""Token caches that one can afford, made by the stage on a tiny model: chosen layers, a rank, a type of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ilse.core.errors import UserError
from pipeline import store
from pipeline.store import Basis, open_cache
from tests.pipeline.extractions import TEXTS, files_of, params_for, run

RANKED: dict[str, Any] = {"layers": [0, -1], "rank": 8, "storage_type": "float32"}
Table = Callable[..., Path]


def cache_of(folder: Path) -> store.Cache:
    return open_cache(folder / "cache.zarr")


def all_states(cache: store.Cache) -> store.FloatRows:
    """[tokens, layers, width] of all texts, one by one."""
    return np.concatenate([cache.token_states(text) for text in range(cache.header.texts)])


@pytest.fixture
def whole(llama: Path, texts_table: Table, tmp_path: Path) -> store.Cache:
    run(params_for(llama, token_states=True, storage_type="float32"), texts_table(TEXTS), tmp_path / "whole")
    return cache_of(tmp_path / "whole")


def test_chosen_layers_are_those_of_the_whole(whole: store.Cache, llama: Path, tmp_path: Path) -> None:
    params = params_for(llama, token_states={"layers": [0, "2..3"]}, storage_type="float32")
    run(params, tmp_path / "texts.parquet", tmp_path)
    cache = cache_of(tmp_path)
    assert cache.token_layers == (0, 2, 3)
    assert cache.token_width == cache.dim
    assert cache.basis() is None
    np.testing.assert_array_equal(all_states(cache), all_states(whole)[:, [0, 2, 3]])
    np.testing.assert_array_equal(cache.token_states(7, [-1]), whole.token_states(7, [3]))
    with pytest.raises(UserError, match=r"token states of layer 'block 1'(.|\n)*those of embedding, block 2, final"):
        cache.shard_tokens(0, [1])


def test_a_mapping_that_says_no_more_than_true_is_the_same_cache(
    whole: store.Cache, llama: Path, tmp_path: Path
) -> None:
    params = params_for(llama, token_states={"layers": ["0..3"]}, storage_type="float32")
    run(params, tmp_path / "texts.parquet", tmp_path)
    assert files_of(tmp_path / "cache.zarr") == files_of(Path(whole.path))


def test_projected_states_are_those_that_the_basis_makes_of_the_whole(
    whole: store.Cache, llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = run(params_for(llama, token_states=RANKED), tmp_path / "texts.parquet", tmp_path)
    cache = cache_of(tmp_path)
    basis = cache.basis()
    assert basis is not None
    assert (basis.layers, basis.rank, basis.dim) == (2, 8, 32)
    assert cache.token_width == 8
    expected = basis.project(all_states(whole)[:, [0, 3]])
    np.testing.assert_allclose(all_states(cache), expected, atol=2e-5)
    shares = figures["token_variance_kept"]
    assert list(shares) == ["embedding", "final"]
    assert all(0.2 < share <= 1 for share in shares.values())
    low, high = sorted(shares.values())
    assert (
        f"the basis keeps {low:.0%} to {high:.0%} of the variance of each layer's token states"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "scratch" / "bases").exists()


def test_every_kind_of_cluster_and_an_interruption_give_the_same_bytes(
    llama: Path, texts_table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice, texts = {**RANKED, "storage_type": "int8"}, texts_table(TEXTS)
    params = params_for(llama, token_states=choice)
    run(params, texts, tmp_path / "serial")
    run(params_for(llama, token_states=choice, cluster={"kind": "local"}), texts, tmp_path / "dask")
    expected = files_of(tmp_path / "serial" / "cache.zarr")
    assert files_of(tmp_path / "dask" / "cache.zarr") == expected

    made = []
    whole = store.write_shard
    from pipeline.capture import directions
    from pipeline.work import bases

    def dying(*args: Any) -> store.ShardRecord:
        made.append(1)
        if len(made) == 3:
            raise KeyboardInterrupt
        return whole(*args)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_shard", dying)
        with pytest.raises(KeyboardInterrupt):
            run(params, texts, tmp_path / "again")
    assert len(list((tmp_path / "again" / "scratch" / "bases").iterdir())) == 1
    with monkeypatch.context() as patch:  # the basis is the one that was kept: none is made
        patch.setattr(bases, "make_basis_here", None)
        patch.setattr(directions, "make_basis", None)
        run(params, texts, tmp_path / "again")
    assert files_of(tmp_path / "again" / "cache.zarr") == expected
    assert not (tmp_path / "again" / "scratch" / "bases").exists()


def test_a_cache_that_grows_keeps_its_basis_and_lends_its_rows(
    llama: Path, texts_table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = params_for(llama, token_states=RANKED)
    run(params, texts_table(TEXTS), tmp_path)
    before = cache_of(tmp_path)
    basis, states = before.basis(), all_states(before)
    assert run(params, texts_table(TEXTS + 4), tmp_path)["texts_computed"] == 4
    grown = cache_of(tmp_path)
    assert grown.basis() == basis
    np.testing.assert_array_equal(all_states(grown)[: len(states)], states)
    # A cache elsewhere takes the basis of its donor, and rows with it.
    lent = params_for(llama, token_states=RANKED, donors=[str(tmp_path / "cache.zarr")])
    assert run(lent, texts_table(TEXTS + 6), tmp_path / "other")["texts_computed"] == 2
    assert cache_of(tmp_path / "other").basis() == basis
    # One that has a basis of its own keeps it, and says that the donor's is another one.
    run(params, texts_table(TEXTS // 2), tmp_path / "own")
    capsys.readouterr()
    own = params_for(llama, token_states=RANKED, donors=[str(tmp_path / "cache.zarr")])
    assert run(own, texts_table(TEXTS), tmp_path / "own")["texts_computed"] == TEXTS - TEXTS // 2
    assert "lends nothing: its token states are in another basis" in capsys.readouterr().err


def test_int8_shards_are_lent_whole(llama: Path, texts_table: Table, tmp_path: Path) -> None:
    params = params_for(llama, token_states={"rank": 4, "storage_type": "int8"})
    run(params, texts_table(40), tmp_path)
    before = files_of(tmp_path / "cache.zarr")
    assert run(params, texts_table(44), tmp_path)["texts_computed"] == 4
    after = files_of(tmp_path / "cache.zarr")
    same = [name for name in before if store.shard_of_file(name) is not None]
    assert {name: after[name] for name in same} == {name: before[name] for name in same}


def test_a_damaged_basis_is_named_and_put_back(llama: Path, texts_table: Table, tmp_path: Path) -> None:
    params, texts = params_for(llama, token_states=RANKED), texts_table(TEXTS)
    run(params, texts, tmp_path)
    good = files_of(tmp_path / "cache.zarr")
    file = tmp_path / "cache.zarr" / "basis" / "directions" / "c" / "0" / "0" / "0"
    file.write_bytes(file.read_bytes()[:-9] + b"123456789")
    cache = cache_of(tmp_path)
    with pytest.raises(UserError, match=r"basis of its token states(.|\n)*ilse verify"):
        cache.basis()
    assert [damage.file for damage in store.verify(cache.location)] == ["basis/directions/c/0/0/0"]
    assert run(params, texts, tmp_path)["texts_computed"] == 0
    assert files_of(tmp_path / "cache.zarr") == good


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"rank": 33}, r"token_states.rank(.|\n)*at most the width(.|\n)*, 32(.|\n)*found:    33"),
        (
            {"layers": [1]},
            r"token_states.layers, 1(.|\n)*layers that extract.layers keeps(.|\n)*add 1 to extract.layers",
        ),
        ({"layers": [9]}, r"extract.token_states.layers, 9"),
    ],
)
def test_what_the_model_has_not_is_refused(
    llama: Path, texts_table: Table, tmp_path: Path, choice: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(params_for(llama, layers=[0, 2, 3], token_states=choice), texts_table(4), tmp_path)


def test_a_basis_outlives_its_cache(llama: Path, texts_table: Table, tmp_path: Path) -> None:
    run(params_for(llama, token_states=RANKED), texts_table(TEXTS), tmp_path)
    basis = cache_of(tmp_path).basis()
    assert basis is not None
    basis.save(tmp_path / "basis.npz")
    assert Basis.load(tmp_path / "basis.npz") == basis
    assert Basis.from_arrays(basis.arrays()).sha256 == basis.sha256
    (tmp_path / "cut.npz").write_bytes(basis.to_bytes()[:100])
    with pytest.raises(UserError, match="cannot be opened"):
        Basis.load(tmp_path / "cut.npz")
