"""Which layers to keep: a few early ones whose probes together lose little on validation.

A set's answer is the mean of its layers' log-probabilities, so that no model is fitted again. For every depth, layers
up to there are added one by one, the best next. Of all these sets, those stay whose accuracy is within one standard
error of the best one's (of the paired difference); of them the cheapest is taken, by its share of the layers plus its
share of the blocks. One half of the validation texts chooses, the other half judges what was chosen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.layer_metrics.probes import Probed

MOST = 6
"""Layers of a set: one more has yet to help."""
LEAST_TEXTS = 40
"""Least number of validation texts; half of them choose."""


@dataclass(frozen=True)
class Advice:
    """A set of layers, and what it costs and saves.

    Parameters
    ----------
    layers
        Places among the cache's layers, ascending.
    of
        How many the cache has.
    accuracy, lost, error
        On the texts that did not choose: the set's, what the best set looked at has more, and that difference's
        standard error.
    all_layers, last
        What all layers together, and the last one alone, have there.
    texts
        How many those are.
    """

    layers: tuple[int, ...]
    of: int
    accuracy: float
    lost: float
    error: float
    all_layers: float
    last: float
    texts: int

    def lines(self, names: Sequence[str], cache: str) -> list[str]:
        """For the screen, with what to write in `params.yaml`."""
        numbers = ", ".join(map(str, self.layers))
        deepest = self.layers[-1]
        told = [
            f"suggested: {len(self.layers)} of {self.of} layers ({', '.join(names[layer] for layer in self.layers)})",
            f"  accuracy {self.accuracy:.1%} on {self.texts} validation texts that did not choose, "
            f"{self._against_the_best()}; "
            f"all layers together {self.all_layers:.1%}, the last alone {self.last:.1%}",
            f"  {len(self.layers) / self.of:.0%} of the storage"
            + (f"; {deepest} of {self.of - 1} blocks are run" if is_numbered(names) else ""),
        ]
        if is_numbered(names):
            told += ["in params.yaml:", "extract:", f"  layers: [{numbers}]"]
        return [*told, f"or from this cache: ilse subset {cache} OUT --layers {numbers.replace(' ', '')}"]

    def _against_the_best(self) -> str:
        """The best set of the half that chose may be the worse one on the half that judges."""
        points = f"{abs(100 * self.lost):.1f}"
        if points == "0.0":
            return f"as good as the best set (± {100 * self.error:.1f} points)"
        side = "below" if self.lost > 0 else "above"
        return f"{points} points (± {100 * self.error:.1f}) {side} the best set"


def is_numbered(names: Sequence[str]) -> bool:
    """Whether a layer's place in the cache is its number in `extract.layers`: from the embedding on, each block."""
    found = [re.fullmatch(r"block (\d+)", name) for name in names[1:-1]]
    numbered = [int(match[1]) for match in found if match]
    return len(names) > 2 and names[0] == "embedding" and numbered == list(range(1, len(names) - 1))


def advise(probed: Probed) -> Advice | None:
    """The set to keep; None where there are too few validation texts."""
    texts, layers = probed.log_probabilities.shape[:2]
    if texts < LEAST_TEXTS:
        return None
    chooses = torch.arange(texts) % 2 == 0
    sets = sorted({*_sets(probed, chooses), tuple(range(layers)), (layers - 1,)})
    right = {one: _right(probed, one) for one in sets}
    best = max(sets, key=lambda one: (float(right[one][chooses].mean()), -_cost(one, layers)))
    near = [one for one in sets if _is_near(right[best][chooses] - right[one][chooses])]
    kept = min(near, key=lambda one: (_cost(one, layers), -float(right[one][chooses].mean())))
    judged = {one: right[one][~chooses] for one in (kept, best, tuple(range(layers)), (layers - 1,))}
    lost = judged[best] - judged[kept]
    return Advice(
        kept,
        layers,
        float(judged[kept].mean()),
        float(lost.mean()),
        float(lost.std() / len(lost) ** 0.5),
        float(judged[tuple(range(layers))].mean()),
        float(judged[layers - 1,].mean()),
        len(lost),
    )


def _sets(probed: Probed, chooses: Tensor) -> Iterator[tuple[int, ...]]:
    """For every depth the best layer up to there, with the best next one, and so on."""
    told, y = probed.log_probabilities[chooses], probed.y[chooses]
    for depth in range(told.shape[1]):
        chosen: list[int] = []
        total = torch.zeros_like(told[:, :1])
        while len(chosen) < min(MOST, depth + 1):
            sums = total + told[:, : depth + 1]
            accuracy = (sums.argmax(2) == y[:, None]).double().mean(0)
            # Of equal ones the surer of the right labels.
            mean = (sums / (len(chosen) + 1)).log_softmax(2)
            loss = -mean.gather(2, y[:, None, None].expand(-1, depth + 1, 1)).mean(0)[:, 0]
            merit = accuracy - 1e-6 * loss.clamp(max=1e3)
            merit[chosen] = -torch.inf
            chosen.append(int(merit.argmax()))
            total = total + told[:, chosen[-1] :][:, :1]
            yield tuple(sorted(chosen))


def _right(probed: Probed, layers: tuple[int, ...]) -> Float[Tensor, " texts"]:
    """1 for each text that the set has right."""
    return (probed.log_probabilities[:, list(layers)].sum(1).argmax(1) == probed.y).double()


def _is_near(lost: Float[Tensor, " texts"]) -> bool:
    return float(lost.mean()) <= float(lost.std() / len(lost) ** 0.5)


def _cost(layers: tuple[int, ...], of: int) -> float:
    """Share of the storage and share of the blocks, from 0 to 2."""
    return len(layers) / of + layers[-1] / max(1, of - 1)
