"""Turns the texts of a shard into padded batches of nearly equal length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ilse.errors import UserError

# Lengths up to the first number are rounded up to multiples of the second: on a CPU every new shape costs a kernel
# compilation. A fixed step of 8 filled batches of headlines to 0.69 only, this to about 0.9.
LENGTH_STEPS = ((16, 1), (32, 2), (64, 4), (256, 8))
LONGEST_STEP = 32
# Budgets that are tried when batches are evened out, as parts of the whole one; few, for few shapes.
BUDGET_PARTS = 8


@dataclass(frozen=True)
class Tokens:
    """Token ids of each text, which of them stand for content, and which texts were cut.

    `content` is False for the special tokens that the tokenizer adds (BOS, CLS, SEP, EOS).
    """

    ids: list[list[int]]
    content: list[list[bool]]
    truncated: list[bool]


def tokenise(tokenizer: Any, texts: Sequence[str], text_ids: Sequence[str], template: str, max_tokens: int) -> Tokens:
    """Token ids of each text in its template, special tokens included, at most `max_tokens` each.

    Raises `UserError` for a text that has no token at all.
    """
    filled = [template.replace("{text}", text) for text in texts]
    encoded = tokenizer(
        filled, truncation=True, max_length=max_tokens, return_attention_mask=False, return_special_tokens_mask=True
    )
    ids = encoded["input_ids"]
    for text_id, row in zip(text_ids, ids, strict=True):
        if not row:
            raise UserError(
                f"text {text_id}",
                expected="at least one token",
                found="none: the tokenizer drops all its characters",
                next_step="remove the text from the data set and run 'ilse prepare' again",
            )
    content = [[not special for special in row] for row in encoded["special_tokens_mask"]]
    return Tokens(ids, content, _truncated(tokenizer, filled, ids, max_tokens))


def _truncated(tokenizer: Any, filled: list[str], ids: list[list[int]], max_tokens: int) -> list[bool]:
    """Only texts that fill the limit can have been cut: they alone are tokenised again, without it."""
    full = [i for i, row in enumerate(ids) if len(row) >= max_tokens]
    truncated = [False] * len(ids)
    if full:
        whole = tokenizer([filled[i] for i in full], return_attention_mask=False, verbose=False)["input_ids"]
        for i, row in zip(full, whole, strict=True):
            truncated[i] = len(row) > max_tokens
    return truncated


@dataclass(frozen=True)
class Batch:
    """Right-padded rows of one forward pass, and where they stand in the shard.

    `mask` is 1 for tokens and 0 for padding; `content` is True for tokens that are not special.
    """

    positions: Int[Tensor, " batch"]
    ids: Int[Tensor, "batch tokens"]
    mask: Int[Tensor, "batch tokens"]
    content: Bool[Tensor, "batch tokens"]


def rounded(length: int) -> int:
    """The width of a batch whose longest text has `length` tokens."""
    step = next((step for limit, step in LENGTH_STEPS if length <= limit), LONGEST_STEP)
    return -(-length // step) * step


def batches(tokens: Tokens, batch_tokens: int, pad: int) -> Iterator[Batch]:
    """Every text once, longest first, in batches of at most `batch_tokens` tokens with padding (or of one text).

    Of all budgets that need no more batches than the whole one, the smallest is taken: batches come out even, and
    no small one is left over. What a batch holds follows from the texts and the arguments alone.
    """
    order = sorted(range(len(tokens.ids)), key=lambda i: (-len(tokens.ids[i]), i))
    widths = [rounded(len(tokens.ids[i])) for i in order]
    for rows in _even_cuts(widths, batch_tokens):
        yield _pad(tokens, order[rows], widths[rows.start], pad)


def _even_cuts(widths: list[int], batch_tokens: int) -> list[slice]:
    whole = _cuts(widths, batch_tokens)
    for part in range(1, BUDGET_PARTS):
        even = _cuts(widths, batch_tokens * part // BUDGET_PARTS)
        if len(even) == len(whole):
            return even
    return whole


def _cuts(widths: list[int], budget: int) -> list[slice]:
    """Slices of the texts, longest first, each of as many as the budget holds at the width of its first."""
    slices, start = [], 0
    while start < len(widths):
        stop = min(len(widths), start + max(1, budget // widths[start]))
        slices.append(slice(start, stop))
        start = stop
    return slices


def _pad(tokens: Tokens, positions: list[int], width: int, pad: int) -> Batch:
    lengths = np.array([len(tokens.ids[i]) for i in positions])
    real = np.arange(width) < lengths[:, None]
    ids = np.full(real.shape, pad, np.int64)
    ids[real] = np.fromiter(chain.from_iterable(tokens.ids[i] for i in positions), np.int64, lengths.sum())
    content = np.zeros_like(real)
    content[real] = np.fromiter(chain.from_iterable(tokens.content[i] for i in positions), bool, lengths.sum())
    arrays = (np.array(positions), ids, real.astype(np.int64), content)
    return Batch(*map(torch.from_numpy, arrays))
