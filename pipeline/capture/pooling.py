"""Turns the token states of a layer into one row a text, in as many ways as are asked for.

Which tokens count is worked out once a batch, as blocks of rows and tokens that stand together. A layer is then read
through slices alone: padding is never read, so NaN in it cannot leak, and states are neither masked nor copied whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

Mask = npt.NDArray[np.bool_]
CONTENT = "_content"


@dataclass(frozen=True)
class Block:
    """Neighbouring rows that share one run of tokens."""

    rows: slice
    tokens: slice


def blocks_of(counted: Mask) -> list[Block]:
    """Blocks that together cover exactly the True places of `counted` [batch, tokens], each once."""
    edges = np.diff(np.pad(counted, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)  # run by run, in the order of rows
    stops = np.nonzero(edges == -1)[1]
    turn = np.arange(len(rows)) - np.searchsorted(rows, rows)  # which run of its row it is
    blocks: list[Block] = []
    for i in np.lexsort((rows, turn)):
        tokens = slice(int(starts[i]), int(stops[i]))
        last = blocks[-1] if blocks else None
        if last is not None and last.tokens == tokens and last.rows.stop == rows[i]:
            blocks[-1] = Block(slice(last.rows.start, last.rows.stop + 1), tokens)
        else:
            blocks.append(Block(slice(int(rows[i]), int(rows[i]) + 1), tokens))
    return blocks


class Counted:
    """The tokens of a batch that count, at least one a text, and what poolings need to know of them."""

    def __init__(self, counted: Mask, device: torch.device | str) -> None:
        first = counted.argmax(1)
        last = counted.shape[1] - 1 - counted[:, ::-1].argmax(1)
        rest = counted.copy()
        rest[np.arange(len(first)), first] = False
        self.rest = blocks_of(rest)
        self._rest_count = rest.sum(1)
        self._first, self._last, self._device = first, last, device

    @cached_property
    def first(self) -> Int[Tensor, " batch"]:
        """Place of each text's first token that counts."""
        return torch.from_numpy(self._first).to(self._device)

    @cached_property
    def last(self) -> Int[Tensor, " batch"]:
        """Place of each text's last token that counts."""
        return torch.from_numpy(self._last).to(self._device)

    @cached_property
    def rest_count(self) -> Float32[Tensor, "batch 1"]:
        """How many tokens count behind each text's first."""
        return torch.from_numpy(self._rest_count.astype(np.float32))[:, None].to(self._device)


class _Layer:
    """One layer's states over the tokens that count; what several poolings share is computed once."""

    def __init__(self, states: Float[Tensor, "batch tokens dim"], counted: Counted) -> None:
        self.states, self.counted = states, counted

    def at(self, place: Int[Tensor, " batch"]) -> Float32[Tensor, "batch dim"]:
        return self.states[torch.arange(len(place), device=place.device), place].float()

    @cached_property
    def first(self) -> Float32[Tensor, "batch dim"]:
        return self.at(self.counted.first)

    @cached_property
    def rest_sum(self) -> Float32[Tensor, "batch dim"]:
        total = torch.zeros_like(self.first)
        for block in self.counted.rest:
            total[block.rows] += self.states[block.rows, block.tokens].sum(1, dtype=torch.float32)
        return total


def _mean(layer: _Layer) -> Tensor:
    # The first token apart, so that a mean has the same bits whichever other poolings are asked for.
    return (layer.rest_sum + layer.first) / (layer.counted.rest_count + 1)


def _mean_without_first(layer: _Layer) -> Tensor:
    count = layer.counted.rest_count
    return torch.where(count > 0, layer.rest_sum / count.clamp(min=1), layer.first)


def _max(layer: _Layer) -> Tensor:
    highest = layer.first.clone()
    for block in layer.counted.rest:
        there = layer.states[block.rows, block.tokens].amax(1).float()
        highest[block.rows] = torch.maximum(highest[block.rows], there)
    return highest


POOLINGS: dict[str, Callable[[_Layer], Tensor]] = {
    "mean": _mean,
    "mean_without_first": _mean_without_first,
    "first": lambda layer: layer.first,
    "last": lambda layer: layer.at(layer.counted.last),
    "max": _max,
}


class Pooler:
    """The poolings of one batch, ready for any of its layers.

    Parameters
    ----------
    mask
        1 for a text's tokens and 0 for padding, on either side; at least one token a text.
    content
        True for tokens that are not special. A text without any counts all its tokens.
    poolings
        Names as in `pipeline.config.Pooling`.
    device
        Where the states will be.
    """

    def __init__(
        self,
        mask: Int[Tensor, "batch tokens"],
        content: Bool[Tensor, "batch tokens"],
        poolings: tuple[str, ...],
        device: torch.device | str = "cpu",
    ) -> None:
        self.poolings = poolings
        real = mask.cpu().numpy().astype(bool)
        inner = content.cpu().numpy() & real
        inner |= real & ~inner.any(1, keepdims=True)
        suffixes = {CONTENT if name.endswith(CONTENT) else "" for name in poolings}
        self._counted = {s: Counted(inner if s else real, device) for s in suffixes}

    def __call__(self, states: Float[Tensor, "batch tokens dim"]) -> dict[str, Float32[Tensor, "batch dim"]]:
        """Each pooling of one layer, summed in float32 whatever the states' type."""
        layers = {suffix: _Layer(states, counted) for suffix, counted in self._counted.items()}
        return {name: self._pool(name, layers) for name in self.poolings}

    @staticmethod
    def _pool(name: str, layers: dict[str, _Layer]) -> Tensor:
        suffix = CONTENT if name.endswith(CONTENT) else ""
        return POOLINGS[name.removesuffix(CONTENT)](layers[suffix])
