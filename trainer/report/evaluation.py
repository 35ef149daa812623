"""The tables of one evaluation, read and checked as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ilse.core.errors import UserError
from ilse.core.files.json_files import read_json
from ilse.core.terminal import visible
from trainer.report.result_files import Row, filled, optional, required
from trainer.results.figures import BOUNDS
from trainer.results.manifest import require_one_evaluation
from trainer.results.result_tables import (
    COUNT,
    FLAG,
    KNOWN,
    MAYBE_COUNT,
    NUMBER,
    POSITIVE,
    SECONDS,
    SHARE,
    TEXT,
    Table,
    require_range,
    unreadable,
)

LAYER = {"layer": COUNT, "name": TEXT}
RANGE = {"low": NUMBER, "high": NUMBER}
OF_LAYER: dict[str, Any] = {"keys": (("head", "layer"),), "ordered": (("low", "high"),)}
SCORES = ("score", "low", "high")
LEADERBOARD = Table(
    {"rank": POSITIVE, "head": TEXT, "summary": TEXT, "seeds": POSITIVE}
    | {f"{split}_{figure}": KNOWN for split in ("val", "test") for figure in SCORES}
    | {"gain_points": NUMBER, "parameters": COUNT, "share_percent": NUMBER, "train_seconds": SECONDS, "chosen": FLAG},
    keys=(("head",), ("rank",)),
    ordered=(("val_low", "val_score", "val_high"), ("test_low", "test_score", "test_high")),
    may={"control": FLAG},
)
RUNS = Table(
    {"head": TEXT, "seed": COUNT, "best_epoch": MAYBE_COUNT, "val_score": KNOWN, "val_loss": NUMBER}
    | {"test_score": KNOWN, "parameters": COUNT, "train_seconds": SECONDS},
    keys=(("head", "seed"),),
)
CONFUSION = Table({"actual": TEXT, "predicted": TEXT})
LAYERS = Table(
    LAYER | {"val_score": KNOWN, "val_low": KNOWN, "val_high": KNOWN},
    keys=(("layer",),), ordered=(("val_low", "val_score", "val_high"),),
)  # fmt: skip
LAYER_METRICS = Table(
    LAYER | {"metric": TEXT, "other": MAYBE_COUNT, "value": NUMBER, "error": NUMBER, "note": TEXT},
    keys=(("layer", "metric", "other"),),
)
"""Of `ilse layers`, which belongs to no evaluation."""
WEIGHTS = Table({"head": TEXT} | LAYER | {"weight": NUMBER} | RANGE, **OF_LAYER)
CURVES = Table(
    {"head": TEXT, "seed": COUNT, "epoch": COUNT, "train_loss": NUMBER, "val_loss": NUMBER, "val_score": NUMBER},
    keys=(("head", "seed", "epoch"),),
)
COMPARISON = Table(
    {"head": TEXT, "baseline": TEXT, "seeds": POSITIVE, "rows": POSITIVE, "difference_points": NUMBER}
    | {"low_points": NUMBER, "high_points": NUMBER, "p": SHARE, "p_holm": SHARE, "mcnemar_p": SHARE, "better": FLAG},
    keys=(("head", "baseline"),), ordered=(("low_points", "difference_points", "high_points"),),
)  # fmt: skip
CALIBRATION = Table(
    {"head": TEXT, "low": SHARE, "high": SHARE, "rows": COUNT, "confidence": SHARE, "accuracy": SHARE},
    keys=(("head", "low"),), ordered=(("low", "high"),),
)  # fmt: skip
ANALYSIS = {
    "leave_one_out": Table({"head": TEXT} | LAYER | {"drop_points": NUMBER} | RANGE, **OF_LAYER),
    "attribution": Table({"head": TEXT} | LAYER | {"share": NUMBER} | RANGE, **OF_LAYER),
    "inputs": Table({"head": TEXT} | LAYER | {"mean": NUMBER} | RANGE, **OF_LAYER),
    "cka": Table(
        {"layer_a": COUNT, "layer_b": COUNT, "name_a": TEXT, "name_b": TEXT, "cka": NUMBER},
        keys=(("layer_a", "layer_b"),),
    ),
    "classes": Table({"label": TEXT} | LAYER | {"recall": SHARE, "rows": COUNT}, keys=(("label", "layer"),)),
}
"""Tables of `results/analysis/`, by the file's name."""

TABLES = (
    "leaderboard.csv", "runs.csv", "metrics.json", "confusion.csv", "layers.csv", "weights.csv", "comparison.csv",
    "calibration.csv",
)  # fmt: skip
"""Those that `ilse evaluate` writes together."""
BASELINE = "last"
Visible = Annotated[str, AfterValidator(visible)]
"""As in the tables, where a label's control characters are escapes."""
Rows = Annotated[int, Field(ge=1, le=2**53)]


class Chosen(BaseModel):
    """The head that did best on validation."""

    head: Visible


class Metrics(BaseModel):
    """What the page takes of `metrics.json`."""

    model_config = ConfigDict(strict=True)

    chosen: Chosen
    metric: Literal["accuracy", "f1_micro", "kappa", "r2", "spearman"]
    train_rows: Rows
    validation_rows: Rows
    test_rows: Rows
    labels: list[Visible]


@dataclass(frozen=True)
class Results:
    """The tables of one evaluation; those that a run may lack are None (`confusion` without single labels)."""

    leaderboard: pl.DataFrame
    runs: pl.DataFrame
    metrics: Metrics
    confusion: pl.DataFrame | None
    layers: pl.DataFrame | None
    layer_metrics: pl.DataFrame | None
    weights: pl.DataFrame | None
    curves: pl.DataFrame | None
    comparison: pl.DataFrame | None
    calibration: pl.DataFrame | None
    analysis: dict[str, pl.DataFrame]
    """By name; those that were not made are absent."""

    @property
    def rows(self) -> list[Row]:
        """The leaderboard's rows, best on validation first."""
        return self.leaderboard.to_dicts()

    @property
    def chosen(self) -> Row:
        """The chosen head's row."""
        return next(row for row in self.rows if row["chosen"])


def read_results(folder: Path) -> Results:
    """The evaluation in `folder`, checked: all columns there, one chosen head, every table of one and the same run."""
    board = filled(required(folder / "leaderboard.csv"), LEADERBOARD)
    board = board.sort("rank").with_columns(pl.col("chosen", "control").fill_null(False))
    require_one_evaluation(folder, [*TABLES, *(f"predictions/{head}.parquet" for head in board["head"])])
    metrics = _metrics(folder / "metrics.json")
    _check_choice(folder, board, metrics)
    runs = filled(required(folder / "runs.csv"), RUNS)
    _check_runs(folder, board, runs)
    analysis = {name: optional([folder / "analysis" / f"{name}.csv"], wanted) for name, wanted in ANALYSIS.items()}
    read = Results(
        board,
        runs,
        metrics,
        _confusion(required(folder / "confusion.csv"), metrics, board),
        optional([folder / "layers.csv"], LAYERS),
        optional([folder / "layer_metrics.csv"], LAYER_METRICS),
        optional([folder / "weights.csv"], WEIGHTS),
        optional(sorted((folder / "curves").glob("*.csv")), CURVES),
        optional([folder / "comparison.csv"], COMPARISON),
        optional([folder / "calibration.csv"], CALIBRATION),
        {name: found for name, found in analysis.items() if found is not None},
    )
    _check_scores(folder, read)
    return read


def _metrics(path: Path) -> Metrics:
    try:
        return Metrics.model_validate(read_json(required(path)))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise unreadable(path, "figures of 'ilse evaluate'", f"{place}: {first['msg']}") from error
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise unreadable(path, "figures of 'ilse evaluate'", str(error)) from error


def _check_choice(folder: Path, board: pl.DataFrame, metrics: Metrics) -> None:
    chosen = board.filter("chosen")
    if chosen["head"].to_list() != [metrics.chosen.head]:
        found = f"leaderboard.csv chooses {', '.join(chosen['head']) or 'none'}, metrics.json {metrics.chosen.head}"
        raise unreadable(folder, "one chosen head in all files of an evaluation", found)
    if chosen["control"].item():
        raise unreadable(folder / "leaderboard.csv", "a chosen head that is no control", metrics.chosen.head)


def _check_runs(folder: Path, board: pl.DataFrame, runs: pl.DataFrame) -> None:
    """Every head has a run for each of its seeds; a control that something else answered may have none."""
    rows = dict(runs.group_by("head").len().iter_rows())
    for head, seeds, control in board.select("head", "seeds", "control").iter_rows():
        found = rows.get(head, 0)
        if found != seeds and not (control and not found):
            expected = f"{seeds} rows of head {head}, one a seed as in leaderboard.csv"
            raise unreadable(folder / "runs.csv", expected, f"{found} rows")


def _check_scores(folder: Path, read: Results) -> None:
    """Scores are what the metric can give."""
    least, most = BOUNDS[read.metrics.metric]
    tables = {"leaderboard": read.leaderboard, "runs": read.runs, "layers": read.layers}
    for name, table in ((name, table) for name, table in tables.items() if table is not None):
        for column in table.columns:
            if column.startswith(("val_", "test_")) and column != "val_loss":
                require_range(folder / f"{name}.csv", table[column], least, most)


def _confusion(path: Path, metrics: Metrics, board: pl.DataFrame) -> pl.DataFrame | None:
    if metrics.metric not in ("accuracy", "kappa"):
        return None
    found, seeds = filled(path, CONFUSION), board.filter("chosen")["seeds"].item()
    if len(found) != seeds * metrics.test_rows:
        expected = f"{seeds * metrics.test_rows} rows, for {seeds} seeds of {metrics.test_rows} test rows"
        raise unreadable(path, expected, f"{len(found)} rows")
    return found
