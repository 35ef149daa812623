"""The page's sections: their order, and those that have something to show; the others are left out."""

from __future__ import annotations

from trainer.report.drawing import Drawn
from trainer.report.on_test.of_examples import OfExamples
from trainer.report.why import Why

SECTIONS = {
    "layers": "Layer profile", "similarity": "Layer similarity", "leaderboard": "Leaderboard",
    "comparison": "Statistics", "heads": "Test scores", "cost": "Cost", "confusion": "Labels",
    "errors": "Confident errors", "lengths": "Text length", "calibration": "Calibration",
    "examples": "Differences", "analysis": "Use of layers", "weights": "Layer weights",
    "metrics": "Layer metrics", "graph": "Layer graph", "curves": "Training", "why": "Why", "run": "This run",
}  # fmt: skip
"""Templates of the page's parts, in order, and their names in its contents."""
ALWAYS = {"leaderboard", "comparison", "heads", "cost", "curves", "run"}
USE = ("leave_one_out", "attribution", "inputs", "classes")
"""Charts of the section `analysis`."""
MAKE = {
    "layers": "layers.csv: train the head ‘best’, which probes every layer",
    "similarity": "analysis/cka.csv: run ‘ilse analyse’",
    "analysis": "analysis/leave_one_out.csv and others: run ‘ilse analyse’",
    "weights": "weights.csv: train a head that learns layer weights, such as ‘weighted’",
    "calibration": "calibration.csv: labels have it, run ‘ilse evaluate’",
    "lengths": "predictions and texts: run ‘ilse report --texts data/texts.parquet’",
    "errors": "predictions with probabilities, and texts: run ‘ilse report --texts data/texts.parquet’",
}
"""Sections that a run may lack: what they are made from, and how to get it."""


def shown(drawn: Drawn, told: OfExamples, why: Why | None) -> dict[str, str]:
    """The sections that have something to show, with their names in the contents."""
    charts = drawn.charts
    there = {
        "layers": bool(charts["layers"]),
        "similarity": bool(charts["cka"]),
        "analysis": any(charts[name] for name in USE),
        "examples": bool(told.examples),
        "errors": bool(told.errors.rows),
        "why": why is not None and not why.lacking,
    }
    there |= {name: bool(charts.get(name)) for name in SECTIONS if name not in there} | dict.fromkeys(ALWAYS, True)
    return {name: title for name, title in SECTIONS.items() if there[name]}


def left_out(sections: dict[str, str], told: OfExamples, why: Why | None, compared: bool) -> list[str]:
    """What the page could show and does not, and why, in a line each."""
    lines = [f"{SECTIONS[name]} ({how})" for name, how in MAKE.items() if name not in sections]
    if not compared:
        lines.insert(0, "Differences with intervals (comparison.csv: run ‘ilse evaluate’)")
    if told.examples.lacking:
        lines.append(f"{SECTIONS['examples']} ({told.examples.lacking})")
    if why is not None and why.lacking:
        lines.append(f"{SECTIONS['why']} ({why.lacking}: run ‘ilse why’ again)")
    return lines
