"""What a head loses without a layer: its validation figure when that layer is replaced by its training mean.

A layer that is set to its mean says nothing about any example, and stays what the head expects on average (Covert,
Lundberg and Lee, "Explaining by Removing", arXiv 2011.14878, removal by the mean). The head is not trained again.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from ilse.core.tables import TRAIN, VALIDATION
from trainer.analysis.profiles import Row, Seeds, Split, profile_columns
from trainer.artifacts.artifact import TrainedHead
from trainer.fitting.losses import VALIDATION_ROWS, measured
from trainer.rows.in_memory import Examples
from trainer.rows.ragged import Tokens
from trainer.treatment import Treatment

COLUMNS = profile_columns("drop_points")
CAVEAT = (
    "The head is not trained again, and information that other layers also hold is not missed: "
    "a layer that can be left out at no cost may still be informative."
)


def table(seeds: Seeds, split: Split) -> Iterator[Row]:
    """One row per layer: the points that are lost without it."""
    means = [treated_mean(one.treatment, split) for one in seeds.trained]
    held = split(VALIDATION)
    lost = [drops(one, held, mean) for one, mean in zip(seeds.trained, means, strict=True)]
    return seeds.profile("drop_points", torch.stack(lost))


def drops(trained: TrainedHead, rows: Examples, mean: Float[Tensor, "layers width"]) -> Float[Tensor, " layers"]:
    """For each layer that the head reads, the points that its objective's figure falls by without it.

    `rows` are as the cache holds them; `mean` is that of treated training rows. Negative where the head does better.
    """

    def outputs(x: Tensor | Tokens) -> Tensor:
        # As independent candidates, so that rows which are read from the cache are read once for all layers.
        return torch.stack(list(_without_each(trained, x, mean)), dim=1)

    _, scores = measured(outputs, trained.head, trained.objective, rows)
    return 100 * (scores[0] - scores[1:])


def _without_each(trained: TrainedHead, x: Tensor | Tokens, mean: Tensor) -> Iterator[Tensor]:
    treated = trained.treated(x)
    values = treated.values if isinstance(treated, Tokens) else treated
    yield trained.head(treated)
    for layer in range(values.shape[1]):
        kept = values[:, layer].clone()
        values[:, layer] = mean[layer]
        yield trained.head(treated)
        values[:, layer] = kept


@torch.no_grad()
def treated_mean(treatment: Treatment, split: Split) -> Float[Tensor, "layers width"]:
    """The mean of treated training rows, or tokens, which are read only where it is not 0 by what the treatment does.

    With `train.shots` or `train.share` a treatment that subtracts no mean takes that of the whole split.
    """
    options = treatment.options
    standardised = options.standardise and options.clip is None
    if not options.layer_norm and (standardised or options.pca is not None):
        # Both subtract the mean of the rows that they were fitted on, and nothing comes after them.
        return treatment.standardise.mean.new_zeros(treatment.standardise.mean.shape[0], treatment.width)
    total, texts = torch.zeros((), dtype=torch.float64), 0
    for x, _ in split(TRAIN).chunks(VALIDATION_ROWS):
        rows = x.values if isinstance(x, Tokens) else x
        total, texts = total + treatment(rows).sum(0, dtype=torch.float64), texts + len(rows)
    return (total / texts).float()
