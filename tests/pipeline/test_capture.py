"""Captured rows against Hugging Face's own hidden states, pooled the slow way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from ilse.errors import UserError
from pipeline.capture import find_blocks, mean_pool, model_inputs, pooled_layers, prove_capture
from tests.pipeline.conftest import TINY

ARCHITECTURES = list(TINY)


def load(folder: Path) -> Any:
    return AutoModel.from_pretrained(folder).eval()


def padded(rows: list[list[int]], side: str) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows)) + 3
    ids, mask = torch.ones(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    return ids, mask


def some_rows(count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 20, (count,), generator=generator).tolist()
    return [torch.randint(2, 64, (length,), generator=generator).tolist() for length in lengths]


def reference(model: Any, row: list[int]) -> Tensor:
    """One text alone, no padding, no hooks: the mean over its tokens of each hidden state, [layers, dim]."""
    with torch.no_grad():
        states = model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states
    return torch.stack([state[0].double().mean(0) for state in states]).float()


@pytest.mark.parametrize("size", [1, 16])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_captured_rows_are_the_pooled_hidden_states(
    tiny_model: Callable[[str], Path], name: str, side: str, size: int
) -> None:
    model = load(tiny_model(name))
    rows = some_rows(size)
    ids, mask = padded(rows, side)
    found = pooled_layers(model, ids, mask)
    alone = torch.stack([reference(model, row) for row in rows])
    assert found.shape == (size, 4, 32)
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)
    with torch.no_grad():
        states = model(**model_inputs(model, ids, mask), output_hidden_states=True).hidden_states
    weights = mask[..., None].float()
    batched = torch.stack([(state * weights).sum(1) / weights.sum(1) for state in states], dim=1)
    torch.testing.assert_close(found, batched, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gpt2"])
def test_the_last_row_has_passed_the_final_norm(tiny_model: Callable[[str], Path], name: str) -> None:
    model = load(tiny_model(name))
    seen = []
    find_blocks(model)[-1].register_forward_hook(
        lambda _m, _a, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    ids, mask = padded([[5, 6, 7]], "right")
    rows = pooled_layers(model, ids, mask)
    assert not torch.allclose(rows[0, -1], mean_pool(seen[0].reshape(1, -1, 32), mask)[0], atol=1e-3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_capture_is_proven_on_every_architecture(tiny_model: Callable[[str], Path], name: str) -> None:
    prove_capture(load(tiny_model(name)))


def test_a_model_that_capture_misreads_is_refused_by_name(tiny_model: Callable[[str], Path]) -> None:
    model = load(tiny_model("llama"))
    original = type(model).forward

    def with_a_twist(output_hidden_states: bool = False, **inputs: Any) -> Any:
        """What an unknown architecture might do: its hidden states are not what enters its blocks."""
        output = original(model, output_hidden_states=output_hidden_states, **inputs)
        if output_hidden_states:
            output.hidden_states = tuple(2 * state for state in output.hidden_states)
        return output

    model.forward = with_a_twist
    with pytest.raises(UserError, match=r"model architecture 'llama'(.|\n)*output_hidden_states"):
        prove_capture(model)


def test_a_model_without_a_list_of_blocks_is_refused() -> None:
    class Odd(torch.nn.Module):
        class config:
            model_type = "odd"
            num_hidden_layers = 3

    with pytest.raises(UserError, match=r"architecture 'odd'(.|\n)*0 lists of 3 blocks"):
        find_blocks(Odd())


def test_pooling_ignores_whatever_stands_in_the_padding() -> None:
    states = torch.randn(2, 4, 8)
    states[1, 2:] = torch.nan
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    pooled = mean_pool(states, mask)
    torch.testing.assert_close(pooled, torch.stack([states[0].mean(0), states[1, :2].mean(0)]))


def test_pooling_adds_up_in_float32() -> None:
    states = torch.full((1, 1024, 1), 1.0, dtype=torch.bfloat16)
    states[0, 0] = 256
    assert mean_pool(states, torch.ones(1, 1024, dtype=torch.long)).item() == (256 + 1023) / 1024
