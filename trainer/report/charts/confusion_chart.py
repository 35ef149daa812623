"""What one head takes for what."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from trainer.report.charts.heat import steps, strength
from trainer.report.charts.parts import Chart, data, layered, spec, tips
from trainer.report.theme import ACCENT, INK, ON_ACCENT, WASH
from trainer.report.wording import percent

LABELS_WITH_NUMBERS = 12
"""A confusion matrix of more labels has no room for a number in each cell."""


def confusion_chart(confusion: pl.DataFrame, labels: list[str], known: int | None = None) -> Chart:
    """Share of each actual label's rows (over all seeds) that was given each label; `labels` in the order shown.

    `known` is how many there are, where more than those are.
    """
    counts = confusion.group_by("actual", "predicted").len("rows")
    shares = counts.with_columns((pl.col("rows") / pl.col("rows").sum().over("actual")).round(5).alias("share"))
    shown = [pl.col(name).is_in(labels) for name in ("actual", "predicted")]
    rows = shares.filter(shown).sort("actual", "predicted").to_dicts()
    for row in rows:
        row["strong"], row["text"] = row["share"] > 0.55, f"{100 * row['share']:.0f}"
    many = len(labels) > LABELS_WITH_NUMBERS
    scale = alt.Scale(domain=labels, paddingInner=0.04)
    axis: dict[str, Any] = {"grid": False, "ticks": False, "labelFontSize": 9 if many else 12}
    chart = alt.Chart(data(rows)).encode(
        x=alt.X("predicted:N", scale=scale, axis=alt.Axis(title="predicted", labelAngle=-90 if many else -40, **axis)),
        y=alt.Y("actual:N", scale=scale, axis=alt.Axis(title="actual", **axis)),
        tooltip=tips("actual", "predicted", "share", "rows"),
    )
    legend = steps("share of the actual label", (0.0, 1.0), ".0%")
    cells = chart.mark_rect(fill=ACCENT).encode(opacity=strength("share", (0.0, 1.0), legend))
    colour = alt.Color("strong:N", scale=alt.Scale(domain=[False, True], range=[INK, ON_ACCENT]), legend=None)
    drawn = layered(cells) if many else layered(cells, chart.mark_text().encode(text="text:N", color=colour))
    drawn = drawn.properties(view=alt.ViewBackground(fill=WASH))
    right = {row["actual"]: row["share"] for row in rows if row["actual"] == row["predicted"]}
    worst = min(labels, key=lambda label: right.get(label, 0.0))
    of = f" of {known}, those with the most wrong answers" if known and known > len(labels) else ""
    recall = percent(right.get(worst, 0.0))
    words = f"Confusion matrix of {len(labels)} labels{of}; {worst} has the lowest recall, {recall}."
    return Chart("Confusion matrix", spec(drawn, len(labels) * (12 if many else 48)), words)
