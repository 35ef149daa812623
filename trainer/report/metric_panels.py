"""What each figure of `ilse layers` means and when it misleads, for the page; docs/guides/layers.md says more."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from trainer.report.charts.metrics_chart import metric_chart
from trainer.report.charts.parts import Chart
from trainer.report.evaluation import Results
from trainer.report.result_files import Row


@dataclass(frozen=True)
class Panel:
    """One figure over depth, with its meaning."""

    chart: Chart
    means: str
    misleads: str


SUGGESTED = "suggested"
METRICS = {
    "entropy_centred": (
        "Entropy",
        "Over how many directions the rows spread, in nats unless another scale was asked for.",
        "A few massive coordinates make it small whatever else a layer holds.",
    ),
    "effective_rank_centred": (
        "Effective rank",
        "The same as a number of directions.",
        "Pure noise has the highest rank of all.",
    ),
    "anisotropy": (
        "Anisotropy",
        "The share of the variance along one direction.",
        "Near 1 it is mostly one massive coordinate, which standardising undoes.",
    ),
    "cosine": (
        "Mean cosine",
        "How alike the directions of any two texts are.",
        "A mean that all rows share brings it near 1, and a linear head subtracts that.",
    ),
    "norm": (
        "Norm",
        "The mean length of a row.",
        "It grows with depth where blocks add to a stream, and says nothing of what a layer holds.",
    ),
    "massive": (
        "Massive values",
        "The part of a row’s squared length in values above 100 times its median one.",
        "Where it is large, most other figures speak of these few coordinates alone.",
    ),
    "dimension": (
        "Intrinsic dimension",
        "In how many directions rows vary around each of them (TwoNN).",
        "It is too low beyond 20 or so where texts are few, and changes with the size of the sample.",
    ),
    "cka_last": (
        "CKA with the last layer",
        "How alike the layer is to the last one.",
        "Alike layers may differ in what a head reads, and an unlike one is not worse for it.",
    ),
    "infonce": (
        "InfoNCE loss",
        "How hard it is to tell which rows are noisy versions of one text, in nats.",
        "A lower loss need not be better: where layers did best on tasks, it was higher.",
    ),
    "lidar": (
        "LiDAR",
        "In how many directions texts differ by more than their noisy versions do.",
        "Against its name, layers with a high rank did worse on tasks; the noise decides what counts as the same.",
    ),
    "dime": (
        "DiME",
        "How much noisy versions of one text share beyond those of any two.",
        "It is near 0 where all texts are alike, and also where none are; high values went with worse layers.",
    ),
    "prompt_entropy": (
        "Prompt entropy",
        "Over how many directions the tokens of a text spread.",
        "Long texts have more of it.",
    ),
    "curvature": (
        "Curvature",
        "The mean angle between one step from token to token and the next.",
        "Independent tokens have 2π/3 and not π/2, since two steps share a token.",
    ),
    "token_anisotropy": (
        "Token anisotropy",
        "The share of the variance of a text’s tokens along one direction.",
        "Where the first token is massive, it is that token.",
    ),
    "fisher": (
        "Fisher’s ratio",
        "How far labels lie apart, over how far they spread.",
        "It sees no label that lies in several places, and is not 0 by chance.",
    ),
    "silhouette": (
        "Silhouette",
        "Whether a text lies nearer to its own label than to the next, from −1 to 1.",
        "With hundreds of coordinates it is near 0 though a linear head separates well.",
    ),
    "probe": (
        "Linear probe",
        "Validation accuracy of a linear model on this layer alone.",
        "Validation chose its penalty too; layers within two errors of each other are not told apart.",
    ),
}
"""Metric → its title, what it means, when it misleads."""


def panels(results: Results) -> list[Panel]:
    """A panel for each metric that has figures."""
    table, marked = results.layer_metrics, marked_layers(results)
    if table is None:
        return []
    single = table.filter(pl.col("other").is_null())
    found = []
    for metric, (title, means, misleads) in METRICS.items():
        rows: list[Row] = single.filter((pl.col("metric") == metric) & pl.col("value").is_not_null()).to_dicts()
        if rows:
            layers = max(row["layer"] for row in single.to_dicts()) + 1
            found.append(Panel(metric_chart(title, rows, layers, set(marked.names)), means, misleads))
    return found


@dataclass(frozen=True)
class Marked:
    """Layers that stand out in every panel, with their names, and why they do; none of none."""

    names: dict[int, str]
    why: str

    def __str__(self) -> str:
        return f"{', '.join(self.names.values())} ({self.why})" if self.names else ""


def marked_layers(results: Results) -> Marked:
    """The layers that were suggested, or else the best single one on validation."""
    table = results.layer_metrics
    if table is None:
        return Marked({}, "")
    suggested = table.filter((pl.col("metric") == SUGGESTED) & (pl.col("value") == 1)).sort("layer")
    if len(suggested):
        return Marked(dict(suggested.select("layer", "name").iter_rows()), "what ‘--suggest’ names")
    names = dict(table.select("layer", "name").iter_rows())
    single = [] if results.layers is None else results.layers.to_dicts()
    best = max(single, key=lambda row: row["val_score"], default=None)
    known = best is not None and names.get(best["layer"]) == best["name"]
    return Marked({best["layer"]: best["name"]} if best and known else {}, "the best single layer on validation")


def single_metrics(results: Results) -> list[Row]:
    """Every figure of a single layer, for the table."""
    if results.layer_metrics is None:
        return []
    single = results.layer_metrics.filter(pl.col("other").is_null() & (pl.col("metric") != SUGGESTED))
    return single.sort("metric", "layer").to_dicts()
