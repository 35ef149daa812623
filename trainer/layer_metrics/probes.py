"""A linear model on every layer at its optimum, from a sample of training texts; validation texts judge it.

They are solved by `trainer.fitting.solved`, some layers at once: all would hold the rows of all layers several times.
Validation also chooses the penalty's strength, so that a figure is a little too good; layers are treated alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from pipeline.store import Cache, TextIds
from trainer.config import Recipe
from trainer.fitting.solved import solve
from trainer.heads import build_head
from trainer.layer_metrics.labels import Labels
from trainer.layer_metrics.sampling import drawn
from trainer.objectives import MultiClass
from trainer.rows.in_memory import Rows
from trainer.rows.stored import gather
from trainer.treatment import Standardise

LEAST = 10
"""Texts of each split: fewer tell no layer from another."""
AT_ONCE = 8
"""Layers: the same ones whatever the memory, since the path of penalties ends when it is worse for all of them."""


@dataclass(frozen=True)
class Probed:
    """Answers of the layers' linear probes to the validation texts.

    Parameters
    ----------
    log_probabilities
        Of each label, [texts, layers, labels].
    y
        Their labels.
    trained
        Texts that the models are of.
    """

    log_probabilities: Float[Tensor, "texts layers labels"]
    y: Int[Tensor, " texts"]
    trained: int

    @property
    def right(self) -> Tensor:
        """Mask of the texts that each layer answers correctly, bool [texts, layers]."""
        return self.log_probabilities.argmax(2) == self.y[:, None]


def probe(cache: Cache, labels: Labels, pooling: str, texts: int, budget: int) -> tuple[Probed | None, str]:
    """Models of at most `texts` training texts, judged on as many of validation; or None and why there are none.

    Rows are read for as many layers at once as `budget` bytes hold.
    """
    ids = cache.text_id_rows()
    train, validation = (_rows(ids, texts, rows) for rows in (labels.train, labels.validation))
    y = torch.from_numpy(labels.of_row)
    if min(len(train), len(validation)) < LEAST:
        return (
            None,
            f"{len(train)} training and {len(validation)} validation texts with a label, {LEAST} of each needed",
        )
    if len(y[train].unique()) < 2:
        return None, "all training texts have one label"
    layers = range(len(cache.layers))
    size = max(1, budget // (4 * (len(train) + len(validation)) * cache.dim) // AT_ONCE) * AT_ONCE
    told = []
    for first in range(0, len(layers), size):
        chosen = tuple(layers[first : first + size])
        x, held = gather(cache, train, chosen, pooling), gather(cache, validation, chosen, pooling)
        each = zip(x.split(AT_ONCE, dim=1), held.split(AT_ONCE, dim=1), strict=True)
        told += [_of_layers(one, y[train], other, y[validation], labels.names) for one, other in each]
    return Probed(torch.cat(told, dim=1), y[validation], len(train)), ""


def _of_layers(
    x: Float[Tensor, "rows layers dim"],
    y: Int[Tensor, " rows"],
    held: Float[Tensor, "texts layers dim"],
    y_held: Int[Tensor, " texts"],
    names: tuple[str, ...],
) -> Float[Tensor, "texts layers labels"]:
    """The log-probabilities that the layers' models give the rows of `held`."""
    treatment = Standardise(*x.shape[1:]).fit(x)
    x, held = treatment(x), treatment(held)
    head = build_head("best", {}, layers=x.shape[1], dim=x.shape[2], out=len(names))
    recipe = Recipe(optimizer="lbfgs", penalty="validation", refit=False, folds=None, label_smoothing=0.0)
    solve(head, Rows(x, y, []), Rows(held, y_held, []), MultiClass(names), recipe, seed=0, device="cpu")
    with torch.no_grad():
        outputs: Tensor = head(held).log_softmax(2)
    return outputs


def _rows(ids: TextIds, count: int, among: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.sort(drawn(ids, count, among))
