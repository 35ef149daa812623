"""Whether a head is right as often as it says: the reliability diagram."""

from __future__ import annotations

import altair as alt
import polars as pl

from trainer.report.charts.parts import Chart, data, layered, percent_axis, spec, tips
from trainer.report.theme import ACCENT, MUTED
from trainer.report.wording import percent
from trainer.statistics import calibration_error


def reliability_chart(head: str, table: pl.DataFrame) -> Chart:
    """Accuracy against mean confidence in each bin of `calibration.csv`; on the dashed line both are equal."""
    rows = table.filter(pl.col("rows") > 0).drop_nulls(["confidence", "accuracy"]).sort("confidence").to_dicts()
    scale = alt.Scale(domain=[0, 1])
    x = alt.X("confidence:Q", scale=scale, axis=percent_axis("confidence"))
    y = alt.Y("accuracy:Q", scale=scale, axis=percent_axis("accuracy"))
    equal = alt.Chart(data([{"confidence": 0, "accuracy": 0}, {"confidence": 1, "accuracy": 1}]))
    bins = alt.Chart(data(rows)).encode(x=x, y=y)
    size = alt.Size("rows:Q", scale=alt.Scale(range=[20, 500]), legend=None)
    drawn = layered(
        equal.mark_line(color=MUTED, strokeDash=[4, 4], strokeWidth=1).encode(x=x, y=y),
        bins.mark_line(color=ACCENT, strokeWidth=1.5, opacity=0.6),
        bins.mark_circle(color=ACCENT, opacity=0.75).encode(
            size=size, tooltip=tips("confidence", "accuracy", "rows")
        ),
    )  # fmt: skip
    error = percent(calibration_error(table))
    words = f"In {len(rows)} bins of confidence, {head} has an expected calibration error of {error}."
    return Chart("Confidence and accuracy", spec(drawn, 320), words)
