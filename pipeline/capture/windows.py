"""Cuts texts into windows that a model reads each as a text of its own, and says which tokens of a window count.

Of a text of tokens 0 to 8 between a beginning B and an end E, the windows of 6 tokens, 3 tokens apart, are

    B 0 1 2 3 E      of which count    B 0 1 2 3
    B 3 4 5 6 E                              4 5 6
    B 6 7 8 E                                  7 8 E

so that the tokens that count are the text, once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pipeline.capture.tokens import Part, Tokens, around
from pipeline.store import WindowSpec

T = TypeVar("T")


def in_windows(tokens: Tokens) -> Tokens:
    """The windows of the texts, text after text, with their `parts`; the texts themselves where each is one window."""
    spec = tokens.windows
    if spec is None or all(len(ids) <= spec.tokens for ids in tokens.ids):
        return replace(tokens, windows=None)
    windows = [window for text, content in enumerate(tokens.content) for window in _windows(text, content, spec)]
    return Tokens(
        [window.of(tokens.ids) for window in windows],
        [window.of(tokens.content) for window in windows],
        [tokens.truncated[window.part.text] for window in windows],
        None if tokens.types is None else [window.of(tokens.types) for window in windows],
        tokens.pad_type,
        parts=[window.part for window in windows],
    )


def tokens_read(tokens: Tokens) -> int:
    """How many tokens the model reads: those of all windows, with what they hold twice."""
    return sum(map(len, in_windows(tokens).ids))


def unbroken(tokens: Tokens) -> list[int]:
    """Lengths of the pieces of the texts, in order, whose first token alone was read with nothing before it.

    A piece is a text, or what counts of windows that go on from the window before them.
    """
    read = in_windows(tokens)
    if read.parts is None:
        return [len(ids) for ids in read.ids]
    lengths: list[int] = []
    for part in read.parts:
        if part.start == 0:
            lengths.append(0)
        lengths[-1] += part.stop - part.start
    return lengths


@dataclass(frozen=True)
class _Window:
    """The tokens of a text in one window: those before `before`, from `start` to `stop`, and from `behind` on."""

    part: Part
    before: int
    start: int
    stop: int
    behind: int

    def of(self, texts: Sequence[list[T]]) -> list[T]:
        row = texts[self.part.text]
        return row[: self.before] + row[self.start : self.stop] + row[self.behind :]


def _windows(text: int, content: Sequence[bool], spec: WindowSpec) -> Iterator[_Window]:
    length = len(content)
    if length <= spec.tokens:
        yield _Window(Part(text, 0, length, begins=True, ends=True), 0, 0, length, length)
        return
    before, after = around(content)
    room, end = spec.tokens - before - after, length - after
    assert spec.stride <= room  # `tokenise` has seen to it
    start = held = before
    while held < end:
        stop = min(start + room, end)
        begins, ends = start == before, stop == end
        first = 0 if begins else before + held - start
        last = before + stop - start + (after if ends else 0)
        yield _Window(Part(text, first, last, begins, ends), before, start, stop, end)
        start, held = start + spec.stride, stop
