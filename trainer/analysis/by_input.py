"""The weights that a head gives the layers of each input, by attention or gate (heads `attention`, `dwatt`, `gated`).

Heads with one weight a layer for all inputs stand in `results/weights.csv`, and where inputs leave `exits` in
`results/exits.csv`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ilse.core.tables import VALIDATION
from trainer.analysis.profiles import Row, Seeds, Split, profile_columns
from trainer.artifacts.artifact import TrainedHead
from trainer.fitting.losses import VALIDATION_ROWS
from trainer.heads import Exits
from trainer.rows.in_memory import Examples

COLUMNS = profile_columns("mean")
CAVEAT = (
    "A weight says how much of a layer goes into the sum, not what the layer changes in the answer: "
    "other weights may give the same answers."
)
"""Caveat of the table: Jain and Wallace showed it for attention (arXiv 1902.10186)."""
QUANTILES = (0.1, 0.9)


def table(seeds: Seeds, split: Split) -> Iterator[Row]:
    """One row per layer: its mean weight over texts and seeds, `low` and `high` the weights' quantiles; or no rows."""
    found = [weights(one, split(VALIDATION)) for one in seeds.trained]
    given = [of_seed for of_seed in found if of_seed is not None]
    return seeds.named("mean", spread(torch.cat(given))) if given else iter(())


@torch.no_grad()
def weights(trained: TrainedHead, rows: Examples) -> Float[Tensor, "texts layers"] | None:
    """Layer weights of each text, or None if the head has no weights by input; `rows` are as stored in the cache."""
    if isinstance(getattr(trained.head, "inner", trained.head), Exits) or trained.head.layer_weights() is not None:
        return None
    found = []
    for x, _ in rows.chunks(VALIDATION_ROWS):
        of_chunk = trained.head.input_weights(trained.treated(x))
        if of_chunk is None:
            return None
        found.append(of_chunk)
    return torch.cat(found)


def spread(found: Float[Tensor, "texts layers"]) -> Iterator[tuple[float, ...]]:
    """Mean and both quantiles over texts, for each layer."""
    values = found.numpy().astype(np.float64)  # torch.quantile takes no more than 16 million values
    low, high = np.quantile(values, QUANTILES, axis=0)
    return zip(values.mean(0).tolist(), low.tolist(), high.tolist(), strict=True)
