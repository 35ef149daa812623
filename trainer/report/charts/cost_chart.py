"""What a head's score costs: parameters or seconds, and the heads that nothing cheaper equals."""

from __future__ import annotations

import math

import altair as alt
import polars as pl

from trainer.report.charts.label_places import places
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
from trainer.report.theme import INK, MUTED, PAPER
from trainer.report.wording import percent

COSTS = {"parameters": "trained parameters", "train_seconds": "training seconds per seed"}
"""Columns of the leaderboard that are a cost, and their axis."""
COSTS_FORMAT = {"parameters": "~s", "train_seconds": "~g"}
HEIGHT = 320


def cost_chart(leaderboard: pl.DataFrame, cost: str, chosen: str, figure: str) -> Chart:
    """Every head's `figure` on test against `cost` (a key of `COSTS`) on a log scale, the frontier as steps."""
    rows = _placed(leaderboard.to_dicts(), cost)
    edge = frontier(rows, cost)
    x = alt.X("at:Q", scale=alt.Scale(type="log", nice=False, padding=24),
              axis=alt.Axis(title=COSTS[cost], format=COSTS_FORMAT[cost], tickCount=5, grid=False))  # fmt: skip
    domain = _domain(rows)
    y = alt.Y("test_score:Q", scale=_scale(domain), axis=percent_axis(f"{figure} on test"))
    every = alt.Chart(data(rows)).encode(x=x, y=y)
    points = every.mark_point(size=80, filled=True, opacity=0.9).encode(
        color=chosen_colour(chosen, [row["head"] for row in rows]), shape=control_shape(),
        tooltip=[*tips("head", "test_score", "parameters"), alt.Tooltip("train_seconds:Q", format=".1f")],
    )  # fmt: skip
    steps = alt.Chart(data(edge)).mark_line(color=MUTED, interpolate="step-after", strokeWidth=1.5, strokeDash=[5, 3])
    drawn = layered(steps.encode(x=x, y=y), points, *_names(rows, edge, chosen, x, y, domain))
    listed = ", ".join(f"{row['head']} {percent(row['test_score'])} at {row[cost]:,.4g}" for row in edge)
    words = f"{figure} on test against {COSTS[cost]}. On the frontier, cheapest first: {listed}."
    return Chart(f"Cost in {COSTS[cost]}", spec(drawn, HEIGHT), words[:1].upper() + words[1:])


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


def _names(rows: Rows, edge: Rows, chosen: str, x: alt.X, y: alt.Y, domain: tuple[float, float]) -> list[alt.Chart]:
    """Names beside the points; the chosen head's and the frontier's find their places first."""
    first = {row["head"]: 1 for row in edge} | {chosen: 0}
    ordered = sorted(rows, key=lambda r: (first.get(r["head"], 2 + r["control"]), -r["test_score"], r["head"]))
    low, high = domain
    across = _shares([math.log(row["at"]) for row in ordered])
    up = [(row["test_score"] - low) / (high - low) for row in ordered]
    spots = zip([row["head"] for row in ordered], across, up, strict=True)
    found = {place.name: place for place in places(spots, HEIGHT)}
    named = [
        {"head": row["head"], "at": row["at"], "test_score": row["test_score"], "left": place.left,
         "moved": place.moved, "up": low + place.up / HEIGHT * (high - low)}
        for row in ordered if (place := found.get(row["head"])) is not None
    ]  # fmt: skip
    height = alt.Y("up:Q", scale=_scale(domain))
    drawn, moved = [], [row for row in named if row["moved"]]
    if moved:
        lines = alt.Chart(data(moved)).mark_rule(color=MUTED, strokeWidth=0.8, opacity=0.7)
        drawn.append(lines.encode(x=x, y=y, y2="up:Q"))
    for left in (False, True):
        side = [row for row in named if row["left"] is left]
        for halo in (True, False) if side else ():  # so that no line crosses a name
            text = alt.Chart(data(side)).mark_text(
                color=INK, align="right" if left else "left", baseline="middle", dx=-7 if left else 7,
                stroke=PAPER if halo else alt.Undefined, strokeWidth=3 if halo else alt.Undefined,
            )  # fmt: skip
            drawn.append(text.encode(x=x, y=height, text="head:N"))
    return drawn


def _scale(domain: tuple[float, float]) -> alt.Scale:
    return alt.Scale(domain=list(domain), zero=False, nice=False)


def _domain(rows: Rows) -> tuple[float, float]:
    """The axis of scores, with room for names above and below."""
    scores = [row["test_score"] for row in rows]
    room = 0.12 * ((max(scores) - min(scores)) or 0.02)
    return min(scores) - room, max(scores) + room


def _shares(values: list[float]) -> list[float]:
    low, span = min(values), (max(values) - min(values)) or 1.0
    return [(value - low) / span for value in values]
