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
        "How many directions the representations spread over, in nats unless another scale was chosen.",
        "A few very large coordinates make it small, whatever else a layer holds.",
    ),
    "effective_rank_centred": (
        "Effective rank",
        "The same, as a number of directions.",
        "Pure noise has the highest rank of all.",
    ),
    "anisotropy": (
        "Anisotropy",
        "The share of the variance along one direction.",
        "Near 1, it is mostly one very large coordinate, which standardisation removes.",
    ),
    "cosine": (
        "Mean cosine",
        "How similar the directions of two texts are on average.",
        "A mean that all texts share brings it near 1, and a linear head subtracts that mean.",
    ),
    "norm": (
        "Norm",
        "The mean length of a representation.",
        "It grows with depth in residual networks and says nothing about what a layer holds.",
    ),
    "massive": (
        "Massive values",
        "The share of the squared length in values above 100 times the median magnitude.",
        "Where it is large, most other metrics describe only these few coordinates.",
    ),
    "dimension": (
        "Intrinsic dimension",
        "The number of directions in which representations vary locally (TwoNN).",
        "With few texts it is too low above about 20, and it changes with the sample size.",
    ),
    "cka_last": (
        "CKA with the last layer",
        "How similar the layer is to the last one.",
        "Similar layers can differ in what a head reads, and a dissimilar layer need not be worse.",
    ),
    "infonce": (
        "InfoNCE loss",
        "How hard it is to match two noisy versions of one text, in nats.",
        "A lower loss need not be better: it was higher where layers did best on tasks.",
    ),
    "lidar": (
        "LiDAR",
        "The number of directions in which texts differ more than their noisy versions do.",
        "Contrary to its aim, layers with a high rank did worse on tasks. The noise decides what counts as equal.",
    ),
    "dime": (
        "DiME",
        "How much two noisy versions of one text share, beyond what any two texts share.",
        "It is near 0 when all texts are similar, and also when none are; high values went with worse layers.",
    ),
    "prompt_entropy": (
        "Prompt entropy",
        "How many directions the tokens of a text spread over.",
        "It is higher for long texts.",
    ),
    "curvature": (
        "Curvature",
        "The mean angle between successive steps from token to token.",
        "Independent tokens give 2π/3 and not π/2, because two successive steps share a token.",
    ),
    "token_anisotropy": (
        "Token anisotropy",
        "The share of the variance of a text’s tokens along one direction.",
        "Where the first token is very large, it is that token.",
    ),
    "fisher": (
        "Fisher’s ratio",
        "The distance between labels relative to the spread within them.",
        "It misses labels that form several clusters, and it is not 0 for random labels.",
    ),
    "silhouette": (
        "Silhouette",
        "Whether a text is closer to its own label than to the nearest other one, from −1 to 1.",
        "With hundreds of coordinates it is near 0 even where a linear head separates the labels well.",
    ),
    "probe": (
        "Linear probe",
        "Validation accuracy of a linear model on this layer alone.",
        "Its penalty was chosen on validation too; layers within two standard errors are not significantly different.",
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
        return Marked(dict(suggested.select("layer", "name").iter_rows()), "suggested by ‘--suggest’")
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
