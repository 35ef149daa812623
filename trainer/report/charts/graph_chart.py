"""The graph on which the head `cayley` lets layers exchange messages."""

from __future__ import annotations

import math

import altair as alt

from trainer.heads.graphs.cayley import cayley_adjacency, smallest_modulus
from trainer.report.charts.parts import Chart, Rows, data, layered, spec
from trainer.report.theme import ACCENT, INK, MUTED, PAPER

TURN = 2 * math.pi


def graph_chart(layers: int, names: list[str]) -> Chart:
    """The Cayley graph for `layers` layers, its vertices on a circle in breadth-first order, clockwise from the top.

    The first `layers` vertices carry the layers, pale to strong with depth; the others, grey, are virtual. `names` are
    the layers' names, or empty.
    """
    modulus = smallest_modulus(layers)
    adjacency = cayley_adjacency(modulus)
    nodes = _nodes(len(adjacency), layers, names)
    edges = [_edge(nodes[a], nodes[b]) for a, b in adjacency.nonzero().tolist() if a < b]
    scale = alt.Scale(domain=[-1.16, 1.16])
    x, y = alt.X("x:Q", scale=scale, axis=None), alt.Y("y:Q", scale=scale, axis=None)
    lines = alt.Chart(data(edges)).mark_rule(color=MUTED, strokeWidth=0.8, opacity=0.55)
    every, real, virtual = (
        alt.Chart(data(rows)).encode(x=x, y=y, tooltip=[alt.Tooltip("name:N")])
        for rows in (nodes, nodes[:layers], nodes[layers:])
    )
    depth = alt.FillOpacity("depth:Q", scale=alt.Scale(domain=[0, 1], range=[0.12, 1]), legend=None)
    drawn = layered(
        lines.encode(x=x, y=y, x2="x2:Q", y2="y2:Q"),
        every.mark_circle(size=130, fill=PAPER, opacity=1),
        real.mark_circle(size=130, fill=ACCENT, stroke=ACCENT, opacity=1).encode(fillOpacity=depth),
        virtual.mark_circle(size=70, fill=MUTED, fillOpacity=0.35, stroke=MUTED, opacity=1),
        every.mark_text(color=INK, fontSize=10).encode(x=alt.X("label_x:Q"), y=alt.Y("label_y:Q"), text="label:N"),
    )  # fmt: skip
    words = (
        f"Cayley graph of SL(2, Z_{modulus}): {len(nodes)} vertices and {len(edges)} edges; {layers} vertices are "
        f"layers, {len(nodes) - layers} are virtual."
    )
    return Chart("The layer graph", spec(drawn, 430), words)


def _nodes(count: int, layers: int, names: list[str]) -> Rows:
    rows: Rows = []
    for number in range(count):
        angle, real = TURN * number / count, number < layers
        x, y = math.sin(angle), math.cos(angle)
        named = names[number] if number < len(names) else f"layer {number}"
        rows.append({
            "x": round(x, 5), "y": round(y, 5), "label_x": round(1.09 * x, 5), "label_y": round(1.09 * y, 5),
            "depth": round(number / max(layers - 1, 1), 5) if real else 0,
            "name": named if real else f"virtual, vertex {number}", "label": str(number) if real else "",
        })  # fmt: skip
    return rows


def _edge(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    return {"x": a["x"], "y": a["y"], "x2": b["x"], "y2": b["y"]}
