"""Examples whose text was cut at the cache's limit, by label: of a label with long texts, heads see less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trainer.data.targets import COLUMNS, Targets

NAMED = 5
"""Labels that the line names."""


@dataclass(frozen=True)
class Truncated:
    """How many examples have a text that was cut.

    Example
    -------
    >>> Truncated(20, 3, {"law": (2, 9), "art": (1, 11)}).line
    'Truncated texts: in 3 of 20 examples; law 2 of 9, art 1 of 11.'
    """

    examples: int
    cut: int
    by_label: Mapping[str, tuple[int, int]]
    """For each label with truncated examples: how many, and how many in all; most first. Empty if examples have scores.
    """

    @property
    def metrics(self) -> dict[str, Any]:
        """The counts as plain JSON."""
        return {
            "truncated_examples": self.cut,
            "truncated_by_label": {label: cut for label, (cut, _) in self.by_label.items()},
        }

    @property
    def line(self) -> str:
        """A sentence, empty where nothing was cut."""
        if not self.cut:
            return ""
        named = [f"{label} {cut:,} of {every:,}" for label, (cut, every) in [*self.by_label.items()][:NAMED]]
        left = len(self.by_label) - len(named)
        more = f", {left:,} more label{'s' * (left > 1)}" if left else ""
        labels = f"; {', '.join(named)}{more}" if named else ""
        return f"Truncated texts: in {self.cut:,} of {self.examples:,} examples{labels}."

    @property
    def lines(self) -> list[str]:
        """The sentence, 80 columns wide."""
        return wrap(self.line, 80, break_long_words=False, break_on_hyphens=False)


def truncated_of(examples: pl.DataFrame, rows: list[str], cut: NDArray[np.bool_], targets: Targets) -> Truncated:
    """Counts the truncated texts of these examples. `rows` names the columns of their cache rows; `cut` is its mask."""
    places = examples.select(rows).to_numpy()
    of_examples = cut[places].any(1)
    if targets.kind == "score":
        return Truncated(len(examples), int(of_examples.sum()), {})
    index = COLUMNS[targets.kind][1]
    table = examples.select(pl.col(index).alias("label"), pl.Series("cut", of_examples))
    if targets.kind == "labels":
        table = table.explode("label").drop_nulls()
    counts = table.group_by("label").agg(pl.col("cut").sum(), pl.len()).filter(pl.col("cut") > 0)
    ordered = counts.sort(["cut", "label"], descending=[True, False]).iter_rows()
    by_label = {targets.labels[label]: (some, every) for label, some, every in ordered}
    return Truncated(len(examples), int(of_examples.sum()), by_label)
