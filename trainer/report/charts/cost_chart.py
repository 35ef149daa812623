"""What a head's figure costs: parameters or seconds, and the heads that nothing cheaper equals."""

from __future__ import annotations

import math

import altair as alt
import polars as pl

from trainer.report.charts.parts import (
    Chart,
    Rows,
    chosen_colour,
    control_shape,
    data,
    layered,
    percent_axis,
    spec,
    tips,
)
from trainer.report.theme import INK, MUTED
from trainer.report.wording import percent

COSTS = {"parameters": "trained parameters", "train_seconds": "seconds of training, one seed"}
"""Columns of the leaderboard that are a cost, and their axis."""
COSTS_FORMAT = {"parameters": "~s", "train_seconds": "~g"}
CLOSE = (0.22, 0.06)
"""Names nearer than this, as shares of the picture's width and height, would lie on one another."""


def cost_chart(leaderboard: pl.DataFrame, cost: str, chosen: str, figure: str) -> Chart:
    """Every head's `figure` on test against `cost` (a key of `COSTS`) on a log scale, the frontier as steps."""
    rows = _placed(leaderboard.to_dicts(), cost)
    edge = frontier(rows, cost)
    x = alt.X("at:Q", scale=alt.Scale(type="log", nice=False, padding=24),
              axis=alt.Axis(title=COSTS[cost], format=COSTS_FORMAT[cost], tickCount=5, grid=False))  # fmt: skip
    y = alt.Y("test_score:Q", scale=alt.Scale(zero=False, nice=True), axis=percent_axis(f"{figure} on test"))
    every = alt.Chart(data(rows)).encode(x=x, y=y)
    points = every.mark_point(size=80, filled=True, opacity=0.9).encode(
        color=chosen_colour(chosen, [row["head"] for row in rows]), shape=control_shape(),
        tooltip=[*tips("head", "test_score", "parameters"), alt.Tooltip("train_seconds:Q", format=".1f")],
    )  # fmt: skip
    steps = alt.Chart(data(edge)).mark_line(color=MUTED, interpolate="step-after", strokeWidth=1.5, strokeDash=[5, 3])
    drawn = layered(steps.encode(x=x, y=y), points, *_names(rows, edge, chosen, x, y))
    listed = ", ".join(f"{row['head']} {percent(row['test_score'])} at {row[cost]:,.4g}" for row in edge)
    words = f"{figure} on test against {COSTS[cost]}. On the frontier, cheapest first: {listed}."
    return Chart(f"Cost in {COSTS[cost]}", spec(drawn, 300), words[:1].upper() + words[1:])


def frontier(rows: Rows, cost: str) -> Rows:
    """The heads (no controls) that no head of the same or a lower cost equals on test, cheapest first."""
    edge: Rows = []
    for row in sorted((r for r in rows if not r["control"]), key=lambda r: (r[cost], -r["test_score"], r["head"])):
        if not edge or row["test_score"] > edge[-1]["test_score"]:
            edge.append(row)
    return edge


def _placed(rows: Rows, cost: str) -> Rows:
    """The rows with `at`, their place along a log axis: what costs nothing stands left of the cheapest other."""
    rows = [dict(row, **{cost: row[cost] or 0}) for row in rows]
    least = min((row[cost] for row in rows if row[cost] > 0), default=1)
    return [dict(row, at=row[cost] if row[cost] > 0 else least / 3) for row in rows]


def _names(rows: Rows, edge: Rows, chosen: str, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Names beside the points, the chosen head's and the frontier's first, where they do not lie on another."""
    spots = _spots(rows)
    first = {chosen: 0} | {row["head"]: 1 for row in edge if row["head"] != chosen}
    named: Rows = []
    for row in sorted(rows, key=lambda r: (first.get(r["head"], 2 + r["control"]), -r["test_score"], r["head"])):
        across, up = spots[row["head"]]
        others = (spots[other["head"]] for other in named)
        if all(abs(across - a) > CLOSE[0] or abs(up - b) > CLOSE[1] for a, b in others):
            named.append(row)
    left = alt.Chart(data([row for row in named if spots[row["head"]][0] > 0.6]))
    right = alt.Chart(data([row for row in named if spots[row["head"]][0] <= 0.6]))
    return [
        left.mark_text(color=INK, align="right", dx=-7, dy=-10).encode(x=x, y=y, text="head:N"),
        right.mark_text(color=INK, align="left", dx=-4, dy=-10).encode(x=x, y=y, text="head:N"),
    ]


def _spots(rows: Rows) -> dict[str, tuple[float, float]]:
    """Where the heads stand, as shares of the picture's width and height."""
    across = [math.log(row["at"]) for row in rows]
    up = [row["test_score"] for row in rows]
    shares = zip(_shares(across), _shares(up), strict=True)
    return {row["head"]: spot for row, spot in zip(rows, shares, strict=True)}


def _shares(values: list[float]) -> list[float]:
    low, span = min(values), (max(values) - min(values)) or 1.0
    return [(value - low) / span for value in values]
