"""Which tokens make up a word, by the ways in which tokenizers spell them."""

from __future__ import annotations

import pytest

from ilse.predict.why.read_words import words_of


@pytest.mark.parametrize(
    ("pieces", "special", "expected"),
    [
        ("[CLS] dish ##ear ##tened when [SEP]", "[CLS] [SEP]", [0, 1, 1, 1, 2, 3]),
        ("dish ear Ġten ed , Ġwhen", "", [0, 0, 1, 1, 1, 2]),
        ("<s> ▁dish ear ▁ten <0xE4> </s>", "<s> </s>", [0, 1, 1, 2, 2, 3]),
        ("dish ear Ċ Ġten <|end|> ed", "<|end|>", [0, 0, 1, 2, 3, 4]),
        ("the film wins", "", [0, 1, 2]),
        ("[CLS] the ##", "[CLS]", [0, 1, 1]),
        ("[CLS] [SEP]", "[CLS] [SEP]", [0, 1]),
    ],
)
def test_tokens_of_a_word_are_joined(pieces: str, special: str, expected: list[int]) -> None:
    given = pieces.split()
    assert words_of(given, [piece in special.split() for piece in given]) == expected
