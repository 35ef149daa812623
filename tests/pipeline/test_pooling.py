"""Poolings against a loop over single texts in NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.capture.batching import Spans
from pipeline.capture.pooling import Pooler
from pipeline.store import POOLINGS

NAMES = POOLINGS
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
def spans(draw: st.DrawFn) -> tuple[Spans, torch.Tensor]:
    """Texts in a batch, up to three to a row with padding on the left, on the right and between; and its content."""
    width, rows = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    starts, lengths = [], []
    for row in range(rows):
        edges = sorted(draw(st.sets(st.integers(0, width), min_size=2, max_size=6)))
        for start, stop in zip(edges[::2], edges[1::2], strict=False):
            starts.append(row * width + start)
            lengths.append(stop - start)
    content = torch.tensor(draw(st.lists(st.booleans(), min_size=rows * width, max_size=rows * width)))
    return Spans(torch.tensor(starts), torch.tensor(lengths)), content.reshape(rows, width)


def one_row(states: torch.Tensor) -> tuple[Spans, torch.Tensor]:
    """One text that fills its row, all of it content."""
    length = states.shape[1]
    return Spans(torch.tensor([0]), torch.tensor([length])), torch.ones(1, length, dtype=torch.bool)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@given(batch=spans(), seed=st.integers(0, 2**16))
def test_poolings_are_those_of_each_text_alone(
    dtype: torch.dtype, batch: tuple[Spans, torch.Tensor], seed: int
) -> None:
    where, content = batch
    states = torch.randn(*content.shape, 5, generator=torch.Generator().manual_seed(seed)).to(dtype)
    padding = torch.ones(content.numel(), dtype=torch.bool)
    texts = [slice(int(start), int(start + n)) for start, n in zip(where.starts, where.lengths, strict=True)]
    for text in texts:
        padding[text] = False
    states[padding.reshape(content.shape)] = torch.nan
    before = states.clone()
    found = Pooler(where, content, NAMES)(states)
    assert list(found) == list(NAMES)
    assert torch.equal(states.nan_to_num(), before.nan_to_num()), "the model's states stay what they are"
    for name, rows in found.items():
        assert rows.dtype == torch.float32
        for row, text in enumerate(texts):
            alone = states.flatten(0, 1)[text].float().numpy()
            expected = one_text(name, alone, content.reshape(-1)[text].numpy())
            np.testing.assert_allclose(rows[row].numpy(), expected, rtol=1e-5, atol=1e-6)


@given(batch=spans(), seed=st.integers(0, 2**16))
def test_a_pooling_has_the_same_bits_whichever_others_are_asked_for(
    batch: tuple[Spans, torch.Tensor], seed: int
) -> None:
    states = torch.randn(*batch[1].shape, 5, generator=torch.Generator().manual_seed(seed))
    together = Pooler(*batch, NAMES)(states)
    for name in NAMES:
        assert torch.equal(Pooler(*batch, (name,))(states)[name], together[name])


def test_sums_are_in_float32() -> None:
    states = torch.ones(1, 1024, 1, dtype=torch.bfloat16)
    states[0, 5] = 256
    assert Pooler(*one_row(states), ("mean",))(states)["mean"].item() == (256 + 1023) / 1024


def test_mean_without_first_keeps_clear_of_massive_activations() -> None:
    states = torch.full((1, 4, 1), 0.001)
    states[0, 0] = 24_800.0
    found = Pooler(*one_row(states), ("mean", "mean_without_first"))(states)
    assert found["mean_without_first"].item() == pytest.approx(0.001, rel=1e-6)
