"""Two caches of the same texts, layer by layer: each figure against a slow, obvious twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from ilse.core.errors import UserError
from tests.trainer.conftest import DIM, LAYERS, write_cache
from tests.trainer.layer_metrics.test_layers_command import figures_of
from trainer import drift
from trainer.analysis.cka import cka
from trainer.cache_drift import row_differences
from trainer.cache_drift.alikeness import GROUPS, alikeness
from trainer.cache_drift.neighbours import Nearest, overlap
from trainer.layer_metrics.sampling import drawn
from trainer.treatment import Standardise

Array = np.ndarray
TEXTS = 60


def ids_of(texts: int) -> list[str]:
    return [f"{i:032x}" for i in range(texts)]


def values_of(texts: int = TEXTS, seed: int = 0) -> Array:
    scale = np.geomspace(0.1, 10, DIM)
    return (np.random.default_rng(seed).normal(1, 1, (texts, len(LAYERS), DIM)) * scale).astype(np.float32)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, Array, Array]:
    """A cache, and a noisier one the further up the layer, whose texts stand in another order."""
    a = values_of()
    noise = np.random.default_rng(1).normal(size=a.shape) * np.array([0, 0.01, 0.3, 3])[:, None]
    b = (a + noise).astype(np.float32)
    order = np.random.default_rng(2).permutation(TEXTS)
    ids = ids_of(TEXTS)
    write_cache(tmp_path / "a.zarr", ids, a)
    write_cache(tmp_path / "b.zarr", [ids[i] for i in order], b[order], compute_type="bfloat16")
    return tmp_path / "a.zarr", tmp_path / "b.zarr", a, b


def standardised(x: Array) -> Array:
    treated: Array = ((x - x.mean(0)) / x.std(0)).astype(np.float64)
    return treated


def nearest_by_hand(x: Array, text: int, k: int) -> set[int]:
    distances = [(float(((x[text] - other) ** 2).sum()), i) for i, other in enumerate(x) if i != text]
    return {i for _, i in sorted(distances)[:k]}


def test_each_figure_is_that_of_the_formula(pair: tuple[Path, Path, Array, Array]) -> None:
    a, b, rows_a, rows_b = pair
    table = drift(a, b, neighbours=5).table
    for layer in range(len(LAYERS)):
        x, y = rows_a[:, layer].astype(np.float64), rows_b[:, layer].astype(np.float64)
        errors = np.linalg.norm(y - x, axis=1) / np.linalg.norm(x, axis=1)
        assert figures_of(table, "row_error")[layer] == pytest.approx(errors.mean(), rel=1e-6, abs=1e-12)
        assert figures_of(table, "largest_row_error")[layer] == pytest.approx(errors.max(), rel=1e-6, abs=1e-12)
        one, other = standardised(x), standardised(y)
        shared = [len(nearest_by_hand(one, i, 5) & nearest_by_hand(other, i, 5)) / 5 for i in range(TEXTS)]
        assert figures_of(table, "neighbours")[layer] == pytest.approx(np.mean(shared), abs=1e-9)
        both = torch.from_numpy(np.stack([one, other], 1)).float()
        assert figures_of(table, "cka")[layer] == pytest.approx(cka(both)[0, 1].item(), abs=1e-5)
    assert table["error"].null_count() == len(table)  # of all texts nothing is estimated
    assert figures_of(table, "neighbours")[0] == 1
    assert figures_of(table, "cka") == sorted(figures_of(table, "cka"), reverse=True)


def test_neighbours_of_a_sample_are_sought_among_all_texts(pair: tuple[Path, Path, Array, Array]) -> None:
    a, b, rows_a, rows_b = pair
    table = drift(a, b, texts=20, neighbours=5).table
    ids = np.array([list(bytes.fromhex(one)) for one in ids_of(TEXTS)], np.uint8)
    sample = drawn(ids, 20).tolist()
    one, other = standardised(rows_a[:, 2].astype(float)), standardised(rows_b[:, 2].astype(float))
    shared = [len(nearest_by_hand(one, i, 5) & nearest_by_hand(other, i, 5)) / 5 for i in sample]
    assert figures_of(table, "neighbours")[2] == pytest.approx(np.mean(shared), abs=1e-9)
    error = np.std(shared, ddof=1) / np.sqrt(20) * np.sqrt(1 - 20 / TEXTS)
    assert figures_of(table, "neighbours", "error")[2] == pytest.approx(error, rel=1e-6)
    assert figures_of(table, "neighbours", "texts") == [20] * len(LAYERS)
    assert figures_of(table, "row_error", "texts") == [TEXTS] * len(LAYERS)


def test_neither_pieces_nor_the_budget_change_a_figure(
    pair: tuple[Path, Path, Array, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = drift(*pair[:2], texts=45).table
    monkeypatch.setattr(row_differences, "PIECE", 23)
    again = drift(*pair[:2], texts=45, memory_budget=1e-9).table
    assert again.drop("value", "error").equals(whole.drop("value", "error"))
    assert again["value"].to_list() == pytest.approx(whole["value"].to_list(), rel=1e-9, abs=1e-12)
    assert drift(*pair[:2], texts=45, memory_budget=1e-9).table.equals(again)


def test_the_error_of_cka_is_its_spread_over_samples() -> None:
    """Against the spread of 80 samples' own figures."""
    random = torch.Generator().manual_seed(0)
    found = []
    for _ in range(80):
        x = torch.randn(80, 6, generator=random, dtype=torch.float64)
        y = x + 0.7 * torch.randn(80, 6, generator=random, dtype=torch.float64)
        found.append(alikeness(x, y))
    spread = float(np.std([one.value for one in found], ddof=1))
    told = float(np.sqrt(np.mean([one.error**2 for one in found if one.error])))
    assert told == pytest.approx(spread, rel=0.25)


def test_leaving_a_group_out_is_the_same_as_not_having_it() -> None:
    x = torch.from_numpy(values_of(2 * GROUPS)[:, 0]).double()
    y = x + torch.from_numpy(values_of(2 * GROUPS, seed=5)[:, 0]).double()
    slow = []
    for group in range(GROUPS):
        kept = torch.arange(2 * GROUPS) % GROUPS != group
        both = torch.stack([x[kept], y[kept]], 1)
        slow.append(cka(both)[0, 1].item())
    error = np.sqrt((GROUPS - 1) / GROUPS * ((np.array(slow) - np.mean(slow)) ** 2).sum())
    assert alikeness(x, y).error == pytest.approx(error, rel=1e-6)


def test_no_text_is_its_own_neighbour_though_another_is_its_copy() -> None:
    x = torch.tensor([[0.0], [0.0], [5.0], [7.0]], dtype=torch.float64)
    nearest = Nearest(x, torch.arange(4), 1)
    for first in range(4):
        nearest.add(x[first : first + 1], first)
    assert nearest.found[:, 0].tolist() == [1, 0, 3, 2]
    assert overlap(torch.tensor([[1, 2, 3]]), torch.tensor([[3, 9, 1]])).tolist() == pytest.approx([2 / 3])


def test_all_texts_of_one_cache_may_be_some_of_the_other_s(tmp_path: Path) -> None:
    values, ids = values_of(), ids_of(TEXTS)
    write_cache(tmp_path / "all.zarr", ids, values)
    write_cache(tmp_path / "some.zarr", ids[30:][::-1], values[30:][::-1])
    for pair in (("all", "some"), ("some", "all")):
        found = drift(*(tmp_path / f"{name}.zarr" for name in pair))
        assert figures_of(found.table, "row_error") == [0.0] * len(LAYERS)
        assert figures_of(found.table, "neighbours", "texts") == [30] * len(LAYERS)
        assert f"30 texts of {'AB'[pair.index('all')]} that the other lacks are left out" in str(found)


def test_widths_may_differ_and_then_rows_have_no_error(tmp_path: Path) -> None:
    values = values_of()
    write_cache(tmp_path / "a.zarr", ids_of(TEXTS), values)
    write_cache(tmp_path / "b.zarr", ids_of(TEXTS), np.concatenate([values, values], 2), dim=2 * DIM)
    table = drift(tmp_path / "a.zarr", tmp_path / "b.zarr").table
    assert figures_of(table, "row_error") == [None] * len(LAYERS)
    assert figures_of(table, "row_error", "note")[0] == f"rows of {DIM} values and of {2 * DIM}"
    assert figures_of(table, "cka") == pytest.approx([1.0] * len(LAYERS))
    assert figures_of(table, "neighbours") == [1.0] * len(LAYERS)


@pytest.mark.parametrize("texts", [1, 3, 8])
def test_what_has_no_figure_says_why(texts: int, tmp_path: Path) -> None:
    values = values_of(texts)
    values[:, 1] = 0
    values[:, 2] = 4
    for name in "ab":
        write_cache(tmp_path / name, ids_of(texts), values)
    table = drift(tmp_path / "a", tmp_path / "b").table
    assert figures_of(table, "neighbours") == [None] * len(LAYERS)
    assert figures_of(table, "cka")[1:3] == [None, None]
    assert figures_of(table, "row_error") == [0.0, None, 0.0, 0.0]
    assert (table.filter(pl.col("value").is_null())["note"] != "").all()
    assert not table["value"].is_nan().any()


@pytest.mark.parametrize(
    ("change", "expected", "found"),
    [
        ({"ids": ids_of(TEXTS + 5)[5:]}, "the same texts in both", "5 of 60 texts of the first that the second lacks"),
        ({"layers": ("embeddings", "block 0", "block 1", "final")}, "the same layers", "'block 2' and 'final'"),
        ({"keep": 3, "layers": LAYERS[:3]}, "the same layers", "4 layers and 3"),
        ({"poolings": ("max",)}, "the pooling 'mean'", "max"),
    ],
)
def test_caches_that_cannot_be_compared_are_refused(
    change: dict[str, Any], expected: str, found: str, tmp_path: Path
) -> None:
    values = values_of()
    ids, keep = change.pop("ids", ids_of(TEXTS)), change.pop("keep", len(LAYERS))
    write_cache(tmp_path / "a.zarr", ids_of(TEXTS), values)
    write_cache(tmp_path / "b.zarr", ids, values[:, :keep], **change)
    with pytest.raises(UserError) as refused:
        drift(tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert expected in refused.value.expected
    assert found in refused.value.found


@pytest.mark.parametrize(("option", "value"), [("texts", 0), ("neighbours", 0), ("memory_budget", -1)])
def test_options_out_of_range_are_refused(pair: tuple[Path, Path, Array, Array], option: str, value: int) -> None:
    with pytest.raises(UserError, match=option):
        drift(*pair[:2], **{option: value})


def test_standardising_is_the_heads_own(pair: tuple[Path, Path, Array, Array]) -> None:
    """Of coordinates that do not vary, too: they take no part, and are no division by 0."""
    a = pair[2].copy()
    a[:, 0, 0] = 1e6
    x = torch.from_numpy(a)
    assert Standardise(*x.shape[1:]).fit(x)(x).isfinite().all()
    write_cache(pair[0].parent / "c.zarr", ids_of(TEXTS), a)
    table = drift(pair[0].parent / "c.zarr", pair[0].parent / "c.zarr").table
    assert figures_of(table, "neighbours") == [1.0] * len(LAYERS)
    assert figures_of(table, "cka") == pytest.approx([1.0] * len(LAYERS))
