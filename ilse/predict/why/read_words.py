"""A text as a model reads it: its tokens in words, and which of them make up one word of the text.

Tokenizers mark words in two ways: by a sign at the first token of a word (`▁`, `Ġ`), or by one at all others (`##`).
Where a tokenizer has neither, each token is a word of its own. Special tokens always are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FIRST = ("▁", "Ġ", "Ċ", "ĉ")
"""Prefixes of a word's first token: a space, or a line end or tab in the spelling of byte-level tokenizers."""
FURTHER = "##"
"""Prefix of a word's further tokens in WordPiece."""


@dataclass(frozen=True)
class ReadText:
    """The tokens of a text.

    Parameters
    ----------
    tokens
        Each in words.
    words
        Those that the tokens make up.
    word_of
        Which word a token is part of, [tokens].
    """

    tokens: list[str]
    words: list[str]
    word_of: list[int]


def read_text(tokenizer: Any, ids: Sequence[int]) -> ReadText:
    """The tokens of these ids."""
    pieces = [str(piece or "") for piece in tokenizer.convert_ids_to_tokens(list(ids))]
    special = set(tokenizer.all_special_ids)
    word_of = words_of(pieces, [one in special for one in ids])
    of_words: list[list[int]] = [[] for _ in range(word_of[-1] + 1)]
    for one, word in zip(ids, word_of, strict=True):
        of_words[word].append(one)
    return ReadText([tokenizer.decode([one]) for one in ids], [tokenizer.decode(own) for own in of_words], word_of)


def words_of(pieces: Sequence[str], special: Sequence[bool]) -> list[int]:
    """The word of each token, from the tokenizer's own spelling of them."""
    plain = [piece for piece, alone in zip(pieces, special, strict=True) if not alone]
    marks_first = any(piece.startswith(FIRST) for piece in plain)
    marks_further = not marks_first and any(piece.startswith(FURTHER) for piece in plain)
    found, word, after_special = list[int](), -1, True
    for piece, alone in zip(pieces, special, strict=True):
        goes_on = (marks_first and not piece.startswith(FIRST)) or (marks_further and piece.startswith(FURTHER))
        if alone or after_special or not goes_on:
            word += 1
        found.append(word)
        after_special = alone
    return found
