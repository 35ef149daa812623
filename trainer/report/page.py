"""The page: one self-contained HTML file.

It asks nothing of any network: scripts, styles and data stand in it, and its security policy runs its own scripts and
no others, so that nothing in a user's labels or texts can run.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import vl_convert
from markupsafe import Markup

from ilse.core.tables import SPLITS
from ilse.core.terminal import visible
from trainer.report import theme, wording
from trainer.report.drawing import Drawn, draw
from trainer.report.evaluation import BASELINE, Results
from trainer.report.examples import Examples
from trainer.report.facts import split_facts
from trainer.report.findings import (
    against_baseline,
    calibration_errors,
    contains_zero,
    difference,
    label_order,
    per_label,
    recalls,
    ties,
    told_apart,
    total_costs,
)
from trainer.report.metric_panels import marked_layers, panels, single_metrics
from trainer.report.result_files import Row
from trainer.report.why import STYLES, Why
from trainer.results.figures import NAMES, upfirst
from trainer.results.intervals import interval

SCRIPTS = Path(__file__).parent / "scripts"
SECTIONS = {
    "comparison": "How sure", "leaderboard": "Leaderboard", "heads": "On test", "cost": "Cost",
    "layers": "Single layers", "metrics": "Layer metrics", "analysis": "What layers did", "weights": "Layer weights",
    "graph": "Graph", "calibration": "Calibration", "curves": "Training", "confusion": "Confusion",
    "examples": "Examples", "why": "Why", "run": "The run",
}  # fmt: skip
"""Templates of the page's parts, in order, and their names in its contents."""
ONLY_WITH_CHARTS = {"graph", "confusion", "metrics"}
"""Sections that make sense for some tasks alone."""


def render(results: Results, facts: Mapping[str, Row | None], examples: Examples, why: Why | None = None) -> str:
    """The page of one evaluation. Equal inputs give equal text."""
    best, rows = results.chosen, results.rows
    drawn = drawing_of(results, facts)
    return fill(
        "page.html.j2",
        results=results, metrics=results.metrics, best=best, rows=rows, figure=NAMES[results.metrics.metric],
        sure=interval(results.metrics.metric, best["test_score"], results.metrics.test_rows),
        heads=[row for row in rows if not row["control"]], controls=[row for row in rows if row["control"]],
        by_head={row["head"]: row for row in rows}, ties=ties(results),
        compared_with_chosen=told_apart(results) is not None, ece=calibration_errors(results),
        above=[r for r in rows if r["test_score"] > best["test_score"] and not r["control"]],
        compared=against_baseline(results), difference=difference(results), contains_zero=contains_zero,
        charts=drawn.charts, drawn=drawn, splits=SPLITS, labels=per_label(results), examples=examples,
        metric_panels=panels(results), metric_rows=single_metrics(results),
        marked=str(marked_layers(results)),
        labels_known=len(label_order(results)), recalls=recalls(results),
        baseline=BASELINE, costs=total_costs(results, facts.get("extract") or {}),
        sections={n: title for n, title in SECTIONS.items() if _is_shown(n, drawn, why)}, why=why, why_style=STYLES,
        facts={stage: None if figures is None else split_facts(figures) for stage, figures in facts.items()},
        extract=facts.get("extract") or {},
    )  # fmt: skip


def _is_shown(section: str, drawn: Drawn, why: Why | None) -> bool:
    """Whether a section makes sense for the task; that of words only where somebody asked for it."""
    if section == "why":
        return why is not None
    return section not in ONLY_WITH_CHARTS or bool(drawn.charts[section])


def drawing_of(results: Results, facts: Mapping[str, Row | None]) -> Drawn:
    """The page's charts."""
    sure = interval(results.metrics.metric, results.chosen["test_score"], results.metrics.test_rows)
    return draw(results, sure and sure[1], (facts.get("extract") or {}).get("layers"))


def fill(template: str, **values: Any) -> str:
    """A template of ours with its values, the scripts, the colours and the policy."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trainer.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined, finalize=lambda value: visible(value) if type(value) is str else value,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False, "separators": (",", ":")}
    environment.filters.update(
        upfirst=upfirst, pct=wording.percent, digits=wording.digits, points=wording.points, seconds=wording.seconds,
        plain=wording.plain, probability=wording.probability,
    )  # fmt: skip
    scripts = [javascript(), *((SCRIPTS / name).read_text(encoding="utf-8") for name in ("draw.js", "table.js"))]
    if any("</script" in script.lower() for script in scripts):
        raise RuntimeError("a script holds '</script', which would end it within the page")
    return environment.get_template(template).render(
        values, scripts=[Markup(script) for script in scripts], config=theme.CONFIG,
        light=Markup(theme.css(theme.LIGHT)), dark=Markup(theme.css(theme.DARK)),
        hashes=[b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
    )  # fmt: skip


@cache
def javascript() -> str:
    """Vega, Vega-Lite, vega-embed and the expression interpreter in one script, for Altair's version of Vega-Lite."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=vegalite())


def vegalite() -> str:
    """Altair's version of Vega-Lite, as vl-convert names it."""
    return ".".join(alt.VEGALITE_VERSION.removeprefix("v").split(".")[:2])
