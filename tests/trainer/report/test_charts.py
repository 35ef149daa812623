"""What the charts compute before they draw, against slow and obvious twins."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.heads.graphs.cayley import cayley_adjacency, smallest_modulus
from trainer.report.charts.analysis_chart import cka_chart, classes_chart, spread
from trainer.report.charts.cost_chart import cost_chart, frontier
from trainer.report.charts.graph_chart import graph_chart
from trainer.report.charts.label_places import DOT, GAP, LETTER, LINE, WIDTH, places
from trainer.report.charts.parts import Chart
from trainer.report.theme import LIGHT, on_paper


def values(chart: Chart, layer: int) -> list[dict[str, Any]]:
    """The rows that one layer of a chart draws."""
    source = chart.spec["layer"][layer].get("data") or chart.spec["data"]  # altair lifts what all layers share
    rows: list[dict[str, Any]] = chart.spec["datasets"][source["name"]]
    return rows


POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), min_size=1, max_size=12)


def rows_of(points: list[tuple[int, int, bool]]) -> list[dict[str, Any]]:
    return [
        {"head": f"h{i:02d}", "parameters": cost, "test_score": score / 10, "control": control}
        for i, (cost, score, control) in enumerate(points)
    ]


@given(points=POINTS)
def test_the_frontier_is_what_nothing_of_the_same_cost_or_less_equals(points: list[tuple[int, int, bool]]) -> None:
    rows = rows_of(points)
    heads = [row for row in rows if not row["control"]]
    edge = frontier(rows, "parameters")
    for row in heads:
        equalled = any(
            other["parameters"] <= row["parameters"] and other["test_score"] >= row["test_score"]
            for other in heads
            if (other["parameters"], other["test_score"]) != (row["parameters"], row["test_score"])
        )
        spots = [(r["parameters"], r["test_score"]) for r in edge]
        assert ((row["parameters"], row["test_score"]) in spots) == (not equalled)
    assert all(a["parameters"] < b["parameters"] and a["test_score"] < b["test_score"] for a, b in pairwise(edge))


def test_a_head_that_costs_nothing_has_a_place_on_the_log_axis() -> None:
    board = pl.DataFrame(rows_of([(0, 5, True), (100, 6, False), (1000, 7, False)])).with_columns(
        train_seconds=pl.lit(1.0)
    )
    data = values(cost_chart(board, "parameters", "h02", "accuracy"), 1)
    assert [row["at"] for row in data] == [pytest.approx(100 / 3), 100, 1000]
    assert data[0]["parameters"] == 0


def test_half_a_table_of_likeness_makes_a_whole_picture() -> None:
    pairs = [(0, 0, 1.0), (0, 1, 0.4), (1, 1, 1.0), (0, 2, 0.2), (1, 2, 0.7), (2, 2, 1.0)]
    table = pl.DataFrame([
        {"layer_a": a, "layer_b": b, "name_a": f"l{a}", "name_b": f"l{b}", "cka": value} for a, b, value in pairs
    ])  # fmt: skip
    chart = cka_chart(table)
    drawn = {(row["layer_a"], row["layer_b"]): row["cka"] for row in values(chart, 0)}
    assert drawn == {(a, b): v for a, b, v in pairs} | {(b, a): v for a, b, v in pairs}
    assert chart.words == "CKA of each pair of layers, from 0.20 to 1; 0.55 on average between neighbours."


def test_of_many_labels_those_that_layers_tell_apart_most_are_drawn() -> None:
    rows = [
        {"label": f"l{label:02d}", "layer": layer, "name": str(layer), "recall": 0.5 + layer * label / 100, "rows": 9}
        for label in range(15)
        for layer in range(3)
    ]
    table = pl.DataFrame(rows)
    assert spread(table)[:3] == ["l14", "l13", "l12"]
    drawn = {row["label"] for row in values(classes_chart(table), 0)}
    assert drawn == {f"l{label:02d}" for label in range(5, 15)}


@pytest.mark.parametrize("layers", [3, 13, 31])
def test_the_drawn_graph_is_the_heads_own(layers: int) -> None:
    chart = graph_chart(layers, ["embedding"])
    edges, every, real, virtual = (values(chart, layer) for layer in range(4))
    adjacency = cayley_adjacency(smallest_modulus(layers))
    assert len(every) == len(real) + len(virtual) == len(adjacency)
    assert len(real) == layers
    place = {(row["x"], row["y"]): number for number, row in enumerate(every)}
    drawn = {frozenset((place[row["x"], row["y"]], place[row["x2"], row["y2"]])) for row in edges}
    assert drawn == {frozenset(pair) for pair in adjacency.nonzero().tolist()}
    assert every[0]["name"] == "embedding"


def test_colours_become_those_of_paper_and_data_stay() -> None:
    spec = {"color": "var(--accent)", "values": [{"label": "a var(--accent)"}, {"label": "var(--none)"}], "n": 1}
    assert on_paper(spec) == spec | {"color": LIGHT["accent"]}


SPOTS = st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 0.9)), min_size=1, max_size=12)


@given(spots=SPOTS)
def test_names_lie_on_no_other_name_and_on_no_other_point(spots: list[tuple[float, float]]) -> None:
    height = 320
    points = [(f"head_{i}", across, up) for i, (across, up) in enumerate(spots)]
    boxes = []
    for place in places(points, height):
        number = int(place.name.removeprefix("head_"))
        x, wide = spots[number][0] * WIDTH, LETTER * len(place.name)
        left = x - GAP - wide if place.left else x + GAP
        box = (left, left + wide, place.up - LINE / 2, place.up + LINE / 2)
        dots = [(a * WIDTH, u * height) for i, (a, u) in enumerate(spots) if i != number]
        for a, u in dots:
            assert a + DOT <= box[0] or a - DOT >= box[1] or u + DOT <= box[2] or u - DOT >= box[3]
        for other in boxes:
            assert other[1] <= box[0] or other[0] >= box[1] or other[3] <= box[2] or other[2] >= box[3]
        assert place.moved == (place.up != spots[number][1] * height)
        boxes.append(box)


def test_a_dozen_heads_of_one_size_all_have_their_names() -> None:
    points = [(f"head_{i}", 0.1, 0.2 + 0.05 * i) for i in range(12)]
    assert len(places(points, 320)) == 12
