"""A layer's directions from a sample of token states: against loops, and against what massive activations would do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.capture.directions import _weights, directions_of, make_basis
from pipeline.capture.projection import Projection
from pipeline.capture.reader import Reader, Request
from pipeline.capture.tokens import Tokens
from pipeline.store import Basis
from pipeline.store.basis import LIMIT
from tests.pipeline.test_token_store import some_basis

Array = np.ndarray[Any, Any]
LENGTHS = np.array([3, 1, 5, 4] * 50)


def made_states(seed: int = 0, dim: int = 6) -> Array:
    """Two directions of much variance, the others of little."""
    random = np.random.default_rng(seed)
    spread = np.array([3.0, 2.0, *[0.3] * (dim - 2)])
    turn = np.linalg.qr(random.normal(size=(dim, dim)))[0]
    states = random.normal(size=(int(LENGTHS.sum()), dim)) * spread @ turn + random.normal(size=dim)
    return states.astype(np.float32)


def firsts() -> Array:
    return np.cumsum(LENGTHS) - LENGTHS


def made_weights() -> Array:
    return np.random.default_rng(3).uniform(0.1, 1, int(LENGTHS.sum()))


def slowly(states: Array, weights: Array, rank: int) -> tuple[Array, Array, Array, float]:
    """The slow twin, token by token and coordinate by coordinate."""
    kept, counts, start = [], [], 0
    for length in LENGTHS:
        kept += [states[row].astype(np.float64) for row in range(start + 1, start + length)]
        counts += [float(weights[row]) for row in range(start + 1, start + length)]
        start += length
    mean, scale = [], []
    for i in range(states.shape[1]):
        column = sorted(float(row[i]) for row in kept)
        low, middle, high = np.quantile(column, [0.25, 0.5, 0.75])
        scale.append((high - low) / 1.3489795)
        mean.append(
            sum(min(max(x, middle - LIMIT * scale[i]), middle + LIMIT * scale[i]) for x in column) / len(column)
        )
    rows = [[min(max((x - m) / s, -LIMIT), LIMIT) for x, m, s in zip(row, mean, scale, strict=True)] for row in kept]
    variances, vectors = np.linalg.eigh(np.cov(np.array(rows).T, bias=True, aweights=counts))
    chosen = [vectors[:, -1 - i] * np.sign(vectors[np.abs(vectors[:, -1 - i]).argmax(), -1 - i]) for i in range(rank)]
    return np.array(mean), np.array(scale), np.array(chosen), float(variances[-rank:].sum() / variances.sum())


def test_directions_are_those_of_the_slow_twin() -> None:
    weights = made_weights()
    found, expected = directions_of(made_states(), LENGTHS, weights, 3), slowly(made_states(), weights, 3)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    np.testing.assert_allclose(found[2] @ found[2].T, np.eye(3), atol=1e-6)


def test_massive_activations_of_first_tokens_change_nothing_and_drown_nothing() -> None:
    plain, massive = made_states(), made_states()
    massive[firsts(), 4] = 24_800
    before, after = (directions_of(states, LENGTHS, made_weights(), 2) for states in (plain, massive))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    basis = Basis(*(np.asarray(part, np.float32)[None] for part in after))
    projected = basis.project(massive[:, None])[:, 0]
    # A step of int8 takes the largest value to 127: it has to leave the other tokens many levels.
    steps = np.abs(projected).max(0) / 127
    assert (projected[np.setdiff1d(np.arange(len(massive)), firsts())].std(0) > 8 * steps).all()


def test_a_token_counts_as_much_as_all_that_are_its_like_together() -> None:
    ids = [[5, 7, 5, 5], [9, 5, 7]]
    weights = _weights(Tokens(ids, [[True] * len(of_text) for of_text in ids], [False, False]))
    np.testing.assert_allclose(weights, [1 / 4, 1 / 2, 1 / 4, 1 / 4, 1, 1 / 4, 1 / 2])
    # A hundred function words all along one direction, and as many ids of one token each along another.
    random = np.random.default_rng(0)
    words = [0] * 100 + list(range(1, 101))
    states = np.zeros((200, 4), np.float32)
    states[:100, 0], states[100:, 1] = random.normal(size=100) * 3, random.normal(size=100) * 2
    states += random.normal(size=states.shape).astype(np.float32) * 0.1
    unlike = _weights(Tokens([words], [[True] * 200], [False]))
    found = [directions_of(states, np.array([200]), each, 1)[2][0] for each in (np.ones(200), unlike)]
    assert [int(np.abs(direction).argmax()) for direction in found] == [0, 1]


def test_coordinates_that_never_move_and_texts_of_one_token() -> None:
    still = np.ones((40, 5), np.float32)
    mean, scale, directions, share = directions_of(still, np.ones(40, int), np.ones(40), 5)
    assert Basis(mean[None], scale[None], directions[None], np.array([share], np.float32)).rank == 5
    almost = made_states()
    almost[:, 2] = 7  # beside others that do
    _, scale, _, _ = directions_of(almost, LENGTHS, made_weights(), 2)
    assert 0 < scale[2] < 1e-5


def test_the_projection_of_the_model_is_that_of_the_basis() -> None:
    basis = some_basis(rank=3)
    states = np.random.default_rng(5).normal(size=(11, 2, 5)).astype(np.float32) * 20
    states[4, 1, 2] = np.nan
    project, expected = Projection(basis, "cpu"), basis.project(states)
    for layer in range(2):
        found = project(layer, torch.from_numpy(states[:, layer])).numpy()
        np.testing.assert_allclose(found, expected[:, layer], atol=1e-4)


def test_layers_that_do_not_fit_in_memory_together_give_the_same_basis(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.capture import directions
    from pipeline.capture.tokens import tokenise
    from pipeline.model.load import load_model
    from pipeline.stages.extract import compute_of
    from tests.pipeline.conftest import sentence
    from tests.pipeline.extractions import params_for

    params = params_for(tiny_model("llama"))
    frozen = load_model(params.model, compute_of(params))
    reader = Reader(frozen, Request((0, 1, 2, 3), ("mean",), (0, 2, 3)))
    texts = [sentence(i) for i in range(30)]
    tokens = tokenise(frozen.tokenizer, texts, texts, "{text}", 10, frozen.facts.vocabulary)
    together = make_basis(reader, tokens, 4, 64)
    monkeypatch.setattr(directions, "GROUP_BYTES", 1)
    assert make_basis(reader, tokens, 4, 64) == together
