"""How much each layer moves a head's answer: gradient × input, summed over the layer's coordinates.

    share_ℓ ∝ mean over examples of |Σ_d ∂f/∂z_ℓd · z_ℓd|

z is the treated row and f the answer: the largest logit, the score, or the cosine of two texts (Shrikumar et al.,
arXiv 1605.01713; in a linear head exactly the layer's part of the logit). Of a head that reads tokens, the sum goes
over a text's tokens too.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from ilse.core.tables import VALIDATION
from trainer.analysis.profiles import Row, Seeds, Split, profile_columns
from trainer.artifacts.artifact import TrainedHead
from trainer.fitting.losses import VALIDATION_ROWS
from trainer.objectives import Objective
from trainer.objectives.similarity import cosines
from trainer.rows.in_memory import Examples
from trainer.rows.ragged import Tokens, each_sum

COLUMNS = profile_columns("share")
CAVEAT = (
    "To first order, and against a row of zeros, the training mean of standardised rows; "
    "layers with the same information share it differently from seed to seed."
)


def table(seeds: Seeds, split: Split) -> Iterator[Row]:
    """One row per layer: its share."""
    held = split(VALIDATION)
    return seeds.profile("share", torch.stack([shares(one, held) for one in seeds.trained]))


def shares(trained: TrainedHead, rows: Examples) -> Float[Tensor, " layers"]:
    """Share of each layer that the head reads. They sum to 1, or are all 0 if the answer depends on none.

    `rows` are as the cache holds them. Of pairs, both texts count.
    """
    total = torch.zeros(len(trained.head.layers_read), dtype=torch.float64)
    for x, _ in rows.chunks(VALIDATION_ROWS):
        treated = trained.treated(x)
        values = (treated.values if isinstance(treated, Tokens) else treated).requires_grad_()
        found = answer(trained.objective, trained.head(treated))
        # captum's InputXGradient is this line, for one more package and one answer at a time by its index.
        (gradient,) = torch.autograd.grad(found.sum(), values)
        moved = (gradient * values.detach()).sum(-1)
        if isinstance(treated, Tokens):
            moved = each_sum(moved, treated.lengths)
        total += moved.abs().sum(0, dtype=torch.float64)
    return total / total.sum().clamp(min=torch.finfo(total.dtype).tiny)


def answer(objective: Objective, outputs: Float[Tensor, "batch out"]) -> Float[Tensor, " examples"]:
    """The number that is explained. Of ordered labels, the sum of their levels' logits, which grows with the label."""
    if objective.kind == "similarity":
        return cosines(outputs)[:, 0]
    return outputs.amax(1) if objective.kind in ("multi_class", "multi_label") else outputs.sum(1)
