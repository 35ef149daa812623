"""Groups the texts of a shard into batches of few shapes and little padding, in ways that leave the model's rows
unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby, repeat

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pipeline.capture.packing import WIDTHS, pack
from pipeline.capture.tokens import Tokens
from pipeline.capture.ways import Way, Zone

# Lengths up to the first number are rounded up to multiples of the second: on a CPU every new shape costs a kernel
# compilation. A fixed step of 8 filled batches of headlines to 0.69 only, this to about 0.9.
LENGTH_STEPS = ((16, 1), (32, 2), (64, 4), (256, 8))
LONGEST_STEP = 32
# Budgets that are tried when batches are evened out, as parts of the whole one; few, for few shapes.
BUDGET_PARTS = 8
# What a token costs more for each token of its row, as a part: attention reads the whole row. As in SmolLM2-135M.
WIDER_COST = 1 / 4096


@dataclass(frozen=True)
class Spans:
    """Positions of each text's tokens in a batch whose rows are laid out flat, one after another."""

    starts: Int[Tensor, " texts"]
    lengths: Int[Tensor, " texts"]

    @cached_property
    def numbers(self) -> Int[Tensor, " tokens"]:
        """Index of every token within its text, from 0."""
        firsts = self.lengths.cumsum(0) - self.lengths
        return torch.arange(int(self.lengths.sum())) - firsts.repeat_interleave(self.lengths)

    @cached_property
    def places(self) -> Int[Tensor, " tokens"]:
        """Index of every token in the flat batch."""
        return self.starts.repeat_interleave(self.lengths) + self.numbers


@dataclass(frozen=True)
class Batch:
    """Rows of one forward pass: a text each, padded on either side, or several texts packed one after another.

    `positions` says which text of the shard each one is; `content` is True for tokens that are not special; `types`
    are the tokens' types, None where all are 0.

    Of windows, which are texts here, `part` says where the tokens stand that count, and `begins` whether a text begins
    with them; None where every token of every text counts.
    """

    positions: Int[Tensor, " texts"]
    spans: Spans
    ids: Int[Tensor, "rows tokens"]
    content: Bool[Tensor, "rows tokens"]
    types: Int[Tensor, "rows tokens"] | None = None
    part: Spans | None = None
    begins: Bool[Tensor, " texts"] | None = None

    @property
    def counted(self) -> Spans:
        """The spans of the tokens that pooling counts."""
        return self.part or self.spans

    @property
    def packed(self) -> bool:
        """Whether a row holds more than one text."""
        return len(self.positions) > len(self.ids)

    @cached_property
    def mask(self) -> Int[Tensor, "rows tokens"]:
        """1 for tokens and 0 for padding."""
        mask = torch.zeros(self.ids.numel(), dtype=torch.long)
        mask[self.spans.places] = 1
        return mask.reshape(self.ids.shape)

    @property
    def numbers(self) -> Int[Tensor, "rows tokens"]:
        """Index of every token within its text. Padding after the texts is counted from 0 too, as one more text."""
        rows, width = self.ids.shape
        ends = self.spans.starts + self.spans.lengths
        # The latest start at or before each place: of a row, a text, or the padding behind one.
        start = torch.zeros(rows * width + 1, dtype=torch.long)
        for starts in (torch.arange(0, rows * width, width), self.spans.starts, ends):
            start[starts] = starts
        place = torch.arange(rows * width)
        return (place - start[:-1].cummax(0).values).reshape(rows, width)


def rounded(length: int) -> int:
    """The width of a batch whose longest text has `length` tokens."""
    step = next((step for limit, step in LENGTH_STEPS if length <= limit), LONGEST_STEP)
    return -(-length // step) * step


def batches(tokens: Tokens, batch_tokens: int, pad: int, zones: Sequence[Zone]) -> Iterator[Batch]:
    """Every text once, longest first, in batches of at most `batch_tokens` tokens with padding (or of one text).

    `zones`, ascending, say how texts of which lengths share a batch; those of two zones never do, and no row is wider
    than its zone. What a batch holds follows from the texts and the arguments alone.
    """
    order = sorted(range(len(tokens.ids)), key=lambda i: (-len(tokens.ids[i]), i))
    lengths = [len(tokens.ids[i]) for i in order]
    stop = len(order)
    plans = []
    for zone in zones[:-1]:
        start = sum(length > zone.longest for length in lengths)
        plans.append(_zone_plan(zone, lengths[start:stop], batch_tokens, order[start:stop]))
        stop = start
    plans.append(_zone_plan(zones[-1], lengths[:stop], batch_tokens, order[:stop]))
    for rows, width in chain.from_iterable(reversed(plans)):
        yield lay_out(tokens, rows, width, pad)


Plan = list[tuple[list[list[int]], int]]
"""The batches, each as the text numbers of every row and the width of the rows."""


def _zone_plan(zone: Zone, lengths: list[int], batch_tokens: int, order: list[int]) -> Plan:
    """`lengths`, longest first, are of the texts that `order` names."""
    if zone.way in (Way.EXACT, Way.ALONE):
        plan = _exact_plan(lengths, 1 if zone.way is Way.ALONE else batch_tokens)
    else:
        packed = (w for w in WIDTHS if zone.way is Way.PACKED and w <= min(batch_tokens, zone.longest))
        plan = min((_plan(lengths, width, batch_tokens, zone.longest) for width in (0, *packed)), key=_work)
    return [([[order[i] for i in row] for row in rows], width) for rows, width in plan]


def _exact_plan(lengths: list[int], batch_tokens: int) -> Plan:
    """Texts of one length alone share a batch."""
    plan, start = [], 0
    for length, same in groupby(lengths):
        count = len(list(same))
        cuts = _even_cuts([length] * count, batch_tokens)
        plan += [([[start + i] for i in range(count)[cut]], length) for cut in cuts]
        start += count
    return plan


def _plan(lengths: list[int], width: int, batch_tokens: int, longest: int) -> Plan:
    """Texts of at most `width` tokens in rows of that width, longer ones in rows of their own."""
    single = sum(length > width for length in lengths)
    widths = [max(length, min(rounded(length), longest)) for length in lengths[:single]]
    plan = [([[i] for i in range(single)[cut]], widths[cut.start]) for cut in _even_cuts(widths, batch_tokens)]
    rows = [[single + i for i in row] for row in pack(lengths[single:], width)]
    return plan + [(rows[cut], width) for cut in _even_cuts([width] * len(rows), batch_tokens)]


def _work(plan: Plan) -> float:
    return float(sum(len(rows) * width * (1 + width * WIDER_COST) for rows, width in plan))  # 0 where all is lent


def _even_cuts(widths: list[int], batch_tokens: int) -> list[slice]:
    """Cuts into as few batches as the full budget allows, under the smallest budget that still gives that number.

    Batches come out even, and no small one is left over.
    """
    whole = _cuts(widths, batch_tokens)
    for part in range(1, BUDGET_PARTS):
        even = _cuts(widths, batch_tokens * part // BUDGET_PARTS)
        if len(even) == len(whole):
            return even
    return whole


def _cuts(widths: list[int], budget: int) -> list[slice]:
    """Slices of the rows, longest first, each of as many as the budget holds at the width of its first."""
    slices, start = [], 0
    while start < len(widths):
        stop = min(len(widths), start + max(1, budget // widths[start]))
        slices.append(slice(start, stop))
        start = stop
    return slices


def lay_out(tokens: Tokens, rows: Sequence[Sequence[int]], width: int, pad: int) -> Batch:
    """The texts of each row one after the other, and padding after the last."""
    texts = list(chain.from_iterable(rows))
    lengths = torch.tensor([len(tokens.ids[i]) for i in texts])
    row = torch.tensor(list(chain.from_iterable(repeat(r, len(of_row)) for r, of_row in enumerate(rows))))
    filled = torch.zeros(len(rows), dtype=torch.long).index_add_(0, row, lengths)
    before = lengths.cumsum(0) - lengths - (filled.cumsum(0) - filled)[row]
    spans = Spans(row * width + before, lengths)
    places, shape = spans.places.numpy(), (len(rows), width)

    def flat(of_texts: Sequence[Sequence[int]], padding: int) -> Tensor:
        values = np.full(len(rows) * width, padding, np.int64)
        values[places] = np.fromiter(chain.from_iterable(of_texts[i] for i in texts), np.int64, len(places))
        return torch.from_numpy(values.reshape(shape))

    types = None if tokens.types is None else flat(tokens.types, tokens.pad_type)
    part, begins = None, None
    if tokens.parts is not None:
        parts = [tokens.parts[i] for i in texts]
        first, stop = (torch.tensor([getattr(part, end) for part in parts]) for end in ("start", "stop"))
        part, begins = Spans(spans.starts + first, stop - first), torch.tensor([part.begins for part in parts])
    content = flat(tokens.content, 0).bool()
    return Batch(torch.tensor(texts), spans, flat(tokens.ids, pad), content, types, part, begins)
