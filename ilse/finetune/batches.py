"""Batches of texts of about the same length, padded on the right to few widths."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pipeline.capture.batching import Batch, lay_out, rounded
from pipeline.capture.tokens import Tokens
from pipeline.capture.ways import ANY_LENGTH

GROUP = 8
"""Batches of texts that are drawn together and sorted by length: random enough to train on, with little padding."""


def in_order(tokens: Tokens, size: int, pad: int, window: int = ANY_LENGTH) -> Iterator[Batch]:
    """Every text once, longest first; `positions` say which text each one is. No row is wider than the window."""
    for chosen in _sorted(tokens, list(range(len(tokens.ids))), size):
        yield _batch(tokens, chosen, pad, window)


def shuffled(
    tokens: Tokens, size: int, pad: int, generator: torch.Generator, window: int = ANY_LENGTH
) -> Iterator[Batch]:
    """Every text once, in batches of texts of about one length, in another order each time."""
    texts = torch.randperm(len(tokens.ids), generator=generator)
    batches = [batch for group in texts.split(size * GROUP) for batch in _sorted(tokens, group.tolist(), size)]
    for place in torch.randperm(len(batches), generator=generator).tolist():
        yield _batch(tokens, batches[place], pad, window)


def count(tokens: Tokens, size: int) -> int:
    """How many batches `shuffled` gives: a group's last batch may be a smaller one, in the last group alone."""
    return -(-len(tokens.ids) // size)


def _sorted(tokens: Tokens, texts: list[int], size: int) -> list[list[int]]:
    ordered = sorted(texts, key=lambda i: -len(tokens.ids[i]))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _batch(tokens: Tokens, texts: list[int], pad: int, window: int) -> Batch:
    width = min(rounded(max(len(tokens.ids[i]) for i in texts)), window)
    return lay_out(tokens, [[i] for i in texts], width, pad)
