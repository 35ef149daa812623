"""The tables of one evaluation, read and checked as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from pydantic import BaseModel, ValidationError

from trainer.report.reading import COUNT, FLAG, NUMBER, TEXT, Row, filled, optional, required, unreadable

LAYER = {"layer": COUNT, "name": TEXT}
RANGE = {"low": NUMBER, "high": NUMBER}
LEADERBOARD = (
    {"rank": COUNT, "head": TEXT, "summary": TEXT, "seeds": COUNT}
    | {f"{split}_{figure}": NUMBER for split in ("val", "test") for figure in ("score", "low", "high")}
    | {"gain_points": NUMBER, "parameters": COUNT, "share_percent": NUMBER, "train_seconds": NUMBER, "chosen": FLAG}
)
LEADERBOARD_MAY = {"control": FLAG}
RUNS = (
    {"head": TEXT, "seed": COUNT, "best_epoch": COUNT, "val_score": NUMBER, "val_loss": NUMBER}
    | {"test_score": NUMBER, "parameters": COUNT, "train_seconds": NUMBER}
)  # fmt: skip
RUNS_MAY = {"test_ece": NUMBER}
CONFUSION = {"actual": TEXT, "predicted": TEXT}
LAYERS = LAYER | {"val_score": NUMBER, "val_low": NUMBER, "val_high": NUMBER}
WEIGHTS = {"head": TEXT} | LAYER | {"weight": NUMBER} | RANGE
CURVES = {"head": TEXT, "seed": COUNT, "epoch": COUNT, "train_loss": NUMBER, "val_loss": NUMBER, "val_score": NUMBER}
COMPARISON = (
    {"head": TEXT, "baseline": TEXT, "seeds": COUNT, "rows": COUNT, "difference_points": NUMBER}
    | {"low_points": NUMBER, "high_points": NUMBER, "p": NUMBER, "p_holm": NUMBER, "mcnemar_p": NUMBER, "better": FLAG}
)  # fmt: skip
CALIBRATION = {"head": TEXT} | RANGE | {"rows": COUNT, "confidence": NUMBER, "accuracy": NUMBER}
ANALYSIS = {
    "leave_one_out": {"head": TEXT} | LAYER | {"drop_points": NUMBER} | RANGE,
    "attribution": {"head": TEXT} | LAYER | {"share": NUMBER} | RANGE,
    "inputs": {"head": TEXT} | LAYER | {"mean": NUMBER} | RANGE,
    "cka": {"layer_a": COUNT, "layer_b": COUNT, "name_a": TEXT, "name_b": TEXT, "cka": NUMBER},
    "classes": {"label": TEXT} | LAYER | {"recall": NUMBER, "rows": COUNT},
}
"""Tables of `results/analysis/`, by the file's name."""

BASELINE = "last"


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
    """The evaluation in `folder`, checked: all columns there, one chosen head, the one that `metrics.json` names."""
    board = filled(required(folder / "leaderboard.csv"), LEADERBOARD, LEADERBOARD_MAY)
    board = board.sort("rank").with_columns(pl.col("chosen", "control").fill_null(False))
    metrics = _metrics(folder / "metrics.json")
    _check_choice(folder, board, metrics)
    analysis = {name: optional([folder / "analysis" / f"{name}.csv"], columns) for name, columns in ANALYSIS.items()}
    return Results(
        board,
        filled(required(folder / "runs.csv"), RUNS, RUNS_MAY),
        metrics,
        _confusion(required(folder / "confusion.csv"), metrics.metric),
        optional([folder / "layers.csv"], LAYERS),
        optional([folder / "weights.csv"], WEIGHTS),
        optional(sorted((folder / "curves").glob("*.csv")), CURVES),
        optional([folder / "comparison.csv"], COMPARISON),
        optional([folder / "calibration.csv"], CALIBRATION),
        {name: found for name, found in analysis.items() if found is not None},
    )


def _metrics(path: Path) -> Metrics:
    try:
        return Metrics.model_validate_json(required(path).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise unreadable(path, "figures of 'ilse evaluate'", f"{place}: {first['msg']}") from error


def _check_choice(folder: Path, board: pl.DataFrame, metrics: Metrics) -> None:
    chosen = board.filter("chosen")
    if chosen["head"].to_list() != [metrics.chosen.head]:
        found = f"leaderboard.csv chooses {', '.join(chosen['head']) or 'none'}, metrics.json {metrics.chosen.head}"
        raise unreadable(folder, "one chosen head in all files of an evaluation", found)
    if chosen["control"].item():
        raise unreadable(folder / "leaderboard.csv", "a chosen head that is no control", metrics.chosen.head)


def _confusion(path: Path, metric: str) -> pl.DataFrame | None:
    return filled(path, CONFUSION) if metric in ("accuracy", "kappa") else None
