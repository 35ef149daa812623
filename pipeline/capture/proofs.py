"""Proofs on a loaded model with made-up texts, before any of its rows is trusted: nothing is concluded from its name.

The measure is what `output_hidden_states` gave for each made-up text alone. First hooks have to read the same of a
text alone, whatever was read before it; then the fastest way to batch texts is sought that changes no text's states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from pipeline.capture.batching import lay_out
from pipeline.capture.forward import Forward
from pipeline.capture.packing import WIDTHS
from pipeline.capture.tokens import Tokens
from pipeline.capture.ways import Way, Zone
from pipeline.model.agreement import BATCHED, COMPILED, TOLERANCE, error_of
from pipeline.model.architecture import accepts, unknown
from pipeline.model.load import FrozenModel
from pipeline.model.witness import MadeUp, made_up_ids

# A model that can't be run in some way says so by one of these.
REFUSALS = (TypeError, ValueError, AttributeError, RuntimeError, LookupError, AssertionError)

Member = MadeUp | Sequence[int]
"""A text of a trial batch: one whose states are known, or ids that only stand beside it."""


@torch.inference_mode()
def prove_capture(forward: Forward) -> None:
    """Compares what is read of made-up texts, one after the other, with what `output_hidden_states` gives of each.

    Where a forward pass leaves something on the model that changes the next one's states, it is taken back from now
    on. An architecture that capture misreads gives a `UserError` and never wrong rows.
    """
    facts, lengths = forward.frozen.facts, forward.frozen.witness.lengths
    tolerance = (COMPILED if facts.compiled else TOLERANCE)[facts.compute_type]
    pristine = forward.frozen.pristine
    pristine.restore()  # a pass for other layers may have left what matters to these alone
    if facts.compiled:
        _meet_first_shapes(forward)
    try:
        error = _error_in_turn(forward)
        changed = pristine.restore()
        if error > tolerance or lengths.proven < facts.window:  # longer texts may leave what these do not
            pristine.needed = True
        if error > tolerance:
            error = _error_in_turn(forward)
    except torch.OutOfMemoryError:
        raise
    except REFUSALS as raised:
        raise unknown(facts.architecture, f"{type(raised).__name__}: {' '.join(str(raised).split())[:200]}") from raised
    if error > tolerance:
        why = f"other states than output_hidden_states gives, by {error:.2%} of their norm"
        left = f"; a forward pass changes {', '.join(changed[:3])}" if changed else ""
        raise unknown(facts.architecture, why + left)


@torch.inference_mode()
def prove_ways(forward: Forward, pad: int) -> tuple[Zone, ...]:
    """How texts of which lengths may be batched, from the shortest on; each the fastest way that is proven.

    Where no fast way serves all lengths, texts on either side of a switch that the config names are kept apart. Texts
    longer than those that were tried behind the next switch are read alone, as the measure itself is.
    """
    frozen = forward.frozen
    lengths, window = frozen.witness.lengths, frozen.facts.window
    prover = _Prover(forward, pad)
    parted = bool(lengths.switches) and lengths.rescaled
    whole = None if parted else prover.batched(0, lengths.proven)
    zones = [Zone(lengths.proven, whole)] if whole else _zones(prover, lengths.switches, lengths.proven)
    if lengths.proven < window:
        zones.append(Zone(window, Way.ALONE))
    return tuple(zones)


def _zones(prover: _Prover, switches: Sequence[int], longest: int) -> list[Zone]:
    zones, above = [], 0
    for limit in (*switches, longest):
        way = prover.batched(above, limit) if switches else None  # tried already where there are none
        zones.append(Zone(limit, way or prover.unpadded(above, limit)))
        above = limit
    return zones


class _Prover:
    """Tries ways on made-up texts of more than `above` and up to `limit` tokens."""

    def __init__(self, forward: Forward, pad: int) -> None:
        self._forward, self._pad = forward, pad
        self._texts = sorted(forward.frozen.witness.texts, key=lambda text: len(text.ids))

    def batched(self, above: int, limit: int) -> Way | None:
        """The fastest way in which texts of several lengths share a batch; None where they can't."""
        texts = self._between(above, limit)
        if above + 1 < limit == len(texts[0].ids):  # shorter texts would be padded, and none of these can be
            return None
        if _holds(lambda: self._unmasked(texts, limit)):
            return Way.PACKED if _holds(lambda: self._packed(texts, limit)) else Way.PADDED
        return Way.MASKED if _holds(lambda: self._masked(texts, limit)) else None

    def unpadded(self, above: int, limit: int) -> Way:
        """Whether texts of one length may share a batch."""
        texts = self._between(above, limit)
        return Way.EXACT if _holds(lambda: all(self._beside(text) for text in texts)) else Way.ALONE

    def _between(self, above: int, limit: int) -> list[MadeUp]:
        return [text for text in self._texts if above < len(text.ids) <= limit]

    def _beside(self, text: MadeUp) -> bool:
        twin = self._filler(len(text.ids), 1)
        found = self._states([twin, text.ids], [[0], [1]], len(text.ids), Way.EXACT, self._pad)
        return self._agrees(found[1], text)

    def _masked(self, texts: Sequence[MadeUp], limit: int) -> bool:
        return all(self._pair(*pair, Way.MASKED, self._pad) is not None for pair in self._pairs(texts, limit))

    def _unmasked(self, texts: Sequence[MadeUp], limit: int) -> bool:
        """Whether texts need no mask, and the padding's ids do not change a bit of the shorter ones' states."""
        pairs = self._pairs(texts, limit)
        seven = (self._pair(*pair, Way.PADDED, 7) for pair in pairs)
        first = next(seven)
        if first is None or any(states is None for states in seven):
            return False
        eleven = self._pair(*pairs[0], Way.PADDED, 11)
        return eleven is not None and torch.equal(first, eleven)

    def _pairs(self, texts: Sequence[MadeUp], limit: int) -> list[tuple[MadeUp, Member, int]]:
        """The shortest text beside each other one, and the width of their rows: an odd one, where that is allowed."""
        first, *rest = texts
        others: list[Member] = list(rest) or [self._filler(min(len(first.ids) + 4, limit), 2)]
        lengths = [len(other.ids if isinstance(other, MadeUp) else other) for other in others]
        widths = [min(length + 3 - length % 2, limit) for length in lengths]
        return [(first, other, width) for other, width in zip(others, widths, strict=True)]

    def _pair(self, first: MadeUp, other: Member, width: int, way: Way, padding: int) -> Tensor | None:
        """States of the first text, in one batch with the other; None where they are not those of each alone."""
        ids = [first.ids, other.ids if isinstance(other, MadeUp) else other]
        states, beside = self._states(ids, [[0], [1]], width, way, padding)
        right = self._agrees(states, first) and (not isinstance(other, MadeUp) or self._agrees(beside, other))
        return states if right else None

    def _packed(self, texts: Sequence[MadeUp], limit: int) -> bool:
        """Tests that packing is exact: a text's states are the same to the bit, whatever other texts share its row."""
        if limit < WIDTHS[0] or not accepts(self._forward.frozen.model, "position_ids"):
            return False
        switches = [switch for switch in self._forward.frozen.witness.lengths.switches if switch < WIDTHS[-1]]
        if switches:  # rows may be longer than a switch, none of whose texts is
            width = next((w for w in WIDTHS if max(switches) < w <= limit), WIDTHS[0])
            rows = _strewn(texts, width)
        else:
            texts = texts[:2]
            width, rows = len(texts[-1].ids) + 8, [[5, text, 3] for text in texts]
        seven, eleven = (self._packed_states(rows, width, other) for other in (7, 11))
        return seven is not None and eleven is not None and torch.equal(seven, eleven)

    def _packed_states(self, rows: Sequence[Sequence[MadeUp | int]], width: int, other: int) -> Tensor | None:
        """States of the texts in these rows, beside so many of the id `other`; None where they are not as alone."""
        members = [member for row in rows for member in row]
        ids = [m.ids if isinstance(m, MadeUp) else [other % self._vocabulary] * m for m in members]
        numbers = iter(range(len(members)))
        found = self._states(ids, [[next(numbers) for _ in row] for row in rows], width, Way.PACKED, other)
        texts = [(states, m) for states, m in zip(found, members, strict=True) if isinstance(m, MadeUp)]
        right = all(self._agrees(states, text) for states, text in texts)
        return torch.cat([states for states, _ in texts], dim=1) if texts and right else None

    @property
    def _vocabulary(self) -> int:
        return self._forward.frozen.facts.vocabulary

    def _filler(self, length: int, number: int) -> Sequence[int]:
        return made_up_ids(self._forward.frozen.model, length, 100 + number)

    def _agrees(self, found: Tensor, text: MadeUp) -> bool:
        return agrees(found, text, self._forward.layers, self._forward.frozen)

    def _states(
        self, texts: Sequence[Sequence[int]], rows: Sequence[Sequence[int]], width: int, way: Way, padding: int
    ) -> list[Float32[Tensor, "layers _ dim"]]:
        return read_made_up(self._forward, texts, rows, width, way, padding % self._vocabulary)


def _holds(trial: Callable[[], bool]) -> bool:
    """Whether a trial comes out right; a model that cannot be run so raises."""
    try:
        return trial()
    except torch.OutOfMemoryError:
        raise
    except REFUSALS:
        return False


def agrees(found: Float[Tensor, "layers tokens dim"], text: MadeUp, layers: Sequence[int], frozen: FrozenModel) -> bool:
    """Whether states of a made-up text, in these layers, are those that it has alone."""
    facts = frozen.facts
    tolerance = (COMPILED if facts.compiled else BATCHED)[facts.compute_type]
    return error_of(found, text.states[list(layers)], facts.compute_type, frozen.witness.routed) <= tolerance


def made_up_tokens(texts: Sequence[Sequence[int]]) -> Tokens:
    """These ids as texts without special tokens."""
    return Tokens([list(ids) for ids in texts], [[True] * len(ids) for ids in texts], [False] * len(texts))


def read_made_up(
    forward: Forward,
    texts: Sequence[Sequence[int]],
    rows: Sequence[Sequence[int]],
    width: int,
    way: Way,
    padding: int,
) -> list[Float32[Tensor, "layers _ dim"]]:
    """States of each text in every wanted layer; `rows` names the texts of each row, in their order."""
    batch = lay_out(made_up_tokens(texts), rows, width, padding)
    seen: dict[int, Tensor] = {}

    def see(layer: int, states: Tensor) -> None:
        seen[layer] = states.cpu().flatten(0, 1)[batch.spans.places].float()

    mask = None if way in (Way.PACKED, Way.PADDED) else batch.mask
    forward(see, batch.ids, mask, batch.numbers if way is Way.PACKED else None)
    whole = torch.stack([seen[layer] for layer in forward.layers])
    return list(whole.split(batch.spans.lengths.tolist(), dim=1))


def _error_in_turn(forward: Forward) -> float:
    """The largest error of any made-up text read alone: the shortest, then from the longest down to it again."""
    facts, witness = forward.frozen.facts, forward.frozen.witness
    texts = sorted(witness.texts, key=lambda text: -len(text.ids))
    errors = []
    for text in (texts[-1], *texts):
        (found,) = read_made_up(forward, [text.ids], [[0]], len(text.ids), Way.ALONE, 0)
        expected = text.states[list(forward.layers)]
        errors.append(error_of(found, expected, facts.compute_type, witness.routed))
    return max(errors)


def _meet_first_shapes(forward: Forward) -> None:
    """Compiled blocks are made for the shape that they meet first: these on every worker, padded and not."""
    (long, short), width = forward.frozen.witness.texts[:2], len(forward.frozen.witness.texts[0].ids)
    for second in (short.ids, long.ids):
        read_made_up(forward, [long.ids, second], [[0], [1]], width, Way.MASKED, 0)


def _strewn(texts: Sequence[MadeUp], width: int) -> list[list[MadeUp | int]]:
    """The texts that fit into rows of this width, each behind two to four tokens of another one."""
    rows: list[list[MadeUp | int]] = []
    left = 0
    for number, text in enumerate(texts):
        needed = len(text.ids) + 2 + number % 3
        if needed > width:
            continue
        if needed > left:
            rows.append([])
            left = width
        rows[-1] += [2 + number % 3, text]
        left -= needed
    return rows
