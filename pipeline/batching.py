"""Turns the texts of a shard into padded batches of nearly equal length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ilse.errors import UserError

# Lengths are rounded up to few values: on a CPU every new shape costs a kernel compilation.
LENGTH_STEP = 8


@dataclass(frozen=True)
class Tokens:
    """Token ids of each text, and which texts were cut."""

    ids: list[list[int]]
    truncated: list[bool]


def tokenise(tokenizer: Any, texts: Sequence[str], text_ids: Sequence[str], template: str, max_tokens: int) -> Tokens:
    """Token ids of each text in its template, special tokens included, at most `max_tokens` each.

    Raises `UserError` for a text that has no token at all.
    """
    filled = [template.replace("{text}", text) for text in texts]
    ids = tokenizer(filled, truncation=True, max_length=max_tokens, return_attention_mask=False)["input_ids"]
    for text_id, row in zip(text_ids, ids, strict=True):
        if not row:
            raise UserError(
                f"text {text_id}",
                expected="at least one token",
                found="none: the tokenizer drops all its characters",
                next_step="remove the text from the data set and run 'ilse prepare' again",
            )
    # Only texts that fill the limit can have been cut: they alone are tokenised again, without it.
    full = [i for i, row in enumerate(ids) if len(row) == max_tokens]
    truncated = [False] * len(ids)
    if full:
        whole = tokenizer([filled[i] for i in full], return_attention_mask=False, verbose=False)["input_ids"]
        for i, row in zip(full, whole, strict=True):
            truncated[i] = len(row) > max_tokens
    return Tokens(ids, truncated)


@dataclass(frozen=True)
class Batch:
    """Right-padded rows of one forward pass, and where they stand in the shard."""

    positions: Int[Tensor, " batch"]
    ids: Int[Tensor, "batch tokens"]
    mask: Int[Tensor, "batch tokens"]


def batches(ids: Sequence[Sequence[int]], batch_tokens: int, pad: int) -> Iterator[Batch]:
    """Every row once, longest first, in batches of at most `batch_tokens` tokens with padding (or of one row)."""
    order = sorted(range(len(ids)), key=lambda i: (-len(ids[i]), i))
    start = 0
    while start < len(order):
        width = -(-len(ids[order[start]]) // LENGTH_STEP) * LENGTH_STEP
        rows = order[start : start + max(1, batch_tokens // width)]
        yield _pad([ids[i] for i in rows], rows, width, pad)
        start += len(rows)


def _pad(rows: list[Sequence[int]], positions: list[int], width: int, pad: int) -> Batch:
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    return Batch(torch.tensor(positions), ids, mask)
