"""Thresholds of early exit: when an input is sure enough to leave, and what that costs and saves.

Sureness lies between 0 and 1:

    entropy      1 − H(p_ℓ) / log(classes)                            BranchyNet, arXiv 1709.01686
    probability  max p_ℓ                                              CALM, arXiv 2207.07061
    margin       the largest probability's lead over the second       CALM
    patience     exits in a row that gave this answer / exits         PABEE, arXiv 2006.04152
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Sureness = Literal["entropy", "probability", "margin", "patience"]
NEVER = 2.0
"""A threshold that nothing reaches: all inputs go to the last exit."""
POINTS = 101
"""Thresholds of a curve: quantiles of what was seen."""


@dataclass(frozen=True)
class Tradeoff:
    """What a threshold gives: accuracy, and the mean layer (from 0) that inputs leave at."""

    threshold: float
    mean_layer: float
    accuracy: float


def sureness(logits: Float[Tensor, "batch exits out"], kind: Sureness) -> Float[Tensor, "batch exits"]:
    """How sure every exit is of every input, from 0 to 1."""
    if kind == "patience":
        return _agreement(logits.argmax(-1))
    probabilities = logits.softmax(-1)
    if kind == "entropy":
        entropy: Tensor = torch.special.entr(probabilities).sum(-1)
        return 1 - entropy / log(logits.shape[-1])
    first, second = probabilities.topk(2, dim=-1).values.unbind(-1)
    return first if kind == "probability" else first - second


def leaves_at(sure: Float[Tensor, "batch exits"], threshold: Tensor | float) -> Int[Tensor, " batch"]:
    """The first exit that is as sure as `threshold`, else the last."""
    enough = sure >= threshold
    enough[:, -1] = True
    return enough.int().argmax(1)


def tradeoffs(
    logits: Float[Tensor, "rows exits out"],
    y: Int[Tensor, " rows"],
    kind: Sureness,
    layers: Sequence[int],
    weights: Float[Tensor, " rows"] | None = None,
) -> list[Tradeoff]:
    """The curve of accuracy against depth, from inputs that all leave at once to inputs that never leave early."""
    sure = sureness(logits, kind)
    levels = torch.linspace(0, 1, POINTS, dtype=sure.dtype, device=sure.device)
    thresholds = [*dict.fromkeys(_quantiles(sure.flatten(), levels)), NEVER]
    return [tradeoff(logits, y, kind, layers, threshold, weights) for threshold in thresholds]


def tradeoff(
    logits: Float[Tensor, "rows exits out"],
    y: Int[Tensor, " rows"],
    kind: Sureness,
    layers: Sequence[int],
    threshold: float,
    weights: Float[Tensor, " rows"] | None = None,
) -> Tradeoff:
    """What one threshold gives; `layers` are those that have the exits, and `weights` say what each row counts."""
    left = leaves_at(sureness(logits, kind), threshold)
    right = (logits.argmax(-1) == y[:, None]).gather(1, left[:, None])
    depth = torch.tensor(layers, dtype=torch.float64, device=left.device)[left]
    if weights is None:
        return Tradeoff(threshold, float(depth.mean()), float(right.double().mean()))
    shares = (weights.double() / weights.double().sum()).to(depth)
    return Tradeoff(threshold, float(shares @ depth), float(shares @ right[:, 0].double()))


def choose_threshold(
    logits: Float[Tensor, "rows exits out"],
    y: Int[Tensor, " rows"],
    kind: Sureness,
    tolerance: float = 0.0,
    weights: Float[Tensor, " rows"] | None = None,
) -> float:
    """The threshold at which inputs leave earliest, among those at most `tolerance` below the best one's accuracy.

    To be asked with validation rows. The best threshold is not always the one that lets nothing leave: a late layer
    may be wrong where an earlier one was right ("overthinking").
    """
    curve = tradeoffs(logits, y, kind, range(logits.shape[1]), weights)
    enough = max(point.accuracy for point in curve) - tolerance
    good = [point for point in curve if point.accuracy >= enough]
    return min(good, key=lambda point: (point.mean_layer, -point.accuracy)).threshold


def _quantiles(values: Tensor, levels: Tensor) -> list[float]:
    """torch.quantile with interpolation "lower", for more than the 16 million values that it accepts."""
    ordered = values.sort().values
    places = (levels * (len(ordered) - 1)).long()
    found: list[float] = ordered[places].tolist()
    return found


def _agreement(answers: Int[Tensor, "batch exits"]) -> Float[Tensor, "batch exits"]:
    """How often in a row the same answer has been given, over the number of exits."""
    run = torch.ones_like(answers[:, 0])
    runs = [run]
    for place in range(1, answers.shape[1]):
        run = torch.where(answers[:, place] == answers[:, place - 1], run + 1, torch.ones_like(run))
        runs.append(run)
    return torch.stack(runs, dim=1) / answers.shape[1]
