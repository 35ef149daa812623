"""Turns the token states of a layer into one row a text, in as many ways as are asked for.

Which tokens count is worked out once a batch, as places in the flattened states. A layer is then read at those places
alone: padding and the other texts of a packed row are never read, so nothing of theirs, NaN included, can leak.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from pipeline.capture.batching import Spans

CONTENT = "_content"


@dataclass(frozen=True)
class Bags:
    """The places of some tokens, text by text: those of text i begin at `offsets[i]`, and are `counts[i]`."""

    places: Int[Tensor, " counted"]
    offsets: Int[Tensor, " texts"]
    counts: Float32[Tensor, "texts 1"]

    @staticmethod
    def of(places: Int[Tensor, " counted"], counts: Int[Tensor, " texts"], device: torch.device | str) -> Bags:
        """From places in the order of texts, and how many of them are each text's."""
        offsets = counts.cumsum(0) - counts
        return Bags(places.to(device), offsets.to(device), counts.float()[:, None].to(device))

    def sums(self, flat: Float32[Tensor, "places dim"]) -> Float32[Tensor, "texts dim"]:
        """0 for a text without any."""
        total: Tensor = embedding_bag(self.places, flat, self.offsets, mode="sum")
        return total


class Counted:
    """The tokens of a batch that count, at least one a text."""

    def __init__(self, places: Tensor, counts: Int[Tensor, " texts"], device: torch.device | str) -> None:
        firsts = counts.cumsum(0) - counts
        behind = torch.ones_like(places, dtype=torch.bool)
        behind[firsts] = False
        self.all = Bags.of(places, counts, device)
        self.rest = Bags.of(places[behind], counts - 1, device)
        self.first: Int[Tensor, " texts"] = places[firsts].to(device)
        self.last: Int[Tensor, " texts"] = places[firsts + counts - 1].to(device)


def _mean(flat: Tensor, counted: Counted) -> Tensor:
    return counted.all.sums(flat) / counted.all.counts


def _mean_without_first(flat: Tensor, counted: Counted) -> Tensor:
    rest = counted.rest
    return torch.where(rest.counts > 0, rest.sums(flat) / rest.counts.clamp(min=1), flat[counted.first])


def _max(flat: Tensor, counted: Counted) -> Tensor:
    highest: Tensor = embedding_bag(counted.all.places, flat, counted.all.offsets, mode="max")
    return highest


POOLINGS: dict[str, Callable[[Tensor, Counted], Tensor]] = {
    "mean": _mean,
    "mean_without_first": _mean_without_first,
    "first": lambda flat, counted: flat[counted.first],
    "last": lambda flat, counted: flat[counted.last],
    "max": _max,
}


class Pooler:
    """The poolings of one batch, ready for any of its layers.

    Parameters
    ----------
    spans
        Where each text's tokens stand in the batch.
    content
        True for tokens that are not special. A text without any counts all its tokens.
    poolings
        Names as in `pipeline.store.POOLINGS`.
    device
        Where the states will be.
    """

    def __init__(
        self,
        spans: Spans,
        content: Bool[Tensor, "rows tokens"],
        poolings: tuple[str, ...],
        device: torch.device | str = "cpu",
    ) -> None:
        self.poolings = poolings
        self._counted: dict[str, Counted] = {}
        if any(not name.endswith(CONTENT) for name in poolings):
            self._counted[""] = Counted(spans.places, spans.lengths, device)
        if any(name.endswith(CONTENT) for name in poolings):
            self._counted[CONTENT] = Counted(*_content_places(spans, content), device)

    def __call__(self, states: Float[Tensor, "rows tokens dim"]) -> dict[str, Float32[Tensor, "texts dim"]]:
        """Each pooling of one layer, summed in float32 whatever the states' type."""
        flat = states.flatten(0, 1).float()
        return {name: self._pool(name, flat) for name in self.poolings}

    def _pool(self, name: str, flat: Tensor) -> Tensor:
        suffix = CONTENT if name.endswith(CONTENT) else ""
        return POOLINGS[name.removesuffix(CONTENT)](flat, self._counted[suffix])


def _content_places(spans: Spans, content: Bool[Tensor, "rows tokens"]) -> tuple[Tensor, Tensor]:
    """Places of the tokens that are not special, and how many of them are each text's."""
    text = torch.arange(len(spans.lengths)).repeat_interleave(spans.lengths)
    wanted = content.reshape(-1)[spans.places]
    counts = torch.bincount(text[wanted], minlength=len(spans.lengths))
    wanted = wanted | (counts[text] == 0)
    return spans.places[wanted], torch.where(counts > 0, counts, spans.lengths)
