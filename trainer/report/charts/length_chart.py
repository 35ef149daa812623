"""Test scores on short and on long texts."""

from __future__ import annotations

import altair as alt

from trainer.report.charts.parts import Chart, Rows, data, layered, percent_axis, spec, tips
from trainer.report.theme import ACCENT, INK, MUTED
from trainer.report.wording import percent

COLOURS = [ACCENT, MUTED]


def length_chart(rows: Rows, figure: str) -> Chart:
    """The score of each quarter of the test examples with its interval; rows of `by_length`, of one head or two."""
    parts = list(dict.fromkeys(row["part"] for row in sorted(rows, key=lambda row: int(row["shortest"]))))
    heads = list(dict.fromkeys(row["head"] for row in rows))
    axis = alt.Axis(title="characters", labelAngle=0, ticks=False, labelColor=INK)
    x = alt.X("part:N", scale=alt.Scale(domain=parts, paddingInner=0.3), axis=axis)
    y = alt.Y("score:Q", scale=alt.Scale(zero=False, nice=True), axis=percent_axis(f"{figure} on test"))
    legend = alt.Legend(title=None, orient="top", symbolType="circle", symbolOpacity=1) if len(heads) > 1 else None
    colour = alt.Color("head:N", scale=alt.Scale(domain=heads, range=COLOURS[: len(heads)]), legend=legend)
    offset = alt.XOffset("head:N", scale=alt.Scale(domain=heads))
    known = [row for row in rows if row["low"] is not None]
    tooltip = tips("head", "part", "score", "low", "high", "rows")
    drawn = [
        alt.Chart(data(rows)).mark_circle(size=90, opacity=1).encode(
            x=x, y=y, xOffset=offset, color=colour, tooltip=tooltip
        )
    ]  # fmt: skip
    if known:
        rules = alt.Chart(data(known)).mark_rule(strokeWidth=2)
        drawn.insert(0, rules.encode(x=x, y=alt.Y("low:Q"), y2="high:Q", xOffset=offset, color=colour, tooltip=tooltip))
    listed = "; ".join(f"{row['head']}, {row['part']} characters: {percent(row['score'])}" for row in rows)
    return Chart(
        f"{figure} by length of text", spec(layered(*drawn), 260), f"{figure} on test by length of text. {listed}."
    )
