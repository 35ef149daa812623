"""The report's charts: Vega-Lite specifications, each with its alternative in words.

Colours are the page's CSS variables, so a chart follows the reader's light or dark scheme, and paper, without being
drawn again. Labels come from users' data and stand in specifications as data only, never as expressions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import altair as alt
import polars as pl
import vl_convert

from trainer.figures import upfirst

Rows = list[dict[str, Any]]

ACCENT, MUTED, INK, BAND = "var(--accent)", "var(--muted)", "var(--ink)", "var(--band)"
LABELS_WITH_NUMBERS = 12
"""A confusion matrix of more labels has no room for a number in each cell."""

CONFIG = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": "transparent"},
    "axis": {
        "labelColor": MUTED, "titleColor": MUTED, "gridColor": "var(--rule)", "tickColor": "var(--rule)",
        "domain": False, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 130,
    },
    "axisXQuantitative": {"labelFlush": False},
    "text": {"fontSize": 12},
}  # fmt: skip
"""Vega-Lite configuration of every chart."""

# `ast` walks expressions instead of compiling them, so that the page's policy need not allow code made from strings.
DRAW = """
(async () => {
  const read = id => JSON.parse(document.getElementById(id).textContent);
  const options = {
    mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false, config: read("chart-config"),
  };
  const draw = async box => {
    try {
      await vegaEmbed(box, read(box.dataset.spec), options);
    } catch (error) {
      box.textContent = "This chart could not be drawn: " + error.message;
      console.error(error);
    }
  };
  await Promise.all(Array.from(document.querySelectorAll("[data-spec]"), draw));
  document.documentElement.dataset.charts = "drawn";
})();
"""
"""The page's script: draws each specification into the box that names it."""


@dataclass(frozen=True)
class Chart:
    """A specification without its `$schema` address, and what it shows in words."""

    title: str
    spec: dict[str, Any]
    words: str


@cache
def javascript() -> str:
    """Vega, Vega-Lite, vega-embed and the expression interpreter in one script, for Altair's version of Vega-Lite."""
    version = ".".join(alt.VEGALITE_VERSION.removeprefix("v").split(".")[:2])
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)


def heads_chart(
    leaderboard: pl.DataFrame, runs: pl.DataFrame, chosen: str, interval: tuple[float, float] | None, figure: str
) -> Chart:
    """Every head's `figure` on test: range over seeds, each seed, and the chosen head's `interval` as a band."""
    heads = leaderboard["head"].to_list()
    median = {row["head"]: row["test_score"] for row in leaderboard.to_dicts()}
    y = alt.Y("head:N", scale=alt.Scale(domain=heads), title=None, axis=alt.Axis(labelColor=INK, ticks=False))
    x = alt.X("test_score:Q", scale=alt.Scale(zero=False, nice=True), axis=_percent(f"{figure} on test"))
    colour = _chosen_colour(chosen, heads)
    board = alt.Chart(_data(leaderboard.to_dicts())).encode(y=y, color=colour)
    layers = [
        board.mark_rule(strokeWidth=3, opacity=0.55).encode(x=alt.X("test_low:Q"), x2="test_high:Q"),
        alt.Chart(_data(runs.to_dicts())).mark_circle(size=28, opacity=0.6).encode(
            x=x, y=y, color=colour, tooltip=_tips("head", "seed", "test_score")
        ),
        board.mark_tick(thickness=3, size=18).encode(
            x=x, tooltip=_tips("head", "test_score", "test_low", "test_high")
        ),
    ]  # fmt: skip
    if "last" in median:
        mark = alt.Chart(_data([{"x": median["last"]}])).mark_rule(color=MUTED, strokeDash=[4, 4])
        layers.insert(0, mark.encode(x="x:Q"))
    if interval is not None:
        band = alt.Chart(_data([{"low": interval[0], "high": interval[1]}]))
        layers.insert(0, band.mark_rect(color=BAND).encode(x="low:Q", x2="high:Q"))
    listed = ", ".join(f"{head} {percent(median[head])}" for head in heads)
    words = f"Median {figure} on test over seeds, best on validation first: {listed}."
    return Chart(f"{upfirst(figure)} of every head on test", _spec(_layer(*layers), 36 * len(heads) + 30), words)


def layers_chart(layers: pl.DataFrame, chosen: str, chosen_score: float, figure: str) -> Chart:
    """The `figure` of a probe on each layer on validation; best and last layer and the chosen head are marked."""
    rows = layers.sort("layer").to_dicts()
    best, last = max(rows, key=lambda row: row["val_score"]), rows[-1]
    marks = [dict(best, mark=f"best: {best['name']}"), dict(last, mark="last layer")]
    x = _layer_axis(len(rows))
    y = alt.Y("val_score:Q", scale=alt.Scale(zero=False, nice=True), axis=_percent(f"{figure} on validation"))
    chart = alt.Chart(_data(rows)).encode(x=x)
    tips = _tips("name", "val_score", "val_low", "val_high")
    drawn: list[alt.Chart] = [
        chart.mark_area(color=ACCENT, opacity=0.18).encode(y=alt.Y("val_low:Q"), y2="val_high:Q"),
        chart.mark_line(color=ACCENT, strokeWidth=2).encode(y=y),
        chart.mark_circle(color=ACCENT, size=26).encode(y=y, tooltip=tips),
        *_level(chosen_score, f"{chosen}, the chosen head"),
    ]
    for row in marks if best is not last else marks[:1]:
        point = alt.Chart(_data([row])).encode(x=x, y=y)
        side: Literal["left", "right"] = "right" if row["layer"] > 0.6 * len(rows) else "left"
        drawn.append(point.mark_point(color=INK, size=90, strokeWidth=2).encode(tooltip=tips))
        drawn.append(point.mark_text(color=INK, align=side, dy=18 if row is marks[1] else -14).encode(text="mark:N"))
    words = (
        f"On validation, {figure} of a linear probe on each of {len(rows)} layers: {percent(rows[0]['val_score'])} at "
        f"{rows[0]['name']}, best {percent(best['val_score'])} at {best['name']}, "
        f"{percent(last['val_score'])} at the last layer; the chosen head {chosen} has {percent(chosen_score)}."
    )
    return Chart(f"{upfirst(figure)} of each single layer", _spec(_layer(*drawn), 300), words)


def weights_charts(weights: pl.DataFrame) -> list[Chart]:
    """One chart for each head with layer weights: the weights, and the equal share as a dashed line."""
    top = float(weights["high"].max() or 1.0)  # type: ignore[arg-type]
    return [_weights_chart(str(name), rows.sort("layer").to_dicts(), top) for (name,), rows in _by_head(weights)]


def _weights_chart(head: str, rows: Rows, top: float) -> Chart:
    heaviest, equal = max(rows, key=lambda row: row["weight"]), 1 / len(rows)
    scale = alt.Scale(domain=[0, top], nice=True)
    y = alt.Y("weight:Q", scale=scale, axis=alt.Axis(format="~%", title="weight", tickCount=5))
    shown = list(range(0, len(rows), max(1, round(len(rows) / 6))))
    axis = alt.Axis(title=_layer_title(len(rows)), labelAngle=0, values=shown, ticks=False)
    chart = alt.Chart(_data(rows)).encode(x=alt.X("layer:O", axis=axis))
    tips = _tips("name", "weight", "low", "high", form=".2%")
    drawn = _layer(
        chart.mark_bar(color=ACCENT, opacity=0.55).encode(y=y, tooltip=tips),
        chart.mark_rule(color=INK, strokeWidth=1).encode(y=alt.Y("low:Q", title="weight"), y2="high:Q"),
        *_level(equal),
    )
    words = f"{head}: heaviest {percent(heaviest['weight'])} at {heaviest['name']}; an equal share is {percent(equal)}."
    return Chart(head, _spec(drawn, 220), words)


def curves_charts(curves: pl.DataFrame, runs: pl.DataFrame, heads: list[str], labels: int) -> tuple[list[Chart], float]:
    """One chart for each head: training and validation loss of every seed. Also the loss above which they are cut.

    They share a scale, so that heads compare. Losses above twice that of guessing, ln(labels), are cut: one head that
    diverges would flatten all others. With `labels` 0, where the loss is no cross-entropy of labels, none is.
    """
    # a head that is no longer compared may have left its curve behind
    curves = curves.filter(pl.col("head").is_in(heads))
    losses = pl.concat([curves["train_loss"], curves["val_loss"]]).drop_nulls()
    highest = float(losses.max() or 1.0)  # type: ignore[arg-type]
    top = min(highest, 2 * math.log(max(labels, 2))) if labels else highest
    grouped = {str(name): rows.sort("seed", "epoch") for (name,), rows in _by_head(curves)}
    best = runs.select("head", "seed", pl.col("best_epoch").alias("epoch")).join(curves, on=["head", "seed", "epoch"])
    shown = [head for head in heads if head in grouped]
    return [_curves_chart(head, grouped[head], best.filter(pl.col("head") == head), top) for head in shown], top


def _curves_chart(head: str, rows: pl.DataFrame, best: pl.DataFrame, top: float) -> Chart:
    y = alt.Y("loss:Q", scale=alt.Scale(domain=[0, top]), axis=alt.Axis(title="loss", tickCount=4))
    axis = alt.Axis(title="epoch", tickMinStep=1, tickCount=5, grid=False)
    x = alt.X("epoch:Q", scale=alt.Scale(nice=False), axis=axis)
    chosen = best.select("seed", "epoch", "val_score", pl.col("val_loss").alias("loss"))
    drawn = _layer(
        _losses(rows, "train_loss").mark_line(color=MUTED, strokeDash=[3, 2], strokeWidth=1, clip=True).encode(x, y),
        _losses(rows, "val_loss").mark_line(color=ACCENT, strokeWidth=1.5, opacity=0.8, clip=True).encode(x, y),
        alt.Chart(_data(chosen.to_dicts())).mark_circle(color=INK, size=34, opacity=1, clip=True).encode(
            x, y, tooltip=_tips("seed", "epoch", "val_score")
        ),
    )  # fmt: skip
    epochs = best["epoch"].sort().to_list()
    end = rows.filter(pl.col("epoch") == pl.col("epoch").max().over("seed"))
    kept = f"epochs kept {', '.join(map(str, epochs))}" if epochs else "no epoch kept"
    train, val = (_median(end, column) for column in ("train_loss", "val_loss"))
    words = f"{head}: {kept}; median losses at the end {train} train, {val} validation."
    return Chart(head, _spec(drawn, 170), words)


def _losses(rows: pl.DataFrame, column: str) -> alt.Chart:
    table = rows.select("seed", "epoch", pl.col(column).round(5).alias("loss"))
    return alt.Chart(_data(table.to_dicts())).encode(detail="seed:N")


def confusion_chart(confusion: pl.DataFrame, labels: list[str]) -> Chart:
    """Share of each actual label's rows (over all seeds) that was given each label; `labels` in the order shown."""
    counts = confusion.group_by("actual", "predicted").len("rows")
    shares = counts.with_columns((pl.col("rows") / pl.col("rows").sum().over("actual")).round(5).alias("share"))
    rows = shares.sort("actual", "predicted").to_dicts()
    for row in rows:
        row["strong"], row["text"] = row["share"] > 0.55, f"{100 * row['share']:.0f}"
    many = len(labels) > LABELS_WITH_NUMBERS
    scale = alt.Scale(domain=labels, paddingInner=0.04)
    axis: dict[str, Any] = {"grid": False, "ticks": False, "labelFontSize": 9 if many else 12}
    chart = alt.Chart(_data(rows)).encode(
        x=alt.X("predicted:N", scale=scale, axis=alt.Axis(title="predicted", labelAngle=-90 if many else -40, **axis)),
        y=alt.Y("actual:N", scale=scale, axis=alt.Axis(title="actual", **axis)),
        tooltip=_tips("actual", "predicted", "share", "rows"),
    )
    strength = alt.FillOpacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.06, 1]), legend=None)
    cells = chart.mark_rect(fill=ACCENT).encode(fillOpacity=strength)
    colour = alt.Color("strong:N", scale=alt.Scale(domain=[False, True], range=[INK, "var(--on-accent)"]), legend=None)
    drawn = _layer(cells) if many else _layer(cells, chart.mark_text().encode(text="text:N", color=colour))
    drawn = drawn.properties(view=alt.ViewBackground(fill="var(--wash)"))
    right = {row["actual"]: row["share"] for row in rows if row["actual"] == row["predicted"]}
    worst = min(labels, key=lambda label: right.get(label, 0.0))
    words = f"Confusion matrix of {len(labels)} labels; least often met is {worst}, {percent(right.get(worst, 0.0))}."
    return Chart("Confusion matrix", _spec(drawn, len(labels) * (12 if many else 48)), words)


def percent(share: float | None) -> str:
    """A share in per cent with one digit, as the page prints it."""
    return "–" if share is None else f"{100 * share:.1f}\u00a0%"


def _median(rows: pl.DataFrame, column: str) -> str:
    value = rows[column].median()
    return f"{value:.3f}" if isinstance(value, float) else "–"


def _level(value: float, text: str = "") -> list[alt.Chart]:
    chart = alt.Chart(_data([{"y": value, "text": text}])).encode(y="y:Q")
    label = chart.mark_text(color=MUTED, align="left", baseline="bottom", dy=-3, dx=2)
    return [chart.mark_rule(color=MUTED, strokeDash=[4, 4]), label.encode(x=alt.value(0), text="text:N")]


def _layer_axis(layers: int) -> alt.X:
    axis = alt.Axis(title=_layer_title(layers), format="d", tickMinStep=1, tickCount=8, grid=False)
    return alt.X("layer:Q", scale=alt.Scale(domain=[-0.5, layers - 0.5], nice=False), axis=axis)


def _layer_title(layers: int) -> str:
    return f"layer (0: embedding, {layers - 1}: last)"


def _percent(title: str) -> alt.Axis:
    return alt.Axis(format="~%", title=title, tickCount=6)


def _chosen_colour(chosen: str, heads: list[str]) -> alt.Color:
    colours = [ACCENT if head == chosen else MUTED for head in heads]
    return alt.Color("head:N", scale=alt.Scale(domain=heads, range=colours), legend=None)


def _tips(*fields: str, form: str = ".1%") -> list[alt.Tooltip]:
    plain = {"head": "N", "name": "N", "actual": "N", "predicted": "N", "seed": "Q", "epoch": "Q", "rows": "Q"}
    return [
        alt.Tooltip(f"{name}:{plain[name]}") if name in plain
        else alt.Tooltip(f"{name}:Q", format=form, title=name.replace("_", " "))
        for name in fields
    ]  # fmt: skip


def _by_head(table: pl.DataFrame) -> Iterable[tuple[tuple[object, ...], pl.DataFrame]]:
    return table.group_by(["head"], maintain_order=True)


def _data(rows: Rows) -> alt.InlineData:
    return alt.InlineData(values=rows)


def _layer(*drawn: alt.Chart) -> alt.LayerChart:
    # alt.layer's type allows for facets
    return alt.LayerChart(layer=list(drawn))


def _spec(chart: alt.LayerChart, height: int) -> dict[str, Any]:
    spec: dict[str, Any] = chart.properties(width="container", height=height).to_dict()
    return {key: value for key, value in spec.items() if key not in ("$schema", "config")}
