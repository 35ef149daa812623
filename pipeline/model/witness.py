"""What Hugging Face itself says the hidden states of two made-up texts are: the measure that capture is held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float32, Int
from torch import Tensor, nn

from ilse.errors import UserError
from pipeline.model.architecture import depth, find_blocks, model_inputs, width

LENGTHS = (16, 9)


@dataclass(frozen=True)
class Witness:
    """Hidden states of two right-padded texts, as `output_hidden_states` gives them.

    Parameters
    ----------
    ids, mask
        The texts; `mask` is 1 for tokens and 0 for padding.
    states
        Of every layer.
    from_embedding
        Whether the first layer is what enters the first block (nearly all models), or what leaves it (Mamba).
    """

    ids: Int[Tensor, "batch tokens"]
    mask: Int[Tensor, "batch tokens"]
    states: Float32[Tensor, "layers batch tokens dim"]
    from_embedding: bool

    @property
    def layers(self) -> tuple[str, ...]:
        """Name of every layer; the last is the last block's output after the final norm, where there is one."""
        blocks = len(self.states) - 1
        if self.from_embedding:
            return ("embedding", *(f"block {i}" for i in range(1, blocks)), "final")
        return (*(f"block {i}" for i in range(1, blocks + 1)), "final")


@torch.inference_mode()
def call_witness(model: Any, device: str) -> Witness:
    """Runs the model once over the made-up texts.

    Raises `UserError` for a model that gives no hidden states, or values that its compute type cannot hold.
    """
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    ids = made_up_ids(model, mask)
    entering: list[Tensor] = []
    handle = _first_block(model).register_forward_pre_hook(
        lambda _block, args, kwargs: entering.append(entering_states(args, kwargs)), with_kwargs=True
    )
    try:
        inputs = model_inputs(model, ids.to(device), mask.to(device))
        states = model(**inputs, output_hidden_states=True).hidden_states
    finally:
        handle.remove()
    _require(model, states, mask)
    from_embedding = not entering or torch.equal(entering[0], states[0])
    return Witness(ids, mask, torch.stack([state.cpu().float() for state in states]), from_embedding)


def made_up_ids(model: Any, mask: Int[Tensor, "batch tokens"], padding: int = 0) -> Int[Tensor, "batch tokens"]:
    """Ids of the vocabulary for texts of the mask's shape, with the id `padding` in the padding."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    # Strewn over the vocabulary: the lowest ids are special tokens, whose states low precision makes chaotic.
    ids = (torch.arange(mask.numel()).reshape(mask.shape) * 1009 + 259) % vocabulary
    return torch.where(mask.bool(), ids, padding % vocabulary)


def entering_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The token states among a block's arguments."""
    states: Tensor = args[0] if args else kwargs["hidden_states"]
    return states


def _first_block(model: Any) -> nn.Module:
    """Or a module that never runs, where no blocks are found: the first layer is then taken for the embedding."""
    try:
        return find_blocks(model)[0]
    except UserError:
        return nn.Identity()


def _require(model: Any, states: tuple[Tensor, ...] | None, mask: Tensor) -> None:
    where = f"model architecture '{model.config.model_type}'"
    expected = f"hidden states of {depth(model.config) + 1} layers, each [texts, tokens, {width(model.config)}]"
    shape = (*mask.shape, width(model.config))
    if not states or len(states) != depth(model.config) + 1 or any(state.shape != shape for state in states):
        found = f"{len(states)} of {[tuple(s.shape) for s in states]}" if states else "none"
        raise UserError(where, expected=expected, found=found, next_step="take another model: nothing here can read it")
    real = mask.bool()
    for layer, state in enumerate(states):
        if not state.cpu()[real].isfinite().all():
            raise UserError(
                f"{where}, layer {layer}",
                expected=f"finite values in {state.dtype}".replace("torch.", ""),
                found="infinite or undefined ones on a made-up text",
                next_step="set extract.compute_type to bfloat16 or float32",
            )
