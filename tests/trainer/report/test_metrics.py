"""Panels of `ilse layers`: one a metric that has figures, the chosen layers marked, and none without its table."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ilse.core.errors import UserError
from tests.trainer.report.made_up import write_results
from trainer.layer_metrics.table import SHOWN, Figure, frame, with_suggested
from trainer.report import report
from trainer.report.evaluation import read_results
from trainer.report.metric_panels import METRICS, marked_layers, panels

LAYERS = 31
NAMES = ["embedding", *(f"block {i}" for i in range(1, LAYERS - 1)), "final"]


def with_metrics(folder: Path, suggested: tuple[int, ...] = ()) -> tuple[Path, dict[str, Path]]:
    results, facts = write_results(folder)
    figures = [Figure(i, "norm", 10.0 + i, 50, error=0.5) for i in range(LAYERS)]
    figures += [
        Figure(i, "dimension", None if i == 3 else 20.0 - i / 10, 50, note="few" if i == 3 else "")
        for i in range(LAYERS)
    ]
    figures += [Figure(i, "cka", 0.5, 50, other=i) for i in range(LAYERS)]
    table = frame(figures, NAMES)
    (with_suggested(table, suggested) if suggested else table).write_csv(results / "layer_metrics.csv")
    return results, facts


def specs(page: str) -> dict[str, Any]:
    found = re.findall(r'<script type="application/json" id="(metrics-\d+)">(.*?)</script>', page, re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def rows_of(spec: dict[str, Any], layer: int = 0) -> list[dict[str, Any]]:
    """Of one of a chart's layers."""
    own = spec["layer"][layer]["data"]
    found: list[dict[str, Any]] = own["values"] if "values" in own else spec["datasets"][own["name"]]
    return found


def test_every_figure_of_the_screen_has_a_panel_s_words() -> None:
    assert set(METRICS) >= set(SHOWN)


def test_a_panel_a_metric_with_its_values_and_marks(tmp_path: Path) -> None:
    results, facts = with_metrics(tmp_path, suggested=(2, 7))
    page = report(results, facts, tmp_path / "r.html").read_text()
    drawn = specs(page)
    assert list(drawn) == ["metrics-1", "metrics-2"]  # norm and dimension, as METRICS has them
    values = rows_of(drawn["metrics-1"])
    assert [row["value"] for row in values] == [10.0 + i for i in range(LAYERS)]
    assert (values[4]["low"], values[4]["high"]) == (13.5, 14.5)
    assert [row["layer"] for row in rows_of(drawn["metrics-1"], -1)] == [2, 7]
    assert len(rows_of(drawn["metrics-2"])) == LAYERS - 1
    assert "Rings mark block 2, block 7 (suggested by ‘--suggest’)." in page
    for metric in ("norm", "dimension"):
        assert all(words in page for words in METRICS[metric])
    assert METRICS["dime"][1] not in page


def test_without_a_suggestion_the_best_single_layer_is_marked(tmp_path: Path) -> None:
    results, _ = with_metrics(tmp_path)
    read = read_results(results)
    assert read.layers is not None
    best = read.layers.sort("val_score", descending=True)["layer"][0]
    assert list(marked_layers(read).names) == [best]
    (results / "layers.csv").unlink()
    assert marked_layers(read_results(results)).names == {}
    assert len(panels(read_results(results))) == 2


def test_without_the_table_there_is_no_such_section(tmp_path: Path) -> None:
    results, facts = write_results(tmp_path)
    page = report(results, facts, tmp_path / "r.html").read_text()
    assert 'id="metrics"' not in page
    assert specs(page) == {}


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    results, facts = with_metrics(tmp_path)
    table = pl.read_csv(results / "layer_metrics.csv")
    pl.concat([table, table.head(1)]).write_csv(results / "layer_metrics.csv")
    with pytest.raises(UserError, match="more than one for layer 0, metric norm"):
        report(results, facts, tmp_path / "r.html")
