"""A figure of each layer over depth, with its standard error, and the layers that were chosen."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import altair as alt

from trainer.report.charts.parts import Chart, Rows, data, layered, spec, tips
from trainer.report.theme import ACCENT, INK

HEIGHT = 150


def metric_chart(title: str, rows: Rows, layers: int, marked: Set[int]) -> Chart:
    """`rows` have `layer`, `name`, `value` and perhaps `error`; `marked` layers stand out."""
    rows = sorted(rows, key=lambda row: row["layer"])
    drawn_rows = [_with_ends(row) for row in rows]
    scale = alt.Scale(domain=[-0.5, layers - 0.5], nice=False)
    x = alt.X("layer:Q", scale=scale, axis=alt.Axis(title="layer", format="d", tickMinStep=1, tickCount=5, grid=False))
    y = alt.Y("value:Q", scale=alt.Scale(zero=False, nice=True), axis=alt.Axis(title=None, tickCount=4, format=",.3~r"))
    chart = alt.Chart(data(drawn_rows)).encode(x=x)
    shown = tips("name", "value", "error", form=".4g")
    drawn = [
        chart.mark_area(color=ACCENT, opacity=0.18).encode(y=alt.Y("low:Q"), y2="high:Q"),
        chart.mark_line(color=ACCENT, strokeWidth=2).encode(y=y),
        chart.mark_circle(color=ACCENT, size=18).encode(y=y, tooltip=shown),
    ]
    chosen = [row for row in drawn_rows if row["layer"] in marked]
    if chosen:
        points = alt.Chart(data(chosen)).encode(x=x, y=y)
        drawn.append(points.mark_point(color=INK, size=70, strokeWidth=2).encode(tooltip=shown))
    least, most = min(rows, key=lambda row: row["value"]), max(rows, key=lambda row: row["value"])
    words = f"{title}: from {least['value']:.4g} at {least['name']} to {most['value']:.4g} at {most['name']}"
    told = "; ".join(f"{row['value']:.4g} at {row['name']}, marked" for row in chosen)
    return Chart(title, spec(layered(*drawn), HEIGHT), f"{words}{'; ' if told else ''}{told}.")


def _with_ends(row: dict[str, Any]) -> dict[str, Any]:
    """With both ends of one standard error; of an exact figure these are the figure."""
    value, error = row["value"], row["error"] or 0.0
    return {key: row[key] for key in ("layer", "name", "value", "error")} | {
        "low": value - error,
        "high": value + error,
    }
