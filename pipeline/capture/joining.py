"""Joins what is read batch by batch: the rows of a text come from those of its windows, whichever batches hold them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int
from torch import Tensor

from pipeline.capture.pooling import Share, join, shares_of
from pipeline.capture.tokens import Tokens


@dataclass(frozen=True)
class BatchRows:
    """The rows of some texts, in their order, with the layers of the request.

    `tokens`: one tensor a text, of its real tokens in order, as wide as the model or its projection; None where they
    were not asked for. Of windows, both are of the tokens that count.
    """

    pooled: dict[str, Float32[Tensor, "batch layers dim"]]
    tokens: list[Float32[Tensor, "_ token_layers width"]] | None

    def take(self, chosen: Sequence[int]) -> BatchRows:
        """The rows at these indices."""
        places = torch.tensor(chosen, dtype=torch.long)
        pooled = {name: rows[places] for name, rows in self.pooled.items()}
        return BatchRows(pooled, None if self.tokens is None else [self.tokens[i] for i in chosen])

    def followed_by(self, others: Sequence[BatchRows]) -> BatchRows:
        """These, then the others."""
        every = [self, *others]
        pooled = {name: torch.cat([rows.pooled[name] for rows in every]) for name in self.pooled}
        tokens = None if self.tokens is None else [text for rows in every for text in rows.tokens or []]
        return BatchRows(pooled, tokens)


class Joiner:
    """The rows of texts from those of their windows.

    A long text may have more windows than a batch holds, and a batch may hold windows of many texts. So what is read
    of a window is added to its text's when it comes: memory holds a row of each pooling for a text that is not
    complete yet, however many windows it has.

    Parameters
    ----------
    windows
        From `in_windows`, with `parts`.
    poolings
        Names as in `pipeline.store.POOLINGS`.

    Example
    -------
    >>> joiner = Joiner(windows, ("mean",))
    >>> for batch in reader.batches(windows, 1024):
    ...     texts, rows = joiner.add(batch.positions, reader.read(batch))  # of the texts that are complete with these
    """

    def __init__(self, windows: Tokens, poolings: Sequence[str]) -> None:
        assert windows.parts is not None
        self._parts, self._shares = windows.parts, {name: shares_of(name, windows) for name in poolings}
        self._left = Counter(part.text for part in self._parts)
        self._windows = dict(self._left)
        self._lengths = Counter[int]()
        self._firsts = []  # of each window: where its tokens stand among the text's that count
        for part in self._parts:
            self._firsts.append(self._lengths[part.text])
            self._lengths[part.text] += part.stop - part.start
        self._begun: dict[int, _Text] = {}

    def add(self, windows: Int[Tensor, " windows"], rows: BatchRows) -> tuple[Int[Tensor, " texts"], BatchRows]:
        """Adds the rows of these windows; gives the texts that are complete with them, perhaps none, and their rows."""
        numbers = windows.tolist()
        whole = [place for place, number in enumerate(numbers) if self._windows[self._parts[number].text] == 1]
        texts, done = [self._parts[numbers[place]].text for place in whole], list[BatchRows]()
        for place, number in enumerate(numbers):
            text = self._parts[number].text
            if self._windows[text] == 1:
                continue
            begun = self._begun.setdefault(text, _Text(self._lengths[text]))
            begun.add(rows, place, self._firsts[number], {name: of[number] for name, of in self._shares.items()})
            self._left[text] -= 1
            if not self._left[text]:
                texts.append(text)
                done.append(self._begun.pop(text).rows())
        return torch.tensor(texts, dtype=torch.long), rows.take(whole).followed_by(done)


class _Text:
    """The parts of one text that have been read so far."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._pooled: dict[str, Tensor | None] = {}
        self._tokens: Tensor | None = None

    def add(self, rows: BatchRows, place: int, first: int, shares: dict[str, Share]) -> None:
        for name, pooled in rows.pooled.items():
            self._pooled[name] = join(name, self._pooled.get(name), pooled[place], shares[name])
        if rows.tokens is not None:
            states = rows.tokens[place]
            if self._tokens is None:
                self._tokens = torch.empty(self._length, *states.shape[1:])
            self._tokens[first : first + len(states)] = states

    def rows(self) -> BatchRows:
        pooled = {name: rows[None] for name, rows in self._pooled.items() if rows is not None}
        return BatchRows(pooled, None if self._tokens is None else [self._tokens])
