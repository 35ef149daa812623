"""Refuses a tokenizer that does not know the texts' words: if most tokens are unknown, rows mean nothing."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from ilse.core.errors import UserError
from pipeline.capture.tokens import Tokens

LEAST_TEXTS, LEAST_TOKENS = 8, 64
"""Fewer show nothing: a single text may be odd."""
MOST = 0.5
"""Largest share of unknown among content tokens. Texts in the tokenizer's own language have a few in a thousand."""


class Unknown:
    """Counts the unknown tokens among the first texts of a run, and says once whether they are too many.

    A tokenizer that has no unknown token knows everything.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._token, self._id = tokenizer.unk_token, tokenizer.unk_token_id
        self._settled = self._id is None
        self._texts = self._tokens = self._unknown = 0
        self._lock = threading.Lock()

    def see(self, texts: Sequence[str], tokens: Tokens) -> None:
        """Counts these, until enough are seen. Raises `UserError` where more than half of them are unknown."""
        if self._settled:
            return
        counts = [self._count(ids, content) for ids, content in zip(tokens.ids, tokens.content, strict=True)]
        with self._lock:
            self._judge(texts, tokens, counts)

    def _judge(self, texts: Sequence[str], tokens: Tokens, counts: Sequence[int]) -> None:
        self._texts += len(texts)
        self._tokens += sum(sum(content) for content in tokens.content)
        self._unknown += sum(counts)
        if self._texts < LEAST_TEXTS or self._tokens < LEAST_TOKENS:
            return
        share = self._unknown / self._tokens
        if share > MOST:
            self._texts = self._tokens = self._unknown = 0  # whoever goes on with other texts is judged by those
            raise self._refused(share, [text for text, count in zip(texts, counts, strict=True) if count])
        self._settled = True

    def _count(self, ids: list[int], content: list[bool]) -> int:
        return sum(real and token == self._id for token, real in zip(ids, content, strict=True))

    def _refused(self, share: float, texts: Sequence[str]) -> UserError:
        shown = ", ".join(repr(text if len(text) <= 40 else f"{text[:40]}…") for text in texts[:3])
        return UserError(
            "tokenizer of the model",
            expected="words that it knows",
            found=f"{100 * share:.0f} % of the texts' tokens are {self._token}, the token for what it does not know: "
            f"in {shown}",
            next_step="use the model's own tokenizer, or a model for the texts' language and script",
        )
