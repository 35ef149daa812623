"""Every head's figure on test."""

from __future__ import annotations

import altair as alt
import polars as pl

from trainer.report.charts.parts import Chart, chosen_colour, data, layered, percent_axis, spec, tips
from trainer.report.theme import BAND, INK, MUTED
from trainer.report.wording import percent
from trainer.results.figures import upfirst


def heads_chart(
    leaderboard: pl.DataFrame, runs: pl.DataFrame, chosen: str, interval: tuple[float, float] | None, figure: str
) -> Chart:
    """Every head's `figure` on test: range over seeds, each seed, and the chosen head's `interval` as a band."""
    heads = leaderboard["head"].to_list()
    mean = {row["head"]: row["test_score"] for row in leaderboard.to_dicts()}
    y = alt.Y("head:N", scale=alt.Scale(domain=heads), title=None, axis=alt.Axis(labelColor=INK, ticks=False))
    x = alt.X("test_score:Q", scale=alt.Scale(zero=False, nice=True), axis=percent_axis(f"{figure} on test"))
    colour = chosen_colour(chosen, heads)
    board = alt.Chart(data(leaderboard.to_dicts())).encode(y=y, color=colour)
    layers = [
        board.mark_rule(strokeWidth=3, opacity=0.55).encode(x=alt.X("test_low:Q"), x2="test_high:Q"),
        alt.Chart(data(runs.to_dicts())).mark_circle(size=28, opacity=0.6).encode(
            x=x, y=y, color=colour, tooltip=tips("head", "seed", "test_score")
        ),
        board.mark_tick(thickness=3, size=18).encode(
            x=x, tooltip=tips("head", "test_score", "test_low", "test_high")
        ),
    ]  # fmt: skip
    if "last" in mean:
        mark = alt.Chart(data([{"x": mean["last"]}])).mark_rule(color=MUTED, strokeDash=[4, 4])
        layers.insert(0, mark.encode(x="x:Q"))
    if interval is not None:
        band = alt.Chart(data([{"low": interval[0], "high": interval[1]}]))
        layers.insert(0, band.mark_rect(color=BAND).encode(x="low:Q", x2="high:Q"))
    listed = ", ".join(f"{head} {percent(mean[head])}" for head in heads)
    words = f"Mean {figure} on test over seeds, best on validation first: {listed}."
    return Chart(f"{upfirst(figure)} of every head on test", spec(layered(*layers), 36 * len(heads) + 30), words)
