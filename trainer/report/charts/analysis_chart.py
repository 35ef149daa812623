"""How a trained head uses the layers, and what they hold: drops, shares, similarity, labels."""

from __future__ import annotations

import altair as alt
import polars as pl

from trainer.report.charts.bars import layer_bars, share_bars
from trainer.report.charts.heat import cells, steps
from trainer.report.charts.parts import Chart, Rows, layer_ticks, layered, spec, tips
from trainer.report.wording import percent, points

SHOWN_LABELS = 10
"""Labels of a heat map by label; of more, those whose recall differs most between layers."""


def drops_chart(head: str, table: pl.DataFrame) -> Chart:
    """Points that `head` loses on validation when one layer is left out; rows of `leave_one_out.csv`."""
    rows = table.sort("layer").to_dicts()
    most = max(rows, key=lambda row: _known(row["drop_points"]))
    axis = alt.Axis(title="points lost", format="~f", tickCount=5)
    drawn = layered(*layer_bars(rows, "drop_points", axis, "+.2f"))
    words = f"{head} without one layer: it loses most without {most['name']}, {points(most['drop_points'])} points."
    return Chart("Points lost without a layer", spec(drawn, 220), words)


def shares_chart(head: str, table: pl.DataFrame, field: str, title: str) -> Chart:
    """Each layer's share of something in `head`, from the column `field`."""
    rows = table.sort("layer").to_dicts()
    most = max(rows, key=lambda row: _known(row[field]))
    top = max((value for row in rows for value in (row[field], row["high"]) if value is not None), default=1.0)
    words = f"{title} by layer in {head}: highest at {most['name']}, {percent(most[field])}."
    return Chart(title, spec(share_bars(rows, field, title.lower(), top), 220), words)


def cka_chart(table: pl.DataFrame) -> Chart:
    """How similar each pair of layers is; rows of `cka.csv`, of which one of a pair is enough."""
    turned = table.rename({"layer_a": "layer_b", "layer_b": "layer_a", "name_a": "name_b", "name_b": "name_a"})
    both = pl.concat([table, turned.select(table.columns)])
    rows = both.unique(["layer_a", "layer_b"], keep="first").sort("layer_a", "layer_b").to_dicts()
    layers = sorted({row["layer_a"] for row in rows})
    low = min((row["cka"] for row in rows if row["cka"] is not None), default=0.0)
    ticks = layer_ticks(len(layers))
    x = alt.X("layer_a:O", axis=ticks)
    y = alt.Y("layer_b:O", axis=ticks, scale=alt.Scale(reverse=True))
    shown = tips("name_a", "name_b", "cka", form=".3f")
    drawn = cells(rows, x, y, "cka", (low, 1.0), steps("CKA", (low, 1.0), ".2f"), shown)
    return Chart("Similarity of layers", spec(drawn, 360), _cka_words(rows, low))


def _cka_words(rows: Rows, low: float) -> str:
    near = [row["cka"] for row in rows if row["layer_b"] == row["layer_a"] + 1 and row["cka"] is not None]
    middle = f"; {sum(near) / len(near):.2f} on average between neighbours" if near else ""
    return f"CKA of each pair of layers, from {low:.2f} to 1{middle}."


def classes_chart(table: pl.DataFrame) -> Chart:
    """Recall of each label when read off each layer; rows of `classes.csv`, of the labels that `spread` puts first."""
    labels = spread(table)[:SHOWN_LABELS]
    rows = table.filter(pl.col("label").is_in(labels)).sort("label", "layer").to_dicts()
    values = [row["recall"] for row in rows if row["recall"] is not None] or [0.0]
    axis = alt.Axis(title=None, ticks=False, labelLimit=110)
    y = alt.Y("label:N", scale=alt.Scale(domain=labels, paddingInner=0.06), axis=axis)
    x = alt.X("layer:O", axis=layer_ticks(table["layer"].n_unique()))
    ends = (min(values), max(values))
    drawn = cells(rows, x, y, "recall", ends, steps("recall", ends, ".0%"), tips("label", "name", "recall", "rows"))
    of_label = {label: [row for row in rows if row["label"] == label] for label in labels}
    best = {label: max(own, key=lambda row: _known(row["recall"])) for label, own in of_label.items()}
    listed = "; ".join(f"{label} {percent(row['recall'])} at {row['name']}" for label, row in best.items())
    words = f"Best layer of each label: {listed}."
    return Chart("Recall by label and layer", spec(drawn, 30 * len(labels) + 40), words)


def spread(table: pl.DataFrame) -> list[str]:
    """All labels, the one whose recall differs most between layers first."""
    by_label = table.group_by("label").agg((pl.col("recall").max() - pl.col("recall").min()).fill_null(0).alias("by"))
    return by_label.sort("by", "label", descending=[True, False])["label"].to_list()


def _known(value: float | None) -> float:
    return float("-inf") if value is None else value
