"""Standardisation against NumPy in float64, above all where a mean dwarfs its spread."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import trainer.treatment.standardise
from ilse.core.errors import UserError
from trainer.treatment.standardise import Standardise


@given(rows=st.integers(1, 40), cuts=st.lists(st.integers(0, 40), max_size=5), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_any_chunking_gives_the_statistics_of_the_whole(rows: int, cuts: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = (generator.normal(size=(rows, 2, 3)) * [1, 5, 100] + [0, 1e3, -7]).astype(np.float32)
    edges = [0, *sorted(min(cut, rows) for cut in cuts), rows]
    chunks = (torch.from_numpy(x[a:b]) for a, b in pairwise(edges))
    fitted = Standardise(2, 3).fit_chunks(chunks)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(fitted.mean.numpy(), wide.mean(0), rtol=1e-6)
    np.testing.assert_allclose(fitted.scale.numpy(), wide.std(0) if rows > 1 else 1.0, rtol=1e-5)


def test_fit_splits_rows_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(100, 3, 4)
    whole = Standardise(3, 4).fit(x)
    monkeypatch.setattr(trainer.treatment.standardise, "CHUNK_VALUES", 85)
    torch.testing.assert_close(Standardise(3, 4).fit(x).state_dict(), whole.state_dict())


def test_result_has_mean_zero_and_deviation_one() -> None:
    torch.manual_seed(0)
    x = torch.randn(500, 3, 4) * 7 + 3
    z = Standardise(3, 4).fit(x)(x)
    assert z.mean(0).abs().max() < 1e-5
    assert (z.std(0, correction=0) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("spread", [1.0, 0.1])
def test_massive_activations_keep_their_spread(spread: float) -> None:
    """A coordinate near 24,800: E[x²] − E[x]² in float32 is noise, as 24,800² is known to 37 only."""
    torch.manual_seed(1)
    x = torch.randn(4000, 1, 2) * spread
    x[..., 0] += 24_800
    fitted = Standardise(1, 2).fit(x)
    expected = x.double().std(0, correction=0)
    torch.testing.assert_close(fitted.scale.double(), expected, rtol=1e-6, atol=0)
    naive = (x.square().mean(0) - x.mean(0).square()).clamp(min=0).sqrt()
    assert abs(naive[0, 0] - expected[0, 0]) > 0.1 * expected[0, 0]
    # x itself is known to 24,800 · 2⁻²⁴ ≈ 0.0015.
    assert (fitted(x)[..., 0].std(correction=0) - 1).abs() < 0.01


def test_constant_coordinates_have_scale_one() -> None:
    x = torch.randn(64, 1, 3)
    x[..., 1] = 0.1
    x[..., 2] = 0
    fitted = Standardise(1, 3).fit(x)
    assert fitted.scale[0, 1:].tolist() == [1.0, 1.0]
    z = fitted(x + 1)
    assert torch.isfinite(z).all()
    torch.testing.assert_close(z[..., 1:], torch.ones(64, 1, 2))


def test_state_is_saved() -> None:
    x = torch.randn(10, 2, 3)
    fitted = Standardise(2, 3).fit(x)
    again = Standardise(2, 3)
    assert torch.equal(again(x), x)
    again.load_state_dict(fitted.state_dict())
    assert torch.equal(again(x), fitted(x))


def test_half_precision_gives_single() -> None:
    x = torch.randn(50, 2, 3).half()
    z = Standardise(2, 3).fit(x)(x)
    assert z.dtype == torch.float32


def test_input_is_left_alone() -> None:
    x = torch.randn(50, 2, 3)
    before = x.clone()
    fitted = Standardise(2, 3).fit(x)
    standardised = fitted(x)
    assert torch.equal(x, before)
    assert fitted.in_place(x).data_ptr() == x.data_ptr()
    assert torch.equal(x, standardised)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_named(value: float) -> None:
    x = torch.zeros(9, 2, 3)
    x[7, 1, 2] = value
    with pytest.raises(
        UserError, match=rf"finite activations\n.*{value} at training row 7, layer axis 1, coordinate 2"
    ):
        Standardise(2, 3).fit_chunks(torch.split(x, 4))


def test_no_rows_and_other_shapes_are_refused() -> None:
    with pytest.raises(UserError, match=r"at least one training row\n.*none"):
        Standardise(2, 3).fit(torch.zeros(0, 2, 3))
    with pytest.raises(UserError, match=r"2 layers of 3 values\n.*5 layers of 3 values"):
        Standardise(2, 3).fit(torch.zeros(4, 5, 3))
