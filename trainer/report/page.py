"""The page: one self-contained HTML file.

It asks nothing of any network: scripts, styles and data stand in it, and its security policy runs its own scripts and
no others, so that nothing in a user's labels or texts can run.
"""

from __future__ import annotations

import hashlib
import shlex
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import polars as pl
import vl_convert
from markupsafe import Markup

from ilse.core.tables import SPLITS
from ilse.core.terminal import visible
from trainer.report import theme, wording
from trainer.report.drawing import Drawn, draw
from trainer.report.evaluation import BASELINE, Results
from trainer.report.facts import split_facts
from trainer.report.findings import (
    against_baseline,
    calibration_errors,
    gains,
    label_order,
    per_label,
    recalls,
    ties,
    told_apart,
    total_costs,
)
from trainer.report.metric_panels import marked_layers, panels, single_metrics
from trainer.report.on_test.of_examples import OfExamples
from trainer.report.recommendation import Recommendation, recommended
from trainer.report.result_files import Row
from trainer.report.sections import left_out, shown
from trainer.report.verdict import verdict
from trainer.report.why import STYLES, Why
from trainer.results.figures import NAMES, upfirst
from trainer.results.intervals import interval

SCRIPTS = Path(__file__).parent / "scripts"
NAMES_OF_SCRIPTS = ("draw.js", "table.js", "contents.js", "copy.js")


def render(
    results: Results,
    facts: Mapping[str, Row | None],
    told: OfExamples,
    why: Why | None = None,
) -> str:
    """The page of one evaluation. Equal inputs give equal text."""
    best, rows = results.chosen, results.rows
    drawn = drawing_of(results, facts, told.lengths)
    sections = shown(drawn, told, why)
    compared, advice = against_baseline(results), recommended(results)
    return fill(
        "page.html.j2",
        results=results, metrics=results.metrics, best=best, rows=rows, figure=NAMES[results.metrics.metric],
        sure=interval(results.metrics.metric, best["test_score"], results.metrics.test_rows),
        advice=advice, verdict=verdict(results), command=predict_command(results, advice),
        heads=[row for row in rows if not row["control"]], controls=[row for row in rows if row["control"]],
        by_head={row["head"]: row for row in rows}, ties=ties(results), gains=gains(results),
        compared_with_chosen=told_apart(results) is not None, ece=calibration_errors(results),
        above=[r for r in rows if r["test_score"] > best["test_score"] and not r["control"]],
        compared=compared, charts=drawn.charts, drawn=drawn, splits=SPLITS, labels=per_label(results),
        examples=told.examples, errors=told.errors, lengths=told.lengths, confidence=drawn.confidence,
        metric_panels=panels(results), metric_rows=single_metrics(results),
        marked=str(marked_layers(results)),
        labels_known=len(label_order(results)), recalls=recalls(results),
        baseline=BASELINE, costs=total_costs(results, facts.get("extract") or {}),
        sections=sections, why=why, why_style=STYLES,
        left_out=left_out(sections, told, why, compared is not None),
        facts={stage: None if figures is None else split_facts(figures) for stage, figures in facts.items()},
        extract=facts.get("extract") or {},
    )  # fmt: skip


def drawing_of(results: Results, facts: Mapping[str, Row | None], lengths: Sequence[Row] = ()) -> Drawn:
    """The page's charts."""
    sure = interval(results.metrics.metric, results.chosen["test_score"], results.metrics.test_rows)
    return draw(results, sure and sure[1], (facts.get("extract") or {}).get("layers"), lengths)


def predict_command(results: Results, advice: Recommendation) -> str:
    """What predicts with the recommended head, or with the chosen one where that is a control: its best seed."""
    head = results.chosen["head"] if advice.control else advice.head
    runs = results.runs.filter(pl.col("head") == head).sort(
        "val_score", "val_loss", "seed", descending=[True, False, False], nulls_last=True
    )
    seed = runs["seed"][0] if len(runs) else 0
    return f"ilse predict {shlex.quote(f'models/{head}/seed-{seed}')} --input new.txt"


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
    scripts = [javascript(), *((SCRIPTS / name).read_text(encoding="utf-8") for name in NAMES_OF_SCRIPTS)]
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
