"""What single layers can do, and the weights that heads learned for them."""

from __future__ import annotations

from typing import Literal

import altair as alt
import polars as pl

from trainer.report.charts.bars import share_bars
from trainer.report.charts.parts import (
    Chart,
    Rows,
    by_head,
    data,
    layer_axis,
    layered,
    level,
    percent_axis,
    spec,
    tips,
)
from trainer.report.theme import ACCENT, INK
from trainer.report.wording import percent
from trainer.results.figures import upfirst


def layers_chart(layers: pl.DataFrame, chosen: str, chosen_score: float, figure: str) -> Chart:
    """The `figure` of a probe on each layer on validation; best and last layer and the chosen head are marked."""
    rows = layers.sort("layer").to_dicts()
    best, last = max(rows, key=lambda row: row["val_score"]), rows[-1]
    marks = [dict(best, mark=f"best: {best['name']}"), dict(last, mark="last layer")]
    x = layer_axis(len(rows))
    y = alt.Y("val_score:Q", scale=alt.Scale(zero=False, nice=True), axis=percent_axis(f"{figure} on validation"))
    chart = alt.Chart(data(rows)).encode(x=x)
    shown = tips("name", "val_score", "val_low", "val_high")
    drawn: list[alt.Chart] = [
        chart.mark_area(color=ACCENT, opacity=0.18).encode(y=alt.Y("val_low:Q"), y2="val_high:Q"),
        chart.mark_line(color=ACCENT, strokeWidth=2).encode(y=y),
        chart.mark_circle(color=ACCENT, size=26).encode(y=y, tooltip=shown),
        *level(chosen_score, f"{chosen}, the chosen head"),
    ]
    for row in marks if best is not last else marks[:1]:
        point = alt.Chart(data([row])).encode(x=x, y=y)
        side: Literal["left", "right"] = "right" if row["layer"] > 0.6 * len(rows) else "left"
        drawn.append(point.mark_point(color=INK, size=90, strokeWidth=2).encode(tooltip=shown))
        drawn.append(point.mark_text(color=INK, align=side, dy=18 if row is marks[1] else -14).encode(text="mark:N"))
    words = (
        f"On validation, {figure} of a linear probe on each of {len(rows)} layers: {percent(rows[0]['val_score'])} at "
        f"{rows[0]['name']}, best {percent(best['val_score'])} at {best['name']}, "
        f"{percent(last['val_score'])} at the last layer; the chosen head {chosen} has {percent(chosen_score)}."
    )
    return Chart(f"{upfirst(figure)} of each single layer", spec(layered(*drawn), 300), words)


def weights_charts(weights: pl.DataFrame) -> list[Chart]:
    """One chart for each head with layer weights: the weights, and the equal share as a dashed line."""
    top = float(weights["high"].max() or 1.0)  # type: ignore[arg-type]
    return [_weights_chart(str(name), rows.sort("layer").to_dicts(), top) for (name,), rows in by_head(weights)]


def _weights_chart(head: str, rows: Rows, top: float) -> Chart:
    heaviest, equal = max(rows, key=lambda row: row["weight"]), 1 / len(rows)
    words = f"{head}: heaviest {percent(heaviest['weight'])} at {heaviest['name']}; an equal share is {percent(equal)}."
    return Chart(head, spec(share_bars(rows, "weight", "weight", top), 220), words)
