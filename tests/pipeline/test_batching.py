from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilse.errors import UserError
from pipeline.batching import LENGTH_STEP, batches, tokenise
from tests.pipeline.conftest import build_tokenizer


@given(lengths=st.lists(st.integers(1, 70), min_size=1, max_size=60), budget=st.integers(1, 300))
def test_every_row_comes_once_within_the_budget(lengths: list[int], budget: int) -> None:
    rows = [[i + 1] * length for i, length in enumerate(lengths)]
    seen: list[int] = []
    widths = []
    for batch in batches(rows, budget, pad=0):
        count, width = batch.ids.shape
        assert width % LENGTH_STEP == 0
        assert count == 1 or count * width <= budget
        widths.append(width)
        for place, position in enumerate(batch.positions.tolist()):
            kept = batch.ids[place][batch.mask[place].bool()].tolist()
            assert kept == rows[position]
            assert not batch.ids[place][~batch.mask[place].bool()].any()
            seen.append(position)
    assert sorted(seen) == list(range(len(rows)))
    assert widths == sorted(widths, reverse=True)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


def test_long_texts_are_cut_and_only_they_are_counted(tokenizer: Any) -> None:
    tokens = tokenise(tokenizer, ["film", "film game vote", "film game vote phone"], ["a", "b", "c"], "{text}", 3)
    assert [len(row) for row in tokens.ids] == [1, 3, 3]
    assert tokens.truncated == [False, False, True]


def test_the_template_surrounds_the_text(tokenizer: Any) -> None:
    plain, framed = (tokenise(tokenizer, ["{x} film"], ["a"], t, 20).ids[0] for t in ("{text}", "the {text} falls"))
    the, falls = (tokenizer(word)["input_ids"] for word in ("the", "falls"))
    assert framed == [*the, *plain, *falls]


def test_a_text_without_tokens_is_named(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"text bbb(.|\n)*at least one token"):
        tokenise(tokenizer, ["film", "   "], ["aaa", "bbb"], "{text}", 8)
