"""Poolings against a loop over single texts in NumPy."""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.capture.pooling import Pooler, blocks_of
from pipeline.config import Pooling

NAMES: tuple[str, ...] = get_args(Pooling)
FloatArray = npt.NDArray[np.float32]


def one_text(name: str, states: FloatArray, content: npt.NDArray[np.bool_]) -> FloatArray:
    """The pooling of one text's states [tokens, dim], by its plain definition."""
    if name.endswith("_content") and content.any():
        states = states[content]
    match name.removesuffix("_content"):
        case "mean":
            return states.astype(np.float64).mean(0).astype(np.float32)
        case "mean_without_first":
            return (states[1:] if len(states) > 1 else states).astype(np.float64).mean(0).astype(np.float32)
        case "first":
            return states[0]
        case "last":
            return states[-1]
        case _:
            return states.max(0)


@st.composite
def masks(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask and content of a batch whose padding is on the left, on the right or on both sides."""
    width, rows = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    mask, content = torch.zeros(rows, width, dtype=torch.long), torch.zeros(rows, width, dtype=torch.bool)
    for row in range(rows):
        start = draw(st.integers(0, width - 1))
        stop = draw(st.integers(start + 1, width))
        mask[row, start:stop] = 1
        content[row] = torch.tensor(draw(st.lists(st.booleans(), min_size=width, max_size=width)))
    return mask, content


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@given(batch=masks(), seed=st.integers(0, 2**16))
def test_poolings_are_those_of_each_text_alone(
    dtype: torch.dtype, batch: tuple[torch.Tensor, torch.Tensor], seed: int
) -> None:
    mask, content = batch
    real = mask.bool()
    states = torch.randn(*mask.shape, 5, generator=torch.Generator().manual_seed(seed)).to(dtype)
    states[~real] = torch.nan
    before = states.clone()
    found = Pooler(mask, content, NAMES)(states)
    assert list(found) == list(NAMES)
    assert torch.equal(states.nan_to_num(), before.nan_to_num()), "the model's states stay what they are"
    for name, rows in found.items():
        assert rows.dtype == torch.float32
        for row in range(len(mask)):
            alone = states[row, real[row]].float().numpy()
            expected = one_text(name, alone, content[row, real[row]].numpy())
            np.testing.assert_allclose(rows[row].numpy(), expected, rtol=1e-5, atol=1e-6)


@given(batch=masks(), seed=st.integers(0, 2**16))
def test_a_pooling_has_the_same_bits_whichever_others_are_asked_for(
    batch: tuple[torch.Tensor, torch.Tensor], seed: int
) -> None:
    states = torch.randn(*batch[0].shape, 5, generator=torch.Generator().manual_seed(seed))
    together = Pooler(*batch, NAMES)(states)
    for name in NAMES:
        assert torch.equal(Pooler(*batch, (name,))(states)[name], together[name])


@given(batch=masks())
def test_blocks_cover_each_counted_token_once(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    counted = batch[1].numpy()
    covered = np.zeros(counted.shape, int)
    for block in blocks_of(counted):
        covered[block.rows, block.tokens] += 1
    np.testing.assert_array_equal(covered, counted)


def test_texts_of_one_length_are_one_block() -> None:
    mask = np.arange(6) < np.array([6, 6, 6, 4, 4, 1])[:, None]
    assert [(b.rows, b.tokens) for b in blocks_of(mask)] == [
        (slice(0, 3), slice(0, 6)),
        (slice(3, 5), slice(0, 4)),
        (slice(5, 6), slice(0, 1)),
    ]


def test_sums_are_in_float32() -> None:
    states = torch.ones(1, 1024, 1, dtype=torch.bfloat16)
    states[0, 5] = 256
    mask = torch.ones(1, 1024, dtype=torch.long)
    assert Pooler(mask, mask.bool(), ("mean",))(states)["mean"].item() == (256 + 1023) / 1024


def test_mean_without_first_keeps_clear_of_massive_activations() -> None:
    states = torch.full((1, 4, 1), 0.001)
    states[0, 0] = 24_800.0
    mask = torch.ones(1, 4, dtype=torch.long)
    found = Pooler(mask, mask.bool(), ("mean", "mean_without_first"))(states)
    assert found["mean_without_first"].item() == pytest.approx(0.001, rel=1e-6)
