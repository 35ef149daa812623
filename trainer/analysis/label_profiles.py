"""Which layer recognises which label: validation recall of every label, by a linear probe on each single layer.

The probes are those of the head `best`, seed 0, each in its own best epoch (linear classifier probes: Alain and Bengio,
arXiv 1610.01644).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainer.analysis.profiles import Columns, Row
from trainer.fitting.losses import VALIDATION_ROWS
from trainer.heads import Head
from trainer.objectives import Objective
from trainer.rows.in_memory import Examples

COLUMNS: Columns = {"label": pl.String, "layer": pl.Int64, "name": pl.String, "recall": pl.Float64, "rows": pl.Int64}
CAVEAT = (
    "One probe per layer with one seed, its epoch chosen on the same validation rows; "
    "a label's few rows leave a wide margin, and recall alone does not count false alarms."
)


def table(
    probes: Head, objective: Objective, rows: Examples, labels: Sequence[str], names: Sequence[str]
) -> Iterator[Row]:
    """A row for every label that has rows, with every layer."""
    found, counts = recall(probes, objective, rows, len(labels))
    for label, of_label, count in zip(labels, found.tolist(), counts.tolist(), strict=True):
        if count:
            for layer, value in enumerate(of_label):
                yield {"label": label, "layer": layer, "name": names[layer], "recall": value, "rows": count}


@torch.no_grad()
def recall(
    probes: Head, objective: Objective, rows: Examples, labels: int
) -> tuple[Float[Tensor, "labels layers"], Int[Tensor, " labels"]]:
    """The share of each label's rows that each layer's probe finds (NaN without rows), and how many rows it has.

    `rows` are treated, and `probes` give the layers' outputs [batch, layers, out].
    """
    right = torch.zeros(labels, probes.candidates)
    for x, y in rows.chunks(VALIDATION_ROWS):
        found = torch.stack([objective.predict(one).argmax(-1) for one in probes(x).unbind(1)], dim=1)
        right.index_add_(0, y, (found == y[:, None]).float())
    count = rows.y.bincount(minlength=labels)
    return right / count[:, None], count
