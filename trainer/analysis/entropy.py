"""How evenly a head's layers count: the normalised entropy of their attributions, beside those of the head untrained.

    −Σ_ℓ s_ℓ log s_ℓ / log L:  1 where all layers count the same, 0 where one counts alone

The control is the same head with weights as they start (model randomisation: Adebayo et al., arXiv 1810.03292): what
an untrained head shows too comes from its form and from the rows, not from what it learned.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from ilse.core.tables import VALIDATION
from trainer.analysis.attribution import shares
from trainer.analysis.profiles import Columns, Row, Seeds, Split
from trainer.artifacts.artifact import TrainedHead
from trainer.fitting.isolation import seeded
from trainer.heads import build_head, head_config

COLUMNS: Columns = {"head": pl.String} | dict.fromkeys(("entropy", "low", "high", "untrained"), pl.Float64)
CAVEAT = "Only the distance from 'untrained' was learned, and layers with the same information may share it evenly."


def table(seeds: Seeds, split: Split) -> Iterator[Row]:
    """One row: the mean over seeds, their range, and the mean of the same heads untrained."""
    held = split(VALIDATION)
    found = [normalised_entropy(shares(one, held)) for one in seeds.trained]
    before = [normalised_entropy(shares(untrained(one), held)) for one in seeds.trained]
    means = (sum(values) / len(values) for values in (found, before))
    entropy, control = means
    yield {"head": seeds.name, "entropy": entropy, "low": min(found), "high": max(found), "untrained": control}


def normalised_entropy(shares: Float[Tensor, " layers"]) -> float:
    """Entropy of shares that sum to 1, divided by its maximum; for two or more layers."""
    return float(torch.special.entr(shares).sum()) / math.log(len(shares))


def untrained(trained: TrainedHead) -> TrainedHead:
    """The head and its treatment with the initial weights of its seed."""
    with seeded(trained.facts.seed):
        head = build_head(**head_config(trained.head))
    return TrainedHead(trained.treatment, head, trained.facts).eval()
