"""Each storage type against NumPy and torch, and what rounding twice does: nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import store
from pipeline.store.encoding import decode, encode, missing

KINDS = list(store.TOKEN_TYPES)
EDGES = [0.0, -0.0, 1.0, 127.5, 6e-8, 3e-8, 1e-38, 1.5e-36, 1e-45, 65504.0]


def floats(limit: float) -> st.SearchStrategy[float]:
    limit = float(np.float32(limit))
    return st.floats(-limit, limit, width=32) | st.sampled_from([x for x in EDGES if x <= limit])


def rows(kind: str) -> st.SearchStrategy[store.FloatRows]:
    shapes = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4))
    limit = float(np.nextafter(np.float32(store.TOKEN_TYPES[kind].limit), np.float32(0)))
    return hnp.arrays(np.float32, shapes, elements=floats(limit))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_what_was_rounded_once_is_not_rounded_again(kind: str, data: st.DataObject) -> None:
    stored, scales = encode(data.draw(rows(kind)), kind)
    values = decode(stored, kind, scales)
    again, scales_again = encode(values, kind)
    assert np.isfinite(values).all()
    assert again.dtype == store.TOKEN_TYPES[kind].dtype
    assert again.tobytes() == stored.tobytes()
    assert (scales is None) == (kind not in store.SCALED)
    np.testing.assert_array_equal(scales, scales_again)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_value_is_stored_as_the_fill_value(kind: str, data: st.DataObject) -> None:
    stored, _ = encode(data.draw(rows(kind)), kind)
    assert not missing(stored, kind).any()
    fill = np.full(3, store.TOKEN_TYPES[kind].missing, store.TOKEN_TYPES[kind].dtype)
    assert missing(fill, kind).all()


@settings(max_examples=100, deadline=None)
@given(values=rows("float32"))
def test_float32_is_exact(values: store.FloatRows) -> None:
    stored, scales = encode(values, "float32")
    assert decode(stored, "float32", scales).tobytes() == values.tobytes()


@settings(max_examples=100, deadline=None)
@given(values=rows("float16"))
def test_float16_is_numpys(values: store.FloatRows) -> None:
    assert encode(values, "float16")[0].tobytes() == values.astype(np.float16).tobytes()


@settings(max_examples=200, deadline=None)
@given(bits=hnp.arrays(np.uint32, (64,), elements=st.integers(0, 2**32 - 1)))
def test_bfloat16_is_torchs_bit_for_bit(bits: np.ndarray) -> None:
    values = bits.view(np.float32)
    values = values[np.abs(values) <= store.STORAGE_TYPES["bfloat16"].limit]
    assume(len(values))
    compare_with_torch(values)


def test_bfloat16_rounds_ties_to_even_and_keeps_subnormals() -> None:
    halves = np.arange(0, 0x7F7F, dtype=np.uint32) << 16  # every positive bfloat16 but the last
    for below in (0x7FFF, 0x8000, 0x8001):  # just under half, half, just over
        compare_with_torch((halves | below).view(np.float32))
        compare_with_torch((halves | below | 0x80000000).astype(np.uint32).view(np.float32))


def compare_with_torch(values: np.ndarray) -> None:
    theirs = torch.from_numpy(values.copy()).to(torch.bfloat16)
    stored, _ = encode(values, "bfloat16")
    assert stored.tobytes() == theirs.view(torch.int16).numpy().tobytes()
    assert decode(stored, "bfloat16").tobytes() == theirs.to(torch.float32).numpy().tobytes()


def test_the_largest_bfloat16_is_finite_and_the_next_float_would_not_be() -> None:
    limit = np.float32(store.STORAGE_TYPES["bfloat16"].limit)
    assert np.isfinite(decode(encode(np.array([limit]), "bfloat16")[0], "bfloat16")).all()
    beyond = np.array([np.nextafter(limit, np.float32(np.inf))])
    assert np.isinf(decode(encode(beyond, "bfloat16")[0], "bfloat16")).all()


@settings(max_examples=150, deadline=None)
@given(values=rows("int8"))
def test_an_int8_value_is_off_by_half_a_step_at_most(values: store.FloatRows) -> None:
    stored, scales = encode(values, "int8")
    assert scales is not None
    error = np.abs(decode(stored, "int8", scales).astype(np.float64) - values)
    step = scales.astype(np.float64)
    # A step is the 127th part of the largest magnitude, up to its own rounding to 16 bits.
    largest = np.abs(values).max(0).astype(np.float64)
    np.testing.assert_array_less(step, largest / 127 * (1 + 2**-14) + 1e-40)
    assert (error <= np.maximum(step * (0.5 + 1e-5), 1.6e-36)).all()


@settings(max_examples=150, deadline=None)
@given(values=rows("int4"))
def test_int4_is_two_levels_a_byte_by_the_best_step_that_is_tried(values: store.FloatRows) -> None:
    """Against a loop over values, and no worse than steps that reach the largest magnitude."""
    stored, scales = encode(values, "int4")
    assert scales is not None
    assert stored.shape == (*values.shape[:2], -(-values.shape[2] // 2))
    found = decode(stored, "int4", scales)
    for row, layer, place in np.ndindex(values.shape):
        level = (int(stored[row, layer, place // 2]) >> (4 if place % 2 else 0) & 0xF) - 8
        step, value = float(scales[layer, place]), float(values[row, layer, place])
        assert found[row, layer, place] == np.float32(level * step)
        assert abs(level * step - value) <= max(step * 0.50001, abs(value) - 7 * step, 1e-36)
    largest = np.abs(values).max(0).astype(float)
    some = largest > 1e-30
    ratios = np.where(some, values / np.where(some, largest, 1), 0)
    ours, naive = (
        np.square(there - ratios).sum(0)
        for there in (np.where(some, found / np.where(some, largest, 1), 0), np.rint(ratios * 7) / 7)
    )
    assert (ours <= naive + 1e-3 * np.square(ratios).sum(0)).all()


def test_int4_of_twice_the_rank_loses_little_of_a_normal_coordinate() -> None:
    values = np.random.default_rng(0).normal(size=(5000, 1, 3)).astype(np.float32)
    stored, scales = encode(values, "int4")
    lost = np.square(decode(stored, "int4", scales) - values).mean()
    assert lost < 0.015, "of a variance of 1; steps that reach the largest value lose 0.03"


def test_int8_holds_a_layer_with_one_massive_coordinate() -> None:
    values = np.random.default_rng(0).normal(size=(256, 2, 64)).astype(np.float32)
    values[:, 1, 7] = 24_800
    stored, scales = encode(values, "int8")
    back = decode(stored, "int8", scales)
    others = np.delete(np.arange(64), 7)
    assert np.abs(back - values)[:, 1, others].max() < 0.02
    np.testing.assert_allclose(back[:, 1, 7], 24_800, rtol=1e-4)
