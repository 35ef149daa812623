"""Turns the token states of a layer into one row per text, in as many ways as are asked for.

Which tokens count is worked out once a batch, as places in the flattened states. A layer is then read at those places
alone: padding and the other texts of a packed row are never read, so nothing of theirs, NaN included, can leak.

Of a text that is read in windows, each window is pooled over those of its tokens that count, and `join` makes the
text's row of the windows' rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from pipeline.capture.batching import Spans
from pipeline.capture.tokens import Tokens

CONTENT = "_content"


@dataclass(frozen=True)
class Bags:
    """The places of some tokens, text by text: those of text i begin at `offsets[i]`, and are `counts[i]`."""

    places: Int[Tensor, " counted"]
    offsets: Int[Tensor, " texts"]
    counts: Float32[Tensor, "texts 1"]

    @staticmethod
    def of(places: Int[Tensor, " counted"], counts: Int[Tensor, " texts"], device: torch.device | str) -> Bags:
        """Builds the bags from token positions in text order and the number of positions per text."""
        offsets = counts.cumsum(0) - counts
        return Bags(places.to(device), offsets.to(device), counts.float()[:, None].to(device))

    def sums(self, flat: Float32[Tensor, "places dim"]) -> Float32[Tensor, "texts dim"]:
        """0 for a text without any."""
        total: Tensor = embedding_bag(self.places, flat, self.offsets, mode="sum")
        return total


class Counted:
    """The tokens of a batch that count, at least one per text.

    `begins`: whether a text begins with the first of them, as it does but for a later window of one; None: every does.
    """

    def __init__(
        self,
        places: Tensor,
        counts: Int[Tensor, " texts"],
        device: torch.device | str,
        begins: Bool[Tensor, " texts"] | None = None,
    ) -> None:
        firsts = counts.cumsum(0) - counts
        begins = torch.ones_like(counts, dtype=torch.bool) if begins is None else begins
        behind = torch.ones_like(places, dtype=torch.bool)
        behind[firsts[begins]] = False
        self.all = Bags.of(places, counts, device)
        self.rest = Bags.of(places[behind], counts - begins.long(), device)
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


@dataclass(frozen=True)
class Share:
    """What a window has of the tokens that a pooling of its text counts."""

    weight: float
    """Weight of the window in its text's row, 0 to 1."""
    begins: bool
    ends: bool


def _add(so_far: Tensor | None, row: Tensor, share: Share) -> Tensor:
    return row * share.weight if so_far is None else so_far.add_(row, alpha=share.weight)


def _max_of_two(so_far: Tensor | None, row: Tensor, _share: Share) -> Tensor:
    return row.clone() if so_far is None else torch.maximum(so_far, row)


JOINS: dict[str, Callable[[Tensor | None, Tensor, Share], Tensor | None]] = {
    "mean": _add,
    "mean_without_first": _add,
    "first": lambda so_far, row, share: row.clone() if share.begins else so_far,
    "last": lambda so_far, row, share: row.clone() if share.ends else so_far,
    "max": _max_of_two,
}
"""How a window's row enters its text's, pooling by pooling."""


def join(name: str, so_far: Tensor | None, row: Tensor, share: Share) -> Tensor | None:
    """A text's row of a pooling with one more window's, [layers, dim]; None while there is nothing of it yet."""
    return JOINS[name.removesuffix(CONTENT)](so_far, row, share) if share.weight else so_far


def shares_of(name: str, windows: Tokens) -> list[Share]:
    """The share of each of these windows in its text's row, for one pooling."""
    assert windows.parts is not None
    counts = [part.stop - part.start for part in windows.parts]
    if name.endswith(CONTENT):
        content = [sum(own[p.start : p.stop]) for own, p in zip(windows.content, windows.parts, strict=True)]
        of_texts = _totals(windows, content)  # a text without any counts all its tokens
        both = zip(content, counts, windows.parts, strict=True)
        counts = [some if of_texts[part.text] else every for some, every, part in both]
    if name.removesuffix(CONTENT) == "mean_without_first":  # a text's first token is its first window's
        counts = [count - part.begins for count, part in zip(counts, windows.parts, strict=True)]
    totals = _totals(windows, counts)
    pairs = zip(counts, windows.parts, strict=True)
    return [Share(count / max(1, totals[part.text]), part.begins, part.ends) for count, part in pairs]


def _totals(windows: Tokens, counts: Sequence[int]) -> Counter[int]:
    """Text by text."""
    totals = Counter[int]()
    for part, count in zip(windows.parts or [], counts, strict=True):
        totals[part.text] += count
    return totals


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
    begins
        Of windows: whether a text begins with the first token that counts of each.
    """

    def __init__(
        self,
        spans: Spans,
        content: Bool[Tensor, "rows tokens"],
        poolings: tuple[str, ...],
        device: torch.device | str = "cpu",
        begins: Bool[Tensor, " texts"] | None = None,
    ) -> None:
        self.poolings = poolings
        self._counted: dict[str, Counted] = {}
        if any(not name.endswith(CONTENT) for name in poolings):
            self._counted[""] = Counted(spans.places, spans.lengths, device, begins)
        if any(name.endswith(CONTENT) for name in poolings):
            self._counted[CONTENT] = Counted(*_content_places(spans, content), device, begins)

    def __call__(self, states: Float[Tensor, "rows tokens dim"]) -> dict[str, Float32[Tensor, "texts dim"]]:
        """Every pooling of one layer, summed in float32 whatever the type of the states."""
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
