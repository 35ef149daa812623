"""A table of numbers as cells of stronger or weaker colour."""

from __future__ import annotations

import altair as alt

from trainer.report.charts.parts import Rows, data, layered
from trainer.report.theme import ACCENT, WASH


def cells(
    rows: Rows, x: alt.X, y: alt.Y, field: str, domain: tuple[float, float], tooltip: list[alt.Tooltip]
) -> alt.LayerChart:
    """A cell for each row, palest at `domain`'s start."""
    low, high = domain
    scale = alt.Scale(domain=[low, high if high > low else low + 1], range=[0.06, 1], clamp=True)
    strength = alt.FillOpacity(f"{field}:Q", scale=scale, legend=None)
    drawn = alt.Chart(data(rows)).mark_rect(fill=ACCENT).encode(x=x, y=y, fillOpacity=strength, tooltip=tooltip)
    return layered(drawn).properties(view=alt.ViewBackground(fill=WASH))
