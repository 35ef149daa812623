from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors
from transformers import ByT5Tokenizer

from ilse.core.errors import UserError
from pipeline.capture.batching import Batch, batches, rounded
from pipeline.capture.packing import WIDTHS, pack
from pipeline.capture.tokens import Tokens, tokenise
from pipeline.capture.ways import ANY_LENGTH, Way, Zone
from tests.pipeline.conftest import build_tokenizer

PADDED, PACKED = [Zone(ANY_LENGTH, Way.PADDED)], [Zone(ANY_LENGTH, Way.PACKED)]


def tokens_of(lengths: list[int]) -> Tokens:
    ids = [[i + 1] * length for i, length in enumerate(lengths)]
    return Tokens(ids, [[place > 0 for place in range(length)] for length in lengths], [False] * len(lengths))


@given(lengths=st.lists(st.integers(1, 400), min_size=1, max_size=60), budget=st.integers(1, 1000))
def test_every_row_comes_once_within_the_budget(lengths: list[int], budget: int) -> None:
    tokens = tokens_of(lengths)
    seen: list[int] = []
    widths = []
    for batch in batches(tokens, budget, 0, PADDED):
        count, width = batch.ids.shape
        assert count == 1 or count * width <= budget
        assert width == rounded(int(batch.mask.sum(1).max()))
        widths.append(width)
        for place, position in enumerate(batch.positions.tolist()):
            length = lengths[position]
            assert batch.ids[place].tolist() == tokens.ids[position] + [0] * (width - length)
            assert batch.mask[place].tolist() == [1] * length + [0] * (width - length)
            assert batch.content[place].tolist() == tokens.content[position] + [False] * (width - length)
            seen.append(position)
    assert sorted(seen) == list(range(len(lengths)))
    assert widths == sorted(widths, reverse=True)


def texts_of(batch: Batch) -> list[tuple[int, slice]]:
    """Which text stands where in the flat batch."""
    spans = zip(batch.spans.starts.tolist(), batch.spans.lengths.tolist(), strict=True)
    places = [slice(start, start + length) for start, length in spans]
    return list(zip(batch.positions.tolist(), places, strict=True))


@given(lengths=st.lists(st.integers(1, 300), max_size=60), budget=st.integers(1, 1000))
def test_packed_or_not_every_text_comes_once_in_a_place_of_its_own(lengths: list[int], budget: int) -> None:
    tokens = tokens_of(lengths)
    seen: list[int] = []
    for batch in batches(tokens, budget, 0, PACKED):
        rows, width = batch.ids.shape
        assert rows == 1 or rows * width <= budget
        ids, content, numbers = (x.reshape(-1).tolist() for x in (batch.ids, batch.content, batch.numbers))
        padding = set(range(rows * width))
        for position, place in texts_of(batch):
            length = lengths[position]
            assert place.start // width == (place.stop - 1) // width, "a text stands in one row"
            assert ids[place] == tokens.ids[position]
            assert content[place] == tokens.content[position]
            assert numbers[place] == list(range(length))
            assert padding >= set(range(place.start, place.stop)), "no two texts share a place"
            padding -= set(range(place.start, place.stop))
            seen.append(position)
        assert all(ids[place] == 0 and not content[place] for place in padding)
        # Padding is a text of its own: it begins at 0 and counts on, so that no text sees it.
        assert all(numbers[p] == (numbers[p - 1] + 1 if p - 1 in padding and p % width else 0) for p in padding)
        assert batch.mask.reshape(-1).tolist() == [int(place not in padding) for place in range(rows * width)]
    assert sorted(seen) == list(range(len(lengths)))


@given(lengths=st.lists(st.integers(1, 64), max_size=80), width=st.sampled_from(WIDTHS))
def test_no_two_rows_would_fit_into_one(lengths: list[int], width: int) -> None:
    lengths.sort(reverse=True)
    rows = pack(lengths, width)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    filled = sorted(sum(lengths[i] for i in row) for row in rows)
    assert all(total <= width for total in filled)
    assert len(filled) < 2 or filled[0] + filled[1] > width


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=60), budget=st.integers(64, 1000))
def test_packing_never_makes_more_work(lengths: list[int], budget: int) -> None:
    """A token costs what it costs, and a little more for each that stands in its row."""

    def work(packing: bool) -> float:
        shapes = [batch.ids.shape for batch in batches(tokens_of(lengths), budget, 0, PACKED if packing else PADDED)]
        return sum(rows * width * (1 + width / 4096) for rows, width in shapes)

    assert work(packing=True) <= work(packing=False)


def test_headlines_pack_into_one_shape_without_padding() -> None:
    lengths = np.random.default_rng(0).integers(3, 15, 1024).tolist()
    made = list(batches(tokens_of(lengths), 1024, 0, PACKED))
    assert {tuple(batch.ids.shape) for batch in made[:-1]} == {(16, 64)}
    assert sum(lengths) / sum(batch.ids.numel() for batch in made) > 0.97


def test_texts_that_fill_their_rows_are_not_packed() -> None:
    (batch,) = batches(tokens_of([128] * 8), 1024, 0, PACKED)
    assert not batch.packed


def test_no_row_is_wider_than_the_budget() -> None:
    lengths = [30, 20, 14]
    narrow, wide = (list(batches(tokens_of(lengths), budget, 0, PACKED)) for budget in (63, 64))
    assert not any(batch.packed for batch in narrow)
    assert {tuple(batch.ids.shape) for batch in wide} == {(1, 64)}


@given(lengths=st.lists(st.integers(1, 100), min_size=1, max_size=60), budget=st.integers(100, 1000))
def test_evening_out_costs_no_batch(lengths: list[int], budget: int) -> None:
    full, start, order = 0, 0, sorted(lengths, reverse=True)
    while start < len(order):
        start, full = start + max(1, budget // rounded(order[start])), full + 1
    assert len(list(batches(tokens_of(lengths), budget, 0, PADDED))) == full


def test_no_small_batch_is_left_over() -> None:
    sizes = [len(batch.ids) for batch in batches(tokens_of([8] * 130), 1024, 0, PADDED)]
    assert sizes == [80, 50]  # 128 and 2 without evening out; the budget goes down in eighths


@given(length=st.integers(1, 4000))
def test_rounding_adds_an_eighth_at_most_and_gives_few_widths(length: int) -> None:
    assert length <= rounded(length) <= max(length + 1, length * 9 / 8)
    assert rounded(rounded(length)) == rounded(length)


def test_few_widths_occur() -> None:
    assert len({rounded(length) for length in range(1, 513)}) == 64


def test_batches_of_headlines_are_nearly_full() -> None:
    lengths = np.random.default_rng(0).integers(5, 13, 1024).tolist()
    made = list(batches(tokens_of(lengths), 1024, 0, PADDED))
    assert sum(lengths) / sum(batch.ids.numel() for batch in made) > 0.95


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


def test_tokens_that_the_tokenizer_adds_are_no_content() -> None:
    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[UNK] $A [PAD]", special_tokens=[("[UNK]", 0), ("[PAD]", 1)]
    )
    tokens = tokenise(tokenizer, ["film game", "film game vote phone wins"], ["a", "b"], "{text}", 6)
    assert [len(row) for row in tokens.ids] == [4, 6]
    assert tokens.content == [[False, True, True, False], [False, True, True, True, True, False]]
    assert tokens.truncated == [False, True]


def test_a_tokenizer_in_python_works_as_a_fast_one_does() -> None:
    tokens = tokenise(ByT5Tokenizer(), ["ab", "abcdef"], ["a", "b"], "{text}", 4)
    assert tokens.ids == [[100, 101, 1], [100, 101, 102, 1]]
    assert tokens.content == [[True, True, False], [True, True, True, False]]
    assert tokens.truncated == [False, True]


def test_a_tokenizer_without_padding_works() -> None:
    tokenizer = build_tokenizer()
    tokenizer.pad_token = None
    assert tokenizer.pad_token_id is None
    assert [len(row) for row in tokenise(tokenizer, ["film", "film game"], ["a", "b"], "{text}", 8).ids] == [1, 2]
