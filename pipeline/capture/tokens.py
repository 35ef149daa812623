"""Turns texts into token ids, special tokens included, cut at the limit where there is one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ilse.core.errors import UserError
from pipeline.capture.noise import noised
from pipeline.model.failures import panics_as_errors
from pipeline.store import CaptureSpec, WindowSpec
from pipeline.tokenizer.loading import special_tokens

_ONE_AT_A_TIME = threading.Lock()
"""A call sets the tokenizer's truncation, then uses it: another thread's call in between would cut texts elsewhere."""


@dataclass(frozen=True)
class Part:
    """A window of a text, and which of the window's tokens, from `start` to `stop`, count among the text's.

    The parts of a text's windows follow each other without a gap, and together are the text.
    """

    text: int
    start: int
    stop: int
    begins: bool
    """Whether the text begins with it."""
    ends: bool


@dataclass(frozen=True)
class Tokens:
    """Token ids of each text, which of them stand for content, and which texts were cut.

    `content` is False for the special tokens that the tokenizer adds (BOS, CLS, SEP, EOS). `types` are the tokens'
    types as the tokenizer gives them, None where it gives none but 0; `pad_type` is that of padding.

    With `windows` a text that is longer than one is read window by window. `in_windows` gives these windows, each as a
    text of its own: there `parts` says whose each one is.
    """

    ids: list[list[int]]
    content: list[list[bool]]
    truncated: list[bool]
    types: list[list[int]] | None = None
    pad_type: int = 0
    windows: WindowSpec | None = None
    parts: list[Part] | None = None

    def take(self, chosen: Sequence[int]) -> Tokens:
        """The texts at these positions, in this order."""
        return Tokens(
            [self.ids[i] for i in chosen],
            [self.content[i] for i in chosen],
            [self.truncated[i] for i in chosen],
            None if self.types is None else [self.types[i] for i in chosen],
            self.pad_type,
            self.windows,
            None if self.parts is None else [self.parts[i] for i in chosen],
        )


class NoTokens(UserError):
    """A text of which the tokenizer keeps nothing."""


def tokenise(
    tokenizer: Any,
    texts: Sequence[str],
    text_ids: Sequence[str],
    template: str,
    max_tokens: int | None,
    vocabulary: int = sys.maxsize,
    windows: WindowSpec | None = None,
) -> Tokens:
    """Token ids of each text in its template, special tokens included, at most `max_tokens` each.

    `vocabulary` is how many ids the model has a row for; `windows` are those in which longer texts will be read. Raises
    `UserError` for a text that has a token beyond the vocabulary or that the windows would not hold as a whole, and
    `NoTokens` for one that has no token at all.
    """
    filled = [template.replace("{text}", text) for text in texts]
    cut = {"verbose": False} if max_tokens is None else {"truncation": True, "max_length": max_tokens}
    encoded = _encoded(tokenizer, filled, return_special_tokens_mask=True, **cut)
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
    if windows is not None:
        _require_room(tokenizer, windows, content, text_ids)
    truncated = [False] * len(ids) if max_tokens is None else _truncated(tokenizer, filled, ids, max_tokens)
    return Tokens(ids, content, truncated, token_types(encoded), tokenizer.pad_token_type_id or 0, windows)


def tokens_of(
    capture: CaptureSpec, tokenizer: Any, vocabulary: int, texts: Sequence[str], text_ids: Sequence[str]
) -> Tokens:
    """`tokenise` as a capture has it: with its noise, its template, its limit and its windows."""
    if (noise := capture.noise) is not None:
        texts = [noised(text, text_id, noise) for text, text_id in zip(texts, text_ids, strict=True)]
    return tokenise(
        tokenizer, texts, text_ids, capture.template, capture.max_tokens, vocabulary, windows=capture.windows
    )


def _encoded(tokenizer: Any, texts: list[str], **options: Any) -> Any:
    """Tokenises the texts. Raises `UserError` for any error of the tokenizer."""
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
            next_step="download the model again from its publisher, or use another one",
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


def around(content: Sequence[bool]) -> tuple[int, int]:
    """How many special tokens stand before a text and after it; none where it has no others."""
    if not any(content):
        return 0, 0
    return list(content).index(True), list(reversed(content)).index(True)


def _require_room(tokenizer: Any, windows: WindowSpec, content: list[list[bool]], text_ids: Sequence[str]) -> None:
    """Whether windows hold every token of the longer texts, and the special tokens that the tokenizer adds."""
    added = special_tokens(tokenizer)
    for text_id, own in zip(text_ids, content, strict=True):
        special = sum(around(own))
        if len(own) <= windows.tokens or (special == added and windows.tokens - special >= windows.stride):
            continue
        raise UserError(
            f"text {text_id}, in windows of {windows.tokens} tokens, {windows.stride} tokens apart",
            expected=f"{added} special tokens around the text, and room for the text between them",
            found=f"{special} special tokens",
            next_step="read texts in one piece with this tokenizer, without extract.windows",
        )


def _truncated(tokenizer: Any, filled: list[str], ids: list[list[int]], max_tokens: int) -> list[bool]:
    """Which texts were truncated. Only texts that fill the limit can be: these alone are tokenised again without it."""
    full = [i for i, row in enumerate(ids) if len(row) >= max_tokens]
    truncated = [False] * len(ids)
    if full:
        whole = _encoded(tokenizer, [filled[i] for i in full], verbose=False)["input_ids"]
        for i, row in zip(full, whole, strict=True):
            truncated[i] = len(row) > max_tokens
    return truncated
