"""Pools every layer inside one forward pass, so that one layer's token states are alive at a time.

Rows follow Hugging Face's `hidden_states`: the embedding output, the output of each block, and as the last row the
last block's output after the model's final norm, where it has one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ilse.errors import UserError
from pipeline.model import accepts

# These derive positions from the padding by themselves, and count them from another start.
OWN_POSITIONS = {"roberta", "xlm-roberta", "camembert", "mpnet"}


def mean_pool(
    states: Float[Tensor, "batch tokens dim"], mask: Int[Tensor, "batch tokens"]
) -> Float[Tensor, "batch dim"]:
    """Mean over the tokens that `mask` marks with 1, in float32 whatever the states' type.

    Padding is cut out rather than multiplied by zero: some kernels leave NaN there (transformers #32390).
    """
    kept = mask.bool().unsqueeze(-1)
    return states.float().masked_fill(~kept, 0).sum(1) / kept.sum(1)


def find_blocks(model: nn.Module) -> nn.ModuleList:
    """The list of the model's blocks: the only one with as many entries as its configuration has layers."""
    config: Any = model.config
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == config.num_hidden_layers]
    if len(lists) != 1:
        raise _unknown(config.model_type, f"{len(lists)} lists of {config.num_hidden_layers} blocks")
    return lists[0]


@torch.inference_mode()
def pooled_layers(
    model: nn.Module, ids: Int[Tensor, "batch tokens"], mask: Int[Tensor, "batch tokens"]
) -> Float[Tensor, "batch layers dim"]:
    """The pooled row of every layer, float32. `mask` is 1 for tokens and 0 for padding, on either side."""
    rows: list[Tensor] = []
    # What enters block i is what `hidden_states[i]` names, with whatever the model did to its embeddings.
    with _watch_inputs(find_blocks(model), lambda states: rows.append(mean_pool(states, mask))):
        output = model(**model_inputs(model, ids, mask))
    rows.append(mean_pool(output.last_hidden_state, mask))
    return torch.stack(rows, dim=1)


def model_inputs(
    model: nn.Module, ids: Int[Tensor, "batch tokens"], mask: Int[Tensor, "batch tokens"]
) -> dict[str, Any]:
    """Arguments of the forward pass: no cache, and positions that start at the first token under left padding."""
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if accepts(model, "use_cache"):
        inputs["use_cache"] = False
    config: Any = model.config
    left_padded = not bool(mask[:, 0].all())
    if left_padded and accepts(model, "position_ids") and config.model_type not in OWN_POSITIONS:
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return inputs


@torch.inference_mode()
def prove_capture(model: nn.Module) -> None:
    """Compares capture with `output_hidden_states` on two made-up texts; a `UserError` names a model that differs.

    Run once after loading: an architecture that capture misreads gives an error and never wrong rows.
    """
    config: Any = model.config
    device = next(model.parameters()).device
    ids = torch.arange(1, 17, device=device).reshape(2, 8) % max(2, config.vocab_size)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    states = model(**model_inputs(model, ids, mask), output_hidden_states=True).hidden_states
    expected = torch.stack([mean_pool(state, mask) for state in states], dim=1)
    found = pooled_layers(model, ids, mask)
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-3, atol=1e-3):
        raise _unknown(config.model_type, "other rows than output_hidden_states gives")


@contextmanager
def _watch_inputs(blocks: nn.ModuleList, seen: Any) -> Iterator[None]:
    def hook(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen(args[0] if args else kwargs["hidden_states"])

    handles = [block.register_forward_pre_hook(hook, with_kwargs=True) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _unknown(model_type: str, found: str) -> UserError:
    return UserError(
        f"model architecture '{model_type}'",
        expected="blocks that capture can read, equal to Hugging Face's hidden states",
        found=found,
        next_step="report the architecture; tested ones are listed in docs/cache-format.md",
    )
