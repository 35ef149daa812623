"""Turns texts into token ids, special tokens included, cut at the limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ilse.errors import UserError


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
