"""The gain of each head over the baseline on the same test examples: a forest plot."""

from __future__ import annotations

import altair as alt
import polars as pl

from trainer.report.charts.parts import Chart, Rows, chosen_colour, control_shape, data, layered, spec, tips
from trainer.report.theme import INK, MUTED
from trainer.report.wording import points


def forest_chart(rows: pl.DataFrame, chosen: str) -> Chart:
    """Differences to one baseline with their 95 % intervals, largest first; columns of `comparison.csv` and `control`.

    The line at zero is the baseline itself. Controls are diamonds.
    """
    table = rows.sort("difference_points", "head", descending=[True, False]).to_dicts()
    heads, baseline = [row["head"] for row in table], table[0]["baseline"]
    y = alt.Y("head:N", scale=alt.Scale(domain=heads), title=None, axis=alt.Axis(labelColor=INK, ticks=False))
    axis = alt.Axis(title=f"gain over {baseline} in points", format="~f", tickCount=6)
    x = alt.X("difference_points:Q", scale=alt.Scale(zero=True, nice=True), axis=axis)
    colour = chosen_colour(chosen, heads)
    tooltip = tips("head", "difference_points", "low_points", "high_points", "p_holm", form="+.2f")
    known = [row for row in table if row["low_points"] is not None and row["high_points"] is not None]
    drawn = layered(
        alt.Chart(data([{"x": 0}])).mark_rule(color=MUTED, strokeDash=[4, 4]).encode(x="x:Q"),
        alt.Chart(data(known)).mark_rule(strokeWidth=2).encode(
            x=alt.X("low_points:Q"), x2="high_points:Q", y=y, color=colour, tooltip=tooltip
        ),
        alt.Chart(data(table)).mark_point(size=80, filled=True, opacity=1).encode(
            x=x, y=y, color=colour, shape=control_shape(), tooltip=tooltip
        ),
    )  # fmt: skip
    return Chart(f"Gain over {baseline}", spec(drawn, 26 * len(heads) + 30), _words(table, baseline))


def _words(table: Rows, baseline: str) -> str:
    listed = "; ".join(
        "{} {} ({} to {})".format(row["head"], *(points(row[f"{end}_points"]) for end in ("difference", "low", "high")))
        for row in table
    )
    return f"Gain over {baseline} in points of test score, with the 95 % interval, largest first: {listed}."
