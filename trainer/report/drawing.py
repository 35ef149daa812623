"""All charts of one evaluation, by the page's sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from trainer.report.charts.analysis_chart import cka_chart, classes_chart, drops_chart, shares_chart
from trainer.report.charts.confusion_chart import confusion_chart
from trainer.report.charts.cost_chart import COSTS, cost_chart
from trainer.report.charts.curves_chart import curves_charts
from trainer.report.charts.forest_chart import forest_chart
from trainer.report.charts.graph_chart import graph_chart
from trainer.report.charts.heads_chart import heads_chart
from trainer.report.charts.layers_chart import layers_chart, weights_charts
from trainer.report.charts.length_chart import length_chart
from trainer.report.charts.parts import Chart
from trainer.report.charts.reliability_chart import reliability_chart
from trainer.report.confidence import Confidence, confidence_of
from trainer.report.evaluation import Results
from trainer.report.findings import against_baseline, far_off, label_order, of_head, shown_labels
from trainer.report.metric_panels import panels
from trainer.report.result_files import Row
from trainer.results.figures import NAMES, upfirst
from trainer.results.intervals import Interval

GRAPH_HEAD = "cayley"


@dataclass(frozen=True)
class Drawn:
    """Charts by section; a section without data has none."""

    charts: dict[str, list[Chart]]
    loss_cut: float | None = None
    """The loss above which curves are cut."""
    heads: dict[str, str] = field(default_factory=dict)
    """Of the sections about one head: which."""
    omitted: list[str] = field(default_factory=list)
    """Controls that the pictures of all heads leave out, because they lie far off."""
    confidence: Confidence | None = None
    """Of the head whose calibration is drawn."""


def draw(results: Results, sure: Interval | None, layers: int | None, lengths: Sequence[Row] = ()) -> Drawn:
    """Everything that there is data for.

    `sure` is the interval of the chosen head's score, `layers` their number, `lengths` are the rows of `by_length`.
    """
    figure, best = NAMES[results.metrics.metric], results.chosen
    curves, loss_cut = _curves(results)
    about, heads = _about_one_head(results)
    omitted = far_off(results.leaderboard)
    board, compared = _without(results.leaderboard, omitted), against_baseline(results)
    runs = results.runs.filter(pl.col("head").is_in(board["head"].implode()))
    found = {
        "comparison": [] if compared is None else [forest_chart(_without(compared, omitted), best["head"])],
        "heads": [heads_chart(board, runs, best["head"], sure, figure)],
        "cost": [cost_chart(board, cost, best["head"], figure) for cost in COSTS],
        "layers": [] if results.layers is None
        else [layers_chart(results.layers, best["head"], best["val_score"], figure)],
        "metrics": [panel.chart for panel in panels(results)],
        "weights": [] if results.weights is None else weights_charts(results.weights),
        "cka": [cka_chart(table) for table in _tables(results, "cka")],
        "classes": [classes_chart(table) for table in _tables(results, "classes")],
        "graph": _graph(results, layers),
        "lengths": [length_chart(list(lengths), upfirst(figure))] if lengths else [],
        "curves": curves,
        "confusion": [] if results.confusion is None
        else [confusion_chart(results.confusion, shown_labels(results), len(label_order(results)))],
    }  # fmt: skip
    of_bins = of_head(results.calibration, best["head"])
    confidence = None if of_bins is None else confidence_of(of_bins[1], results.metrics.test_rows)
    return Drawn(found | about, loss_cut, heads, omitted, confidence)


def _without(table: pl.DataFrame, heads: list[str]) -> pl.DataFrame:
    return table.filter(~pl.col("head").is_in(heads))


def _tables(results: Results, name: str) -> list[pl.DataFrame]:
    return [results.analysis[name]] if name in results.analysis else []


def _about_one_head(results: Results) -> tuple[dict[str, list[Chart]], dict[str, str]]:
    tables = {name: results.analysis.get(name) for name in ("leave_one_out", "attribution", "inputs")}
    found = {name: of_head(table, results.chosen["head"]) for name, table in tables.items()}
    found["calibration"] = of_head(results.calibration, results.chosen["head"])
    drawers = {
        "leave_one_out": drops_chart,
        "attribution": lambda head, table: shares_chart(head, table, "share", "Attribution"),
        "inputs": lambda head, table: shares_chart(head, table, "mean", "Mean weight"),
        "calibration": reliability_chart,
    }
    charts = {name: [drawers[name](*item)] if item else [] for name, item in found.items()}
    return charts, {name: item[0] for name, item in found.items() if item}


def _curves(results: Results) -> tuple[list[Chart], float | None]:
    if results.curves is None:
        return [], None
    labels = len(label_order(results)) if results.metrics.metric == "accuracy" else 0
    return curves_charts(results.curves, results.runs, results.leaderboard["head"].to_list(), labels)


def _graph(results: Results, layers: int | None) -> list[Chart]:
    names = [] if results.layers is None else results.layers.sort("layer")["name"].to_list()
    count = layers or len(names)
    return [graph_chart(count, names)] if GRAPH_HEAD in results.leaderboard["head"] and count else []
