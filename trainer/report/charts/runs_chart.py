"""One head's figure in several runs."""

from __future__ import annotations

import altair as alt

from trainer.report.charts.parts import Chart, Rows, data, layered, percent_axis, spec, tips
from trainer.report.theme import ACCENT, INK
from trainer.report.wording import percent


def runs_chart(head: str, rows: Rows, runs: list[str], domain: tuple[float, float], figure: str) -> Chart:
    """Mean and range over seeds in each of the `runs` that have the head; rows of leaderboards, with `run`.

    `domain` is the axis of all heads' charts, so that they compare.
    """
    axis = alt.Axis(title=None, labelColor=INK, labelAngle=-30 if len(runs) > 3 else 0, ticks=False)
    x = alt.X("run:N", scale=alt.Scale(domain=runs), axis=axis)
    scale = alt.Scale(domain=list(domain), zero=False, nice=True)
    y = alt.Y("test_score:Q", scale=scale, axis=percent_axis(figure))
    chart = alt.Chart(data(rows)).encode(x=x)
    tooltip = tips("run", "test_score", "test_low", "test_high")
    drawn = layered(
        chart.mark_rule(color=ACCENT, strokeWidth=3, opacity=0.45).encode(
            y=alt.Y("test_low:Q", title=figure), y2="test_high:Q"
        ),
        chart.mark_line(color=ACCENT, strokeWidth=1, opacity=0.5).encode(y=y),
        chart.mark_circle(color=ACCENT, size=60, opacity=1).encode(y=y, tooltip=tooltip),
    )
    listed = ", ".join(f"{row['run']} {percent(row['test_score'])}" for row in rows)
    return Chart(head, spec(drawn, 170), f"{head}: mean {figure} on test, {listed}.")
