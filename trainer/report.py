"""The report stage: one self-contained HTML page from the figures that training, evaluation and the cache left.

The page asks nothing of any network: scripts, styles and data stand in it, and its security policy runs its own two
scripts and no others, so that nothing in a user's labels can run.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from markupsafe import Markup
from pydantic import BaseModel, ValidationError

from ilse.errors import UserError
from ilse.files import write_text
from ilse.tables import SPLITS
from trainer import charts
from trainer.figures import NAMES, upfirst
from trainer.intervals import Interval, interval

Row = dict[str, Any]

TEXT, NUMBER, COUNT = pl.String, pl.Float64, pl.Int64
LEADERBOARD = (
    {"rank": COUNT, "head": TEXT, "summary": TEXT, "seeds": COUNT}
    | {f"{split}_{figure}": NUMBER for split in ("val", "test") for figure in ("score", "low", "high")}
    | {"gain_points": NUMBER, "parameters": COUNT, "share_percent": NUMBER, "train_seconds": NUMBER, "chosen": TEXT}
)
RUNS = (
    {"head": TEXT, "seed": COUNT, "best_epoch": COUNT, "val_score": NUMBER, "val_loss": NUMBER}
    | {"test_score": NUMBER, "parameters": COUNT, "train_seconds": NUMBER}
)  # fmt: skip
CONFUSION = {"actual": TEXT, "predicted": TEXT}
LAYERS = {"layer": COUNT, "name": TEXT, "val_score": NUMBER, "val_low": NUMBER, "val_high": NUMBER}
WEIGHTS = {"head": TEXT, "layer": COUNT, "name": TEXT, "weight": NUMBER, "low": NUMBER, "high": NUMBER}
CURVES = {"head": TEXT, "seed": COUNT, "epoch": COUNT, "train_loss": NUMBER, "val_loss": NUMBER, "val_score": NUMBER}


class Chosen(BaseModel):
    """The head that did best on validation."""

    head: str


class Metrics(BaseModel):
    """What the page takes of `metrics.json`."""

    chosen: Chosen
    metric: str
    train_rows: int
    validation_rows: int
    test_rows: int
    labels: list[str]


@dataclass(frozen=True)
class Results:
    """The tables of one evaluation; those that a run may lack are None (`confusion` without single labels)."""

    leaderboard: pl.DataFrame
    runs: pl.DataFrame
    metrics: Metrics
    confusion: pl.DataFrame | None
    layers: pl.DataFrame | None
    weights: pl.DataFrame | None
    curves: pl.DataFrame | None

    @property
    def rows(self) -> list[Row]:
        """The leaderboard's rows, best on validation first."""
        return self.leaderboard.to_dicts()

    @property
    def chosen(self) -> Row:
        """The chosen head's row."""
        return next(row for row in self.rows if row["chosen"])


def report(results: Path, facts: Mapping[str, Path], out: Path) -> Path:
    """Write the page of one evaluation to `out`, whole or not at all, and return `out`.

    Parameters
    ----------
    results
        Folder of the stages train and evaluate. `leaderboard.csv`, `runs.csv`, `confusion.csv` and `metrics.json`
        must be there; without rows in `layers.csv`, `weights.csv` or `curves/` their sections say why they are empty.
    facts
        JSON files of earlier stages' figures by the stage's name, such as `{"extract": data/extract.json}`. One that
        is missing is named on the page.
    out
        The page. Equal inputs give equal bytes.

    Raises
    ------
    UserError
        For a missing or unreadable file (naming the stage to run), or files of different runs.
    """
    write_text(out, _render(read_results(results), {stage: _read_facts(path) for stage, path in facts.items()}))
    return out


def read_results(folder: Path) -> Results:
    """The evaluation in `folder`, checked: all columns there, one chosen head, the one that `metrics.json` names."""
    board = _filled(_required(folder / "leaderboard.csv"), LEADERBOARD)
    board = board.sort("rank").with_columns(pl.col("chosen").str.to_lowercase() == "true")
    try:
        metrics = Metrics.model_validate_json(_required(folder / "metrics.json").read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise _unreadable(folder / "metrics.json", "figures of 'ilse evaluate'", f"{place}: {first['msg']}") from error
    chosen = board.filter("chosen")["head"].to_list()
    if chosen != [metrics.chosen.head]:
        found = f"leaderboard.csv chooses {', '.join(chosen) or 'none'}, metrics.json {metrics.chosen.head}"
        raise _unreadable(folder, "one chosen head in all files of an evaluation", found)
    return Results(
        board,
        _filled(_required(folder / "runs.csv"), RUNS),
        metrics,
        _confusion(_required(folder / "confusion.csv"), metrics.metric),
        _read_optional([folder / "layers.csv"], LAYERS),
        _read_optional([folder / "weights.csv"], WEIGHTS),
        _read_optional(sorted((folder / "curves").glob("*.csv")), CURVES),
    )


def _confusion(path: Path, metric: str) -> pl.DataFrame | None:
    return _filled(path, CONFUSION) if metric in ("accuracy", "kappa") else None


def _required(path: Path) -> Path:
    if not path.is_file():
        raise UserError(
            f"results {path}",
            expected="a file that 'ilse evaluate' writes",
            found="no such file",
            next_step="run 'ilse evaluate' first, or 'dvc repro'",
        )
    return path


def _read_optional(paths: list[Path], columns: Mapping[str, Any]) -> pl.DataFrame | None:
    tables = [_read_table(path, columns) for path in paths if path.is_file()]
    whole = pl.concat(tables) if tables else pl.DataFrame()
    return None if whole.is_empty() else whole


def _read_table(path: Path, columns: Mapping[str, Any]) -> pl.DataFrame:
    """The named columns of a CSV; labels stay text ('1', 'NA', ''), and numbers that JSON lacks become null."""
    try:
        table = pl.read_csv(path, infer_schema=False).select(list(columns)).fill_null("")
        numbers = [name for name, kind in columns.items() if kind != TEXT]
        typed = [pl.col(name).replace("", None).cast(NUMBER) for name in numbers]
        finite = [pl.when(pl.col(name).is_finite()).then(pl.col(name)).cast(columns[name]) for name in numbers]
        table = table.with_columns(typed).with_columns(finite)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(path, f"columns {', '.join(columns)}", str(error).splitlines()[0]) from error
    return table


def _filled(path: Path, columns: Mapping[str, Any]) -> pl.DataFrame:
    table = _read_table(path, columns)
    if table.is_empty():
        raise _unreadable(path, "at least one row", "only a header")
    return table


def _read_facts(path: Path) -> Row | None:
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_bytes())
    except ValueError as error:
        raise _unreadable(path, "JSON", str(error)) from error
    return facts if isinstance(facts, dict) else {"value": facts}


def _unreadable(path: Path, expected: str, found: str) -> UserError:
    return UserError(
        f"results {path}",
        expected=expected,
        found=found,
        next_step="run the stage that writes it again, or 'dvc repro'",
    )


SIMPLER = 0.9
"""A head counts as simpler up to this share of another's parameters; one parameter fewer does not make it so."""


def ties(results: Results) -> list[Row]:
    """Heads simpler than the chosen one whose test range over seeds meets its range, smallest first."""
    best = results.chosen
    simpler = [row for row in results.rows if row["parameters"] <= SIMPLER * best["parameters"]]
    met = [r for r in simpler if r["test_high"] >= best["test_low"] and r["test_low"] <= best["test_high"]]
    return sorted(met, key=lambda row: int(row["parameters"]))


def per_label(results: Results) -> list[Row]:
    """For each label: its test rows (of one seed), recall, precision, and what it is most often taken for."""
    table, seeds = results.confusion, results.chosen["seeds"]
    if table is None:
        return []
    counts = {(a, p): n for a, p, n in table.group_by("actual", "predicted").len().iter_rows()}
    labels = label_order(results)
    rows = []
    for label in labels:
        actual = sum(counts.get((label, other), 0) for other in labels)
        predicted = sum(counts.get((other, label), 0) for other in labels)
        right = counts.get((label, label), 0)
        wrong, taken_for = max((counts.get((label, o), 0), o) for o in labels if o != label) if labels[1:] else (0, "")
        rows.append({
            "label": label, "rows": round(actual / seeds),
            "recall": right / actual if actual else None, "precision": right / predicted if predicted else None,
            "taken_for": taken_for if wrong else None, "taken_share": wrong / actual if wrong else None,
        })  # fmt: skip
    return rows


def label_order(results: Results) -> list[str]:
    """The labels as `metrics.json` lists them, then any other that was met."""
    if results.confusion is None:
        return results.metrics.labels
    met = pl.concat([results.confusion["actual"], results.confusion["predicted"]]).unique().sort()
    return list(dict.fromkeys([*results.metrics.labels, *met]))


def _charts(results: Results, sure: Interval | None, figure: str) -> Row:
    best, labels = results.chosen, label_order(results)
    heads = results.leaderboard["head"].to_list()
    drawn: Row = {
        "heads": [charts.heads_chart(results.leaderboard, results.runs, best["head"], sure, figure)],
        "confusion": [] if results.confusion is None else [charts.confusion_chart(results.confusion, labels)],
        "layers": [], "weights": [], "curves": [], "loss_cut": None,
    }  # fmt: skip
    if results.layers is not None:
        drawn["layers"] = [charts.layers_chart(results.layers, best["head"], best["val_score"], figure)]
    if results.weights is not None:
        drawn["weights"] = charts.weights_charts(results.weights)
    if results.curves is not None:
        drawn["curves"], drawn["loss_cut"] = charts.curves_charts(
            results.curves, results.runs, heads, len(labels) if results.metrics.metric == "accuracy" else 0
        )
    return drawn


def split_facts(facts: Mapping[str, Any]) -> Row:
    """Any stage's figures as the page prints them: `plain` pairs, one table `by_split`, and `notes`."""
    shown: Row = {"plain": [], "by_split": [], "notes": []}
    for key, value in facts.items():
        name = key.replace("_", " ")
        if isinstance(value, Mapping) and value and set(value) <= set(SPLITS):
            shown["by_split"] += _by_split(name, value)
        elif isinstance(value, Mapping):
            scalars = {k: v for k, v in value.items() if not isinstance(v, Mapping | list)}
            # `labels` maps names to positions in a table, which tell a reader nothing.
            listed = key != "labels" and len(scalars) == len(value) <= 12
            shown["plain"] += [(f"{name}, {k}", _plain(v)) for k, v in value.items()] if listed else []
            shown["plain"] += [] if listed else [(name, _plain(len(value)))]
        elif isinstance(value, list):
            shown["notes"] += [str(note) for note in value] if key == "notes" else []
            shown["plain"] += [] if key == "notes" else [(name, _plain(len(value)))]
        else:
            shown["plain"].append(
                UNITS[key](value) if key in UNITS and isinstance(value, int | float) else (name, _plain(value))
            )
    return shown


def _by_split(name: str, counts: Mapping[str, Any]) -> list[tuple[str, list[Any]]]:
    if not all(isinstance(value, Mapping) for value in counts.values()):
        return [(name, [counts.get(split) for split in SPLITS])]
    inner = dict.fromkeys(key for value in counts.values() for key in value)
    return [(f"{name}: {key}", [counts.get(split, {}).get(key) for split in SPLITS]) for key in inner]


def _render(results: Results, facts: Mapping[str, Row | None]) -> str:
    best, rows = results.chosen, results.rows
    sure = interval(results.metrics.metric, best["test_score"], results.metrics.test_rows)
    figure = NAMES[results.metrics.metric]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trainer", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False, "separators": (",", ":")}
    environment.filters.update(
        upfirst=upfirst, pct=charts.percent, digits=_digits, points=_points, seconds=_seconds, plain=_plain
    )
    scripts = [charts.javascript(), charts.DRAW]
    if "</script" in scripts[0].lower():
        raise RuntimeError("the chart library's script holds '</script', which would end it within the page")
    return environment.get_template("report.html.j2").render(
        results=results, metrics=results.metrics, best=best, rows=rows, sure=sure, figure=figure, ties=ties(results),
        by_head={row["head"]: row for row in rows},
        above=[row for row in rows if row["test_score"] > best["test_score"]],
        charts=_charts(results, sure and sure[1], figure), config=charts.CONFIG, splits=SPLITS,
        labels=per_label(results),
        facts={stage: None if figures is None else split_facts(figures) for stage, figures in facts.items()},
        extract=facts.get("extract") or {}, scripts=[Markup(script) for script in scripts],
        hashes=[b64encode(hashlib.sha256(str(script).encode()).digest()).decode() for script in scripts],
    )  # fmt: skip


def _digits(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _points(points: float | None) -> str:
    return "–" if points is None else f"{round(points, 1) + 0.0:+.1f}".replace("-", "−")


def _seconds(seconds: float | int | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}\u00a0h {minutes % 60}\u00a0min" if minutes >= 60 else f"{minutes}\u00a0min {rest}\u00a0s"


def _plain(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}".rstrip("0").rstrip(".")


UNITS: dict[str, Callable[[Any], tuple[str, str]]] = {
    "bytes": lambda count: ("size", f"{count / 1e6:,.1f}\u00a0MB"),
    "seconds": lambda seconds: ("time", _seconds(seconds)),
}
"""A stage's figures that are named by their unit: their name and value on the page."""
