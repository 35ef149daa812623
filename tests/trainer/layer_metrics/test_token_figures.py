"""Figures of a text's tokens against their formulas, token by token, and a transcription of the published code."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.store import TokenSpec, open_cache
from tests.pipeline.caches import header, random_rows, token_counts, token_states, write
from tests.pipeline.test_token_store import kept_header, write_tokens
from tests.trainer.conftest import DIM, LAYERS
from tests.trainer.layer_metrics.test_spectra import published_entropy, slow_entropy
from tests.trainer.token_task import write_token_task
from tests.trainer.token_task import write_tokens as write_states
from trainer.layer_metrics.measuring import Options
from trainer.layer_metrics.survey import survey
from trainer.layer_metrics.tokens import METRICS, of_text, of_texts

Array = np.ndarray


def states(tokens: int, layers: int = 3, width: int = 6, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(2, 1, size=(tokens, layers, width))


def figures(x: Array, alpha: float = 1.0, published: bool = False) -> dict[str, Array]:
    found = of_text(torch.from_numpy(x), alpha, "raw", published)
    return dict(zip(METRICS, found.numpy(), strict=True))


def normalised(x: Array) -> Array:
    """`normalize` of the published code."""
    x = x - x.mean(0)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def angle(a: Array, b: Array) -> float:
    return math.acos(max(-1.0, min(1.0, float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))))


@pytest.mark.parametrize("tokens", [2, 3, 5, 9])
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_ours_equal_their_formulas(tokens: int, alpha: float) -> None:
    x = states(tokens)
    found = figures(x, alpha)
    for layer in range(3):
        z = x[:, layer]
        assert found["prompt_entropy"][layer] == pytest.approx(slow_entropy(normalised(z), alpha), abs=1e-6)
        variance = np.linalg.svd(z - z.mean(0), compute_uv=False) ** 2
        assert found["token_anisotropy"][layer] == pytest.approx(variance[0] / variance.sum(), abs=1e-6)
        steps = np.diff(z, axis=0)
        angles = [angle(steps[k], steps[k + 1]) for k in range(len(steps) - 1)]
        if angles:
            assert found["curvature"][layer] == pytest.approx(np.mean(angles), abs=1e-6)
        else:
            assert math.isnan(found["curvature"][layer])


@pytest.mark.parametrize("tokens", [2, 5, 9])
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_published_ones_equal_the_published_code(tokens: int, alpha: float) -> None:
    x = states(tokens)
    found = figures(x, alpha, published=True)
    for layer in range(3):
        z = normalised(x[:, layer])
        assert found["prompt_entropy"][layer] == pytest.approx(published_entropy(z, alpha), abs=1e-6)
        angles = [math.acos(max(-1.0, min(1.0, float(z[i] @ z[i + 1])))) for i in range(tokens - 1)]
        assert found["curvature"][layer] == pytest.approx(sum(angles) / len(angles), abs=1e-6)


def test_a_straight_line_has_no_curvature_and_one_direction() -> None:
    x = np.arange(6.0)[:, None, None] * states(1, 2)
    found = figures(x)
    assert found["curvature"] == pytest.approx([0, 0], abs=1e-6)
    assert found["token_anisotropy"] == pytest.approx([1, 1])
    assert found["prompt_entropy"] == pytest.approx([0, 0], abs=1e-6)


def test_one_token_and_tokens_that_do_not_differ_have_no_figure() -> None:
    assert all(np.isnan(values).all() for values in figures(states(1)).values())
    assert all(np.isnan(values).all() for values in figures(np.repeat(states(1), 4, axis=0)).values())
    x = states(5, 1)
    x[2] = x[1]  # a step without a direction, and the two angles at it
    steps = np.diff(x[:, 0], axis=0)
    assert figures(x)["curvature"][0] == pytest.approx(angle(steps[2], steps[3]))


def test_a_token_at_the_mean_adds_nothing_and_is_nan_in_the_published_code() -> None:
    x = np.concatenate([states(1), -states(1), 0 * states(1)])
    assert figures(x)["prompt_entropy"] == pytest.approx([0, 0, 0], abs=1e-9)
    assert np.isnan(figures(x, published=True)["prompt_entropy"]).all()


def test_long_texts_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = states(30)
    whole = figures(x)
    monkeypatch.setattr("trainer.layer_metrics.tokens.WORKING_VALUES", 40)
    for name, values in figures(x).items():
        assert values == pytest.approx(whole[name])


@pytest.mark.parametrize("budget", [1, 10**9])
def test_a_cache_s_figures_are_means_over_the_texts_that_have_one(tmp_path: Path, budget: int) -> None:
    head = header(texts=10, token_states=True)
    cache, held = write(tmp_path / "cache", head, random_rows(head)), token_states(head)
    chosen = np.array([7, 2, 9])
    found = of_texts(cache, chosen, 1.0, "raw", False, budget)
    told = [of_text(torch.from_numpy(one), 1.0, "raw", False) for one in held]
    for place, text in enumerate(chosen.tolist()):
        torch.testing.assert_close(found[place], told[text], equal_nan=True)
    table = survey(cache, None, Options(budget=max(budget, 10**6))).table
    for layer in range(3):
        row = table.row(by_predicate=(pl.col("metric") == "curvature") & (pl.col("layer") == layer), named=True)
        values = [float(one[1, layer]) for one, n in zip(told, token_counts(10), strict=True) if n >= 3]
        assert row["value"] == pytest.approx(np.mean(values))
        assert row["error"] == pytest.approx(np.std(values, ddof=1) / len(values) ** 0.5)
        assert (row["texts"], row["excluded"]) == (len(values), 10 - len(values))
        assert row["note"] == f"{10 - len(values)} texts have fewer than 3 tokens, or none that differ"


def test_of_chosen_layers_those_alone_have_figures_under_their_own_places(tmp_path: Path) -> None:
    kept = (1, 3)
    spec = TokenSpec(tuple(LAYERS[layer] for layer in kept), None, "float32")
    made = write_token_task(tmp_path, token_states=spec)
    table = survey(open_cache(made.cache), None, Options(texts=1_000)).table.filter(metric="token_anisotropy")
    assert table["layer"].to_list() == [1, 3]
    slow = [of_text(torch.from_numpy(one), 1.0, "raw", False)[2] for one in made.values.values()]
    assert table["value"].to_list() == pytest.approx(torch.stack(slow).nanmean(0)[list(kept)].tolist(), rel=1e-6)


def test_states_in_a_basis_are_named_in_the_note(tmp_path: Path) -> None:
    cache = write_tokens(tmp_path / "cache", kept_header("float32", rank=3))
    note = survey(cache, None, Options()).table.filter(metric="prompt_entropy")["note"]
    assert note.str.contains("of states in the cache's basis of rank 3").all()


def test_where_the_published_average_is_nan_there_is_none_and_the_reason(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(6, 1, len(LAYERS), DIM)).astype(np.float32)
    texts = [np.concatenate([one, -one, 0 * one]) for one in x[:2]] + [np.concatenate([x[2], x[3], x[4]]), x[5]]
    write_states(tmp_path / "cache.zarr", [f"{i:032x}" for i in range(4)], texts)
    cache = open_cache(tmp_path / "cache.zarr")
    ours = survey(cache, None, Options()).table.filter(metric="prompt_entropy", layer=0).row(0, named=True)
    assert (ours["texts"], ours["excluded"]) == (3, 1)
    assert ours["value"] is not None
    theirs = survey(cache, None, Options("published")).table.filter(metric="prompt_entropy", layer=0)
    assert theirs["value"].item() is None
    assert theirs["note"].item() == "NaN in the published code: 2 texts have a token at the mean of their tokens"
