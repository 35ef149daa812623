"""Turns texts into token ids, special tokens included, cut at the limit."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ilse.errors import UserError
from pipeline.model.failures import panics_as_errors

_ONE_AT_A_TIME = threading.Lock()
"""A call sets the tokenizer's truncation, then uses it: another thread's call in between would cut texts elsewhere."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of each text, which of them stand for content, and which texts were cut.

    `content` is False for the special tokens that the tokenizer adds (BOS, CLS, SEP, EOS). `types` are the tokens'
    types as the tokenizer gives them, None where it gives none but 0; `pad_type` is that of padding.
    """

    ids: list[list[int]]
    content: list[list[bool]]
    truncated: list[bool]
    types: list[list[int]] | None = None
    pad_type: int = 0

    def take(self, chosen: Sequence[int]) -> Tokens:
        """Those of the texts at these positions, in this order."""
        return Tokens(
            [self.ids[i] for i in chosen],
            [self.content[i] for i in chosen],
            [self.truncated[i] for i in chosen],
            None if self.types is None else [self.types[i] for i in chosen],
            self.pad_type,
        )


class NoTokens(UserError):
    """A text of which the tokenizer keeps nothing."""


def tokenise(
    tokenizer: Any,
    texts: Sequence[str],
    text_ids: Sequence[str],
    template: str,
    max_tokens: int,
    vocabulary: int = sys.maxsize,
) -> Tokens:
    """Token ids of each text in its template, special tokens included, at most `max_tokens` each.

    `vocabulary` is how many ids the model has a row for. Raises `UserError` for a text that has a token beyond them,
    and `NoTokens` for one that has no token at all.
    """
    filled = [template.replace("{text}", text) for text in texts]
    encoded = _encoded(tokenizer, filled, truncation=True, max_length=max_tokens, return_special_tokens_mask=True)
    ids = encoded["input_ids"]
    for text_id, row in zip(text_ids, ids, strict=True):
        if not row:
            raise NoTokens(
                f"text {text_id}",
                expected="at least one token",
                found="none: the tokenizer drops all its characters",
                next_step="remove the text from the data set and run 'ilse prepare' again",
            )
    _require_rows(tokenizer, ids, text_ids, vocabulary)
    content = [[not special for special in row] for row in encoded["special_tokens_mask"]]
    types = token_types(encoded)
    return Tokens(ids, content, _truncated(tokenizer, filled, ids, max_tokens), types, tokenizer.pad_token_type_id or 0)


def _encoded(tokenizer: Any, texts: list[str], **options: Any) -> Any:
    """What the tokenizer makes of the texts. Raises `UserError` for whatever it raises."""
    try:
        with _ONE_AT_A_TIME, panics_as_errors():
            return tokenizer(texts, return_attention_mask=False, **options)
    except MemoryError:
        raise
    except Exception as error:  # of files that others made: a pattern that gives up, an id beyond what a number holds
        raise UserError(
            f"tokenizer {type(tokenizer).__name__}",
            expected="a tokenizer that reads any text",
            found=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300],
            next_step="fetch the model again from where it is published, or take another one",
        ) from error


def token_types(encoded: Any) -> list[list[int]] | None:
    """The types among what a tokenizer gives, where one is not 0: XLNet's CLS is of type 2."""
    types: list[list[int]] | None = encoded.get("token_type_ids")
    return types if types and any(map(any, types)) else None


def _require_rows(tokenizer: Any, ids: list[list[int]], text_ids: Sequence[str], vocabulary: int) -> None:
    """A tokenizer to which words were added gives ids that the model never learned a row for."""
    for text_id, row in zip(text_ids, ids, strict=True):
        if (highest := max(row)) >= vocabulary:
            raise UserError(
                f"text {text_id}",
                expected=f"token ids below {vocabulary:,}, the rows of the model's embedding",
                found=f"{tokenizer.convert_ids_to_tokens(highest)!r} with the id {highest:,}",
                next_step="take the tokenizer that the model was trained with, or enlarge the model's embedding as its "
                "authors do ('resize_token_embeddings') and save it again",
            )


def _truncated(tokenizer: Any, filled: list[str], ids: list[list[int]], max_tokens: int) -> list[bool]:
    """Only texts that fill the limit can have been cut: they alone are tokenised again, without it."""
    full = [i for i, row in enumerate(ids) if len(row) >= max_tokens]
    truncated = [False] * len(ids)
    if full:
        whole = _encoded(tokenizer, [filled[i] for i in full], verbose=False)["input_ids"]
        for i, row in zip(full, whole, strict=True):
            truncated[i] = len(row) > max_tokens
    return truncated
