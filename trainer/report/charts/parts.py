"""What the charts are made of: axes, marks and colours. Altair's names stay out of the modules that draw only data.

Labels come from users' data and stand in specifications as data only, never as expressions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import altair as alt
import polars as pl

from trainer.report.theme import ACCENT, MUTED

Rows = list[dict[str, Any]]
TITLES = {
    "rows": "examples", "part": "characters", "test_score": "test", "test_low": "lowest seed",
    "test_high": "highest seed", "val_score": "validation", "val_low": "lowest seed", "val_high": "highest seed",
    "name_a": "layer", "name_b": "other layer", "name": "layer", "cka": "CKA", "difference_points": "points",
    "low_points": "from", "high_points": "to", "p_holm": "p (Holm)", "drop_points": "points lost",
}  # fmt: skip
"""What fields are called in tooltips, where not by their names."""


@dataclass(frozen=True)
class Chart:
    """A specification without its `$schema` address, and what it shows in words."""

    title: str
    spec: dict[str, Any]
    words: str


def level(value: float, text: str = "") -> list[alt.Chart]:
    """A dashed line across at `value`, with its name."""
    chart = alt.Chart(data([{"y": value, "text": text}])).encode(y="y:Q")
    label = chart.mark_text(color=MUTED, align="left", baseline="bottom", dy=-3, dx=2)
    return [chart.mark_rule(color=MUTED, strokeDash=[4, 4]), label.encode(x=alt.value(0), text="text:N")]


def layer_axis(layers: int) -> alt.X:
    """Layers along a number line."""
    axis = alt.Axis(title=layer_title(layers), format="d", tickMinStep=1, tickCount=8, grid=False)
    return alt.X("layer:Q", scale=alt.Scale(domain=[-0.5, layers - 0.5], nice=False), axis=axis)


def layer_ticks(layers: int) -> alt.Axis:
    """An axis of layers as steps of equal width, for bars and cells."""
    shown = list(range(0, layers, max(1, round(layers / 6))))
    return alt.Axis(title=layer_title(layers), labelAngle=0, values=shown, ticks=False)


def layer_title(layers: int) -> str:
    """What the numbers of an axis of layers mean."""
    return f"layer (0: embedding, {layers - 1}: last)"


def percent_axis(title: str) -> alt.Axis:
    """An axis of shares, in per cent."""
    return alt.Axis(format="~%", title=title, tickCount=6)


def chosen_colour(chosen: str, heads: list[str]) -> alt.Color:
    """The accent for the chosen head."""
    colours = [ACCENT if head == chosen else MUTED for head in heads]
    return alt.Color("head:N", scale=alt.Scale(domain=heads, range=colours), legend=None)


def tips(*fields: str, form: str = ".1%") -> list[alt.Tooltip]:
    """Tooltips for the fields: names and counts as they are, other numbers in `form`."""
    named = {"head", "name", "name_a", "name_b", "label", "actual", "predicted", "run", "part"}
    plain = dict.fromkeys(named, "N") | dict.fromkeys(("seed", "epoch", "rows", "layer", "parameters"), "Q")
    return [
        alt.Tooltip(f"{name}:{plain[name]}", title=TITLES.get(name, name.replace("_", " "))) if name in plain
        else alt.Tooltip(f"{name}:Q", format=form, title=TITLES.get(name, name.replace("_", " ")))
        for name in fields
    ]  # fmt: skip


def by_head(table: pl.DataFrame) -> Iterable[tuple[tuple[object, ...], pl.DataFrame]]:
    """Groups by head, in the table's order."""
    return table.group_by(["head"], maintain_order=True)


def data(rows: Rows) -> alt.InlineData:
    """Rows as a chart's own data."""
    return alt.InlineData(values=rows)


def layered(*drawn: alt.Chart) -> alt.LayerChart:
    """Charts on top of one another."""
    # alt.layer's type allows for facets
    return alt.LayerChart(layer=list(drawn))


def spec(chart: alt.LayerChart, height: int) -> dict[str, Any]:
    """The specification, as wide as its place on the page."""
    spec: dict[str, Any] = chart.properties(width="container", height=height).to_dict()
    return {key: value for key, value in spec.items() if key not in ("$schema", "config")}


def control_shape() -> alt.Shape:
    """Circles for heads, diamonds for controls (field `control`)."""
    return alt.Shape("control:N", scale=alt.Scale(domain=[False, True], range=["circle", "diamond"]), legend=None)
