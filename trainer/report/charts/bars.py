"""A bar for each layer with its range: weights, shares, and what leaving a layer out costs."""

from __future__ import annotations

import altair as alt

from trainer.report.charts.parts import Rows, data, layer_ticks, layered, level, tips
from trainer.report.theme import ACCENT, INK


def layer_bars(
    rows: Rows, field: str, axis: alt.Axis, form: str, domain: tuple[float, float] | None = None
) -> list[alt.Chart]:
    """`field` by layer, with a thin line from `low` to `high` where both are known. `form` prints the numbers."""
    scale = alt.Scale(nice=True) if domain is None else alt.Scale(domain=list(domain), nice=True)
    x = alt.X("layer:O", axis=layer_ticks(len(rows)))
    known = [row for row in rows if row["low"] is not None and row["high"] is not None]
    tooltip = tips("name", field, "low", "high", form=form)
    bars = alt.Chart(data(rows)).mark_bar(color=ACCENT, opacity=0.55)
    ranges = alt.Chart(data(known)).mark_rule(color=INK, strokeWidth=1)
    return [
        bars.encode(x=x, y=alt.Y(f"{field}:Q", scale=scale, axis=axis), tooltip=tooltip),
        ranges.encode(x=x, y=alt.Y("low:Q", title=axis.title), y2="high:Q"),
    ]


def share_bars(rows: Rows, field: str, title: str, top: float) -> alt.LayerChart:
    """Shares that add up to one, with the equal share as a dashed line; `top` is the axis' end."""
    axis = alt.Axis(format="~%", title=title, tickCount=5)
    return layered(*layer_bars(rows, field, axis, ".2%", (0.0, top)), *level(1 / len(rows)))
