"""Makes a basis from the token states of a sample of texts: each layer's main directions.

What enters, and why it does so robustly (`pipeline.store.basis` says what massive activations would do):

- A text's first token is left out of the statistics. It has nothing before it to attend to, so that decoders put
  activations there that no other token has, hundreds of times as large. So is the first token of a window where it has
  nothing before it either, neither a special token nor what the window before it holds too.
- A coordinate's spread is its quartiles' distance, as a Gaussian's standard deviation: a quarter of the tokens may be
  outliers without moving it. Where more than half of the values are the same, it is the standard deviation.
- Its centre is the mean of its values cut at `LIMIT` spreads around the median.
- Each vocabulary entry counts as much as any other, however often it occurs: a token's weight is one over the number of
  tokens of its id in the sample. Else the directions are those of a dozen function words, which are half of a text and
  say little of it. Measured on Emotion under MiniLM at rank 64 (a `bottleneck` on tokens, one seed): 87.65 % on test,
  86.55 % where every token counts alike.
- The directions are those of the covariance of the centred, scaled and cut states, in float64. Each has its largest
  component positive: a direction's sign says nothing, and would be another one on another machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ilse.core.errors import UserError
from pipeline.capture.reader import Reader
from pipeline.capture.tokens import Tokens
from pipeline.capture.windows import unbroken
from pipeline.store import Basis, FloatRows
from pipeline.store.basis import LIMIT

SAMPLE_TEXTS = 1_000
SAMPLE_TOKENS = 8_192
"""Tokens in the sample; once reached, its remaining texts are skipped. Some hundred texts of one sentence each."""
GROUP_BYTES = 1 << 30
"""Memory for states and covariances of the layers that are worked out at a time; each time the sample is read again."""
LEAST_SPREAD = 1e-6
"""Least spread of a coordinate, relative to the layer's median one: keeps the noise of constant coordinates small."""
GAUSSIAN_QUARTILES = 1.3489795
"""The distance of a Gaussian's quartiles, in standard deviations."""

Rows64 = npt.NDArray[np.float64]


def make_basis(reader: Reader, tokens: Tokens, rank: int, batch_tokens: int) -> Basis:
    """The basis of the reader's token layers from these texts, which are cut at `SAMPLE_TOKENS` tokens together."""
    tokens = tokens.take(range(_texts_within(tokens)))
    lengths, weights = np.array(unbroken(tokens)), _weights(tokens)
    places = range(len(reader.token_layers))
    parts: list[tuple[FloatRows, FloatRows, FloatRows, float]] = []
    for group in _groups(places, int(lengths.sum()), reader.frozen.facts.dim):
        states = _states(reader, tokens, batch_tokens, group)
        _require_finite(states, [reader.frozen.facts.layers[reader.token_layers[place]] for place in group])
        parts += [directions_of(states[:, number], lengths, weights, rank) for number in range(len(group))]
        del states  # before the next group's are made
    mean, scale, directions, share = (np.stack(values) for values in zip(*parts, strict=True))
    return Basis(mean, scale, directions, share.astype(np.float32))


def _require_finite(states: FloatRows, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        if not np.isfinite(states[:, number]).all():
            raise UserError(
                f"layer '{name}', token states of the sample for its basis",
                expected="finite values",
                found="some that are not",
                next_step="set extract.compute_type to float32",
            )


def directions_of(
    states: FloatRows, lengths: npt.NDArray[np.int64], weights: Rows64, rank: int
) -> tuple[FloatRows, FloatRows, FloatRows, float]:
    """Mean [dim], scale [dim], directions [rank, dim] and the share of variance that they keep, of one layer's states
    [tokens, dim], of pieces of these lengths whose first token has nothing before it: see `unbroken`.

    `weights`, [tokens], are what each token's state counts in the directions and in the variance.
    """
    counted = _not_first(lengths)
    behind = states[counted]
    mean, scale = _centre_and_spread(behind)
    values = np.clip((behind - mean) / scale, -LIMIT, LIMIT)
    variances, vectors = np.linalg.eigh(_covariance(values, weights[counted]))
    chosen = vectors[:, ::-1][:, :rank].T
    largest = np.take_along_axis(chosen, np.abs(chosen).argmax(1)[:, None], 1)
    total = variances.clip(min=0).sum()
    share = variances[::-1][:rank].clip(min=0).sum() / total if total > 0 else 1.0
    return mean, scale, (chosen * np.where(largest < 0, -1, 1)).astype(np.float32), float(share)


def _not_first(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Mask of the tokens that are not the first of their piece; all tokens if every piece has just one."""
    kept = np.ones(int(lengths.sum()), bool)
    if (lengths > 1).any():
        kept[np.cumsum(lengths) - lengths] = False
    return kept


def _centre_and_spread(values: FloatRows) -> tuple[FloatRows, FloatRows]:
    """Centre and spread of each coordinate, [dim]."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
    spread = (high - low) / GAUSSIAN_QUARTILES
    spread = np.where(spread > 0, spread, values.std(0, dtype=np.float64))
    typical = float(np.median(spread)) or float(spread.max()) or 1.0
    spread = np.maximum(spread, LEAST_SPREAD * typical)
    centre = np.clip(values, middle - LIMIT * spread, middle + LIMIT * spread).mean(0, dtype=np.float64)
    return centre.astype(np.float32), spread.astype(np.float32)


def _weights(tokens: Tokens) -> Rows64:
    """One over the number of tokens of the same id, [tokens]."""
    ids = np.concatenate([np.asarray(of_text, np.int64) for of_text in tokens.ids])
    _, places, counts = np.unique(ids, return_inverse=True, return_counts=True)
    return 1 / counts[places]


def _covariance(values: FloatRows, weights: Rows64) -> Rows64:
    """[dim, dim], summed in float64 piece by piece: one piece is copied at a time."""
    dim = values.shape[1]
    total, squares = np.zeros(dim), np.zeros((dim, dim))
    for start in range(0, len(values), 1024):
        piece, counts = values[start : start + 1024].astype(np.float64), weights[start : start + 1024]
        total += counts @ piece
        squares += (piece * counts[:, None]).T @ piece
    mean = total / weights.sum()
    return np.asarray(squares / weights.sum() - np.outer(mean, mean))


def _texts_within(tokens: Tokens) -> int:
    """How many of the texts have `SAMPLE_TOKENS` tokens together; one at least."""
    together = np.cumsum([len(ids) for ids in tokens.ids])
    return max(1, int(np.searchsorted(together, SAMPLE_TOKENS, side="right")))


def _groups(places: range, tokens: int, dim: int) -> Iterator[range]:
    """Layers whose states and covariance fit in `GROUP_BYTES` together; one at least."""
    length = max(1, GROUP_BYTES // (4 * tokens * dim + 8 * dim * dim))
    return (places[start : start + length] for start in range(0, len(places), length))


def _states(reader: Reader, tokens: Tokens, batch_tokens: int, group: range) -> FloatRows:
    """The states of all tokens at some of the reader's token layers, [tokens, layers, dim], in the order of texts."""
    lengths = [len(ids) for ids in tokens.ids]
    starts = np.cumsum([0, *lengths])
    out = np.empty((starts[-1], len(group), reader.frozen.facts.dim), np.float32)
    for positions, rows in reader.read_all(tokens, batch_tokens):
        for position, states in zip(positions.tolist(), rows.tokens or [], strict=True):
            out[starts[position] : starts[position + 1]] = states.numpy()[:, group.start : group.stop]
    return out
