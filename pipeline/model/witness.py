"""Reference states: Hugging Face's hidden states of made-up texts, each read alone, to compare capture with."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float32, Int
from torch import Tensor, nn

from ilse.core.errors import UserError
from pipeline.model.agreement import BATCHED, error_of
from pipeline.model.architecture import (
    accepts,
    depth,
    find_blocks,
    model_inputs,
    own_padding,
    routed,
    vocabulary,
    width,
)
from pipeline.model.positions import window
from pipeline.model.pristine import Pristine
from pipeline.model.switches import BASE, LONGEST, Lengths, lengths_for


@dataclass(frozen=True)
class MadeUp:
    """A made-up text, and the hidden states of its tokens in every layer."""

    ids: tuple[int, ...]
    states: Float32[Tensor, "layers tokens dim"]


@dataclass(frozen=True)
class Witness:
    """Hidden states of made-up texts, as `output_hidden_states` gives them when each is read alone and unpadded.

    Parameters
    ----------
    texts
        Of several lengths.
    lengths
        Why of these.
    from_embedding
        Whether the first layer is what enters the first block (nearly all models), or what leaves it (Mamba).
    window
        Longest text in tokens.
    feels_padding
        Whether a text's states are others in a padded and masked batch; or its blocks see it filled up to windows of
        their own.
    routed
        Whether it is a mixture of experts.
    """

    texts: tuple[MadeUp, ...]
    lengths: Lengths
    from_embedding: bool
    window: int
    feels_padding: bool = False
    routed: bool = False

    @property
    def layers(self) -> tuple[str, ...]:
        """Name of every layer; the last is the last block's output after the final norm, where there is one."""
        blocks = len(self.texts[0].states) - 1
        if self.from_embedding:
            return ("embedding", *(f"block {i}" for i in range(1, blocks)), "final")
        return (*(f"block {i}" for i in range(1, blocks + 1)), "final")


@torch.inference_mode()
def call_witness(model: Any, device: str) -> Witness:
    """Runs the model over each made-up text, and leaves nothing of it on the model.

    Raises `UserError` for a model that reads no text alone, gives no hidden states, or values that its compute type
    cannot hold.
    """
    _require_texts(model)
    pristine = Pristine(model)
    longest = window(model, device)
    pristine.restore()
    lengths = lengths_for(model.config, flops_per_token(model), longest)
    texts, from_embedding, padded, filled = [], True, False, False
    for number, length in enumerate(lengths.texts):
        with _entering(model) as entering:
            ids = made_up_ids(model, length, number)
            given = _states(model, ids, device)
        pristine.restore()
        states = _required(model, given, length)
        from_embedding &= not entering or torch.equal(entering[0][:, :length], states[0][:, :length])
        texts.append(MadeUp(tuple(ids), torch.stack([state[0, :length].cpu().float() for state in states])))
        padded |= any(state.shape[1] > length for state in states)
        filled |= bool(entering) and entering[0].shape[1] > length
    if padded:
        _require_behind(model, texts)
    feels_padding = filled or _feels_padding(model, texts, lengths, device)
    pristine.restore()
    return Witness(tuple(texts), lengths, from_embedding, longest, feels_padding, routed(model.config))


def made_up_ids(model: Any, length: int, number: int) -> list[int]:
    """Ids of the vocabulary for the text of this number, none of them that of padding."""
    size, pad = vocabulary(model), own_padding(model.config)
    # Strewn over the vocabulary: the lowest ids are special tokens, whose states low precision makes chaotic.
    ids = [(place * 1009 + number * 16141 + 259) % size for place in range(length)]
    return [(i + 1) % size if i == pad else i for i in ids]


def entering_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The token states among a block's arguments."""
    states: Tensor = args[0] if args else kwargs["hidden_states"]
    return states


def flops_per_token(model: Any) -> int:
    """Twice the entries of the blocks' weight matrices."""
    try:
        part: nn.Module = find_blocks(model)
    except UserError:  # read through hidden_states: the whole model is near enough
        part = model
    return 2 * sum(weight.numel() for weight in part.parameters() if weight.dim() >= 2)


def _states(model: Any, ids: list[int], device: str) -> tuple[Tensor, ...] | None:
    row: Int[Tensor, "1 tokens"] = torch.tensor([ids], device=device)
    inputs = model_inputs(model, row, torch.ones_like(row))
    states = model(**inputs, output_hidden_states=True).hidden_states
    return None if states is None else tuple(states)  # Reformer gives a list


def _feels_padding(model: Any, texts: list[MadeUp], lengths: Lengths, device: str) -> bool:
    """Whether the shortest text is another one beside a longer one; behind a switch, where the model has any."""
    limit = LONGEST if lengths.switches else max(BASE)
    within = sorted((text for text in texts if len(text.ids) <= limit), key=lambda text: len(text.ids))
    short, long = within[0], within[-1]
    mask = torch.arange(len(long.ids)) < torch.tensor([len(short.ids), len(long.ids)])[:, None]
    ids = torch.tensor([[*short.ids, *long.ids[len(short.ids) :]], long.ids])
    try:
        inputs = model_inputs(model, ids.to(device), mask.long().to(device))
        states = model(**inputs, output_hidden_states=True).hidden_states
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception:  # one that reads no padded texts
        return True
    compute_type = str(states[0].dtype).removeprefix("torch.")
    found = torch.stack([state[0, : len(short.ids)].cpu().float() for state in states])
    return error_of(found, short.states, compute_type, routed(model.config)) > BATCHED[compute_type]


@contextmanager
def _entering(model: Any) -> Iterator[list[Tensor]]:
    """What enters the first block; nothing where no blocks are found: the first layer then counts as the embedding."""
    entering: list[Tensor] = []
    try:
        block: nn.Module = find_blocks(model)[0]
    except UserError:
        block = nn.Identity()
    handle = block.register_forward_pre_hook(
        lambda _block, args, kwargs: entering.append(entering_states(args, kwargs)), with_kwargs=True
    )
    try:
        yield entering
    finally:
        handle.remove()


def _require_texts(model: Any) -> None:
    """Raises `UserError` for a model that reads something else, or has nothing to read it with."""
    where, step = f"model architecture '{model.config.model_type}'", "use another model: this one cannot be read"
    if not accepts(model, "input_ids"):
        first = next(iter(inspect.signature(model.forward).parameters), "nothing")
        raise UserError(where, expected="a model that reads token ids", found=f"one that reads {first}", next_step=step)
    if depth(model.config) < 1:
        found = f"{depth(model.config)} in its configuration"
        raise UserError(where, expected="at least one block", found=found, next_step=step)


def _required(model: Any, states: tuple[Tensor, ...] | None, tokens: int) -> tuple[Tensor, ...]:
    where = f"model architecture '{model.config.model_type}'"
    expected = f"hidden states of {depth(model.config) + 1} layers, each [texts, tokens, {width(model.config)}]"
    if not states or len(states) != depth(model.config) + 1 or not all(_fits(s, tokens, model) for s in states):
        found = f"{len(states)} of {[tuple(s.shape) for s in states]}" if states else "none"
        raise UserError(where, expected=expected, found=found, next_step="use another model: this one cannot be read")
    for layer, state in enumerate(states):
        if not state.isfinite().all():
            raise UserError(
                f"{where}, layer {layer}",
                expected=f"finite values in {state.dtype}".replace("torch.", ""),
                found="infinite or undefined ones on a made-up text",
                next_step="set extract.compute_type to bfloat16 or float32",
            )
    return states


def _fits(states: Tensor, tokens: int, model: Any) -> bool:
    """BigBird and its like fill a text up to whole blocks, after its tokens."""
    return states.ndim == 3 and states.shape[1] >= tokens and states.shape[::2] == (1, width(model.config))


def _require_behind(model: Any, texts: list[MadeUp]) -> None:
    """Requires that what a model adds to a text comes after its tokens; before them, it would be the same for all."""
    firsts = torch.stack([text.states[0, 0] for text in texts])
    if len(texts) < 2 or len(firsts.unique(dim=0)) == 1:
        raise UserError(
            f"model architecture '{model.config.model_type}'",
            expected="a state for each token, and for nothing before them",
            found="more states than tokens, of which the first is the same for all texts",
            next_step="use another model: this one cannot be read",
        )
