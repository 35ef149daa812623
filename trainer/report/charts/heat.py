"""A table of numbers as cells of stronger or weaker colour, with a legend."""

from __future__ import annotations

import altair as alt

from trainer.report.charts.parts import Rows, data, layered
from trainer.report.theme import ACCENT, WASH

PALEST = 0.06


def cells(
    rows: Rows,
    x: alt.X,
    y: alt.Y,
    field: str,
    domain: tuple[float, float],
    legend: alt.Legend,
    tooltip: list[alt.Tooltip],
) -> alt.LayerChart:
    """A cell for each row, palest at `domain`'s start."""
    drawn = alt.Chart(data(rows)).mark_rect(fill=ACCENT)
    drawn = drawn.encode(x=x, y=y, opacity=strength(field, domain, legend), tooltip=tooltip)
    return layered(drawn).properties(view=alt.ViewBackground(fill=WASH))


def strength(field: str, domain: tuple[float, float], legend: alt.Legend | None) -> alt.Opacity:
    """The field as the strength of a colour, palest at `domain`'s start."""
    low, high = domain
    scale = alt.Scale(domain=[low, high if high > low else low + 1], range=[PALEST, 1], clamp=True)
    # of fillOpacity, Vega-Lite draws no legend
    return alt.Opacity(f"{field}:Q", scale=scale, legend=legend)


def steps(title: str, domain: tuple[float, float], form: str) -> alt.Legend:
    """A legend above the picture: four strengths of colour, from `domain`'s start to its end."""
    low, high = domain
    return alt.Legend(
        title=title, orient="top", direction="horizontal", format=form, symbolType="square", symbolSize=180,
        symbolFillColor=ACCENT, symbolStrokeWidth=0, values=[low + (high - low) * i / 3 for i in range(4)],
        columnPadding=8, offset=6,
    )  # fmt: skip
