"""The tables of a comparison: scores over seeds with their range, ordered by validation.

The validation score is the median over seeds, which one bad seed does not move; it chooses. The test score is the mean
over seeds, so that the gain, its difference to the baseline's, is the very figure that `comparison.csv` has an interval
for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import fmean, median
from textwrap import wrap
from typing import Any

import polars as pl

from trainer.artifacts.answers import Answers
from trainer.artifacts.artifact import TrainedHead
from trainer.heads import HEADS
from trainer.objectives import Objective
from trainer.results.figures import NAMES, upfirst

BASELINE = "last"
WIDTHS = (12, 8, 19, 7, 12, 9)
"""Widths of the columns after the head's name in the printed leaderboard, in characters."""


@dataclass(frozen=True)
class Run:
    """One head or control with one seed. Scores are the figure that its objective chooses by, such as the accuracy."""

    head: str
    seed: int
    best_epoch: int | None
    val_score: float
    val_loss: float | None
    test_score: float
    parameters: int
    model_parameters: int
    train_seconds: float
    layer_names: list[str]
    layers_scored: list[int]
    """Layers that `layer_scores` are of: all, or those whose tokens are read."""
    layer_scores: list[float] | None
    layer_weights: list[float] | None
    others: dict[str, float] = field(default_factory=dict)
    """Further figures on the test split."""
    control: str | None = None
    """What a control is, in words; None for a head."""
    kind: str | None = None
    """The actual head behind another name, such as `auto`."""

    @property
    def summary(self) -> str:
        """One-line description of the head or control."""
        if self.control is not None:
            return self.control
        return HEADS[self.head].summary if self.kind is None else f"best of those tried: {HEADS[self.kind].summary}"

    @classmethod
    def of(cls, name: str, trained: TrainedHead, figures: dict[str, float]) -> Run:
        """The run of a trained head whose `figures` on the test split are known."""
        facts = trained.facts
        weights, tokens = trained.head.layer_weights(), trained.head.spec.tokens
        every = list(range(len(facts.layer_names)))
        return cls(
            head=name,
            seed=facts.seed,
            best_epoch=facts.best_epoch,
            val_score=facts.val_score,
            val_loss=facts.val_loss,
            test_score=figures[trained.objective.metric],
            parameters=trained.parameters_trained,
            model_parameters=facts.frozen_parameters,
            train_seconds=facts.train_seconds,
            layer_names=facts.layer_names,
            layers_scored=every if tokens is None else tokens.layers or every,
            layer_scores=facts.layer_scores,
            layer_weights=None if weights is None else weights.tolist(),
            others={name: value for name, value in figures.items() if name != trained.objective.metric},
            kind=None if name in HEADS else trained.head.spec.name,
        )

    @classmethod
    def of_answers(cls, name: str, answers: Answers, figures: dict[str, float]) -> Run:
        """The run of a control, whose answers to the test examples have these `figures`."""
        facts, metric = answers.facts, answers.objective.metric
        return cls(
            head=name,
            seed=facts.seed,
            best_epoch=None,
            val_score=facts.val_score,
            val_loss=facts.val_loss,
            test_score=figures[metric],
            parameters=facts.parameters,
            model_parameters=facts.model_parameters,
            train_seconds=facts.train_seconds,
            layer_names=[],
            layers_scored=[],
            layer_scores=None,
            layer_weights=None,
            others={key: value for key, value in figures.items() if key != metric},
            control=facts.summary,
        )


def leaderboard(runs: list[Run]) -> pl.DataFrame:
    """One row per head or control, best median validation figure first (ties: lower validation loss, fewer parameters).

    `chosen` marks the first head; a `control` stands at its rank and is never chosen. The test figures are reported
    beside, and order nothing. `gain_points`: points of test score over the head `last`, null without it.
    """
    rows = [_head_row([run for run in runs if run.head == head]) for head in dict.fromkeys(run.head for run in runs)]
    unknown = float("inf")  # a loss that was not told comes after those that were
    rows.sort(key=lambda row: (-row["val_score"], unknown if row["val_loss"] is None else row["val_loss"],
                               row["parameters"]))  # fmt: skip
    chosen = next((row["head"] for row in rows if not row["control"]), None)
    baseline = next((row["test_score"] for row in rows if row["head"] == BASELINE), None)
    for rank, row in enumerate(rows, start=1):
        gain = None if baseline is None else 100 * (row["test_score"] - baseline)
        row.update(rank=rank, gain_points=gain, chosen=row["head"] == chosen)
    order = ["rank", "head", "summary", "seeds", *_score_columns("val"), *_score_columns("test")]
    order += ["gain_points", "parameters", "share_percent", "train_seconds", "control", "chosen"]
    return pl.DataFrame(rows, infer_schema_length=None).select(order)


def runs_table(runs: list[Run]) -> pl.DataFrame:
    """One row per head and seed, with all figures on the test split."""
    columns = ("head", "seed", "best_epoch", "val_score", "val_loss", "test_score", "parameters", "train_seconds")
    others = [{f"test_{name}": value for name, value in run.others.items()} for run in runs]
    return pl.DataFrame(
        [{name: getattr(run, name) for name in columns} | other for run, other in zip(runs, others, strict=True)],
        infer_schema_length=None,
    )


def layer_table(runs: list[Run]) -> pl.DataFrame:
    """Validation figure of a linear probe on each single layer, from the runs of `best`; empty without them."""
    probed = [run for run in runs if run.layer_scores is not None and run.kind is None]
    named = [("best", _numbered(run, run.layers_scored), run.layer_scores or []) for run in probed]
    return _by_layer(named, "val").drop("head")


def weight_table(runs: list[Run]) -> pl.DataFrame:
    """Learned weight of each layer, for the heads that learn one; empty without them."""
    weighted = [run for run in runs if run.layer_weights]
    named = [(run.head, _numbered(run, range(len(run.layer_names))), run.layer_weights or []) for run in weighted]
    table = _by_layer(named, "weight")
    return table.rename({"weight_score": "weight", "weight_low": "low", "weight_high": "high"})


def metrics(
    table: pl.DataFrame, objective: Objective, labels: tuple[str, ...], counts: dict[str, Any]
) -> dict[str, Any]:
    """The comparison, for programs."""
    chosen = table.filter("chosen").row(0, named=True)
    shown = ("seeds", *_score_columns("val"), *_score_columns("test"), "parameters", "train_seconds")
    return {
        "objective": objective.kind,
        "metric": objective.metric,
        "chosen": {
            "head": chosen["head"],
            "val_score": chosen["val_score"],
            "test_score": chosen["test_score"],
            "gain_over_last_points": chosen["gain_points"],
        },
        **counts,
        "labels": list(labels),
        **{
            kind: {row["head"]: {name: row[name] for name in shown} for row in of_kind.iter_rows(named=True)}
            for kind, of_kind in (("heads", table.filter(~pl.col("control"))), ("controls", table.filter("control")))
        },
    }


def scores(table: pl.DataFrame) -> dict[str, Any]:
    """The few figures by which versions are compared (`dvc metrics`): the chosen head's, and the best control's."""
    chosen, controls = table.filter("chosen").row(0, named=True), table.filter("control")
    best = controls.sort("val_score", descending=True).row(0, named=True) if len(controls) else None
    return {
        "head": chosen["head"],
        "seeds": chosen["seeds"],
        "val_score": chosen["val_score"],
        "test_score": chosen["test_score"],
        "gain_over_last_points": chosen["gain_points"],
        "best_control": best and best["head"],
        "best_control_test_score": best and best["test_score"],
    }


def as_text(table: pl.DataFrame, metric: str) -> str:
    """The leaderboard for a terminal, 80 columns wide where no name is longer than ours."""
    name_width = max(10, *map(len, table["head"]))
    lines = [_line(name_width, "head", "validation", "test", "range over seeds", "gain", "params", "train s")]
    for row in table.iter_rows(named=True):
        gain = "" if row["gain_points"] is None else f"{row['gain_points']:+.1f}"
        spread = f"{100 * row['test_low']:.1f} to {100 * row['test_high']:.1f}"
        shares = (f"{100 * row[f'{split}_score']:.1f}" for split in ("val", "test"))
        lines.append(_line(name_width, row["head"], *shares, spread, gain, _count(row["parameters"]), _seconds(row)))
    fewest, most = min(table["seeds"].to_list()), max(table["seeds"].to_list())
    seeds = f"{most} seed{'s' * (most > 1)}" if fewest == most else f"{fewest} to {most} seeds"
    lines.append(f"{upfirst(NAMES[metric])} in %, {seeds}; gain: points over 'last'.")
    if most > 1:
        lines.append("Of several seeds: the median on validation, the mean on test.")
    if controls := table.filter("control")["head"].to_list():
        text = f"Controls, never chosen: {', '.join(controls)}."
        lines += wrap(text, 80, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def _line(name_width: int, head: str, *cells: str) -> str:
    return f"{head:<{name_width}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))


def _count(parameters: int) -> str:
    return f"{parameters:,}" if parameters < 1e8 else f"{parameters / 1e6:,.0f}M"


def _seconds(row: dict[str, Any]) -> str:
    seconds = row["train_seconds"]
    return f"{seconds:.1f}" if seconds < 1e5 else f"{seconds:.0f}"


def _head_row(runs: list[Run]) -> dict[str, Any]:
    first, losses = runs[0], [run.val_loss for run in runs if run.val_loss is not None]
    return {
        "head": first.head,
        "summary": first.summary,
        "seeds": len(runs),
        **_spread("val", [run.val_score for run in runs]),
        **_spread("test", [run.test_score for run in runs], fmean),
        "val_loss": median(losses) if losses else None,
        "parameters": first.parameters,
        "share_percent": 100 * first.parameters / first.model_parameters if first.model_parameters else None,
        "train_seconds": median(run.train_seconds for run in runs),
        "control": first.control is not None,
    }


def _score_columns(prefix: str) -> tuple[str, str, str]:
    return f"{prefix}_score", f"{prefix}_low", f"{prefix}_high"


def _spread(prefix: str, values: list[float], middle: Callable[[list[float]], float] = median) -> dict[str, float]:
    least, most = min(values), max(values)
    # a mean of equal numbers may be rounded beyond them
    return dict(zip(_score_columns(prefix), (min(max(middle(values), least), most), least, most), strict=True))


def _numbered(run: Run, layers: Iterable[int]) -> list[tuple[int, str]]:
    return [(layer, run.layer_names[layer]) for layer in layers]


def _by_layer(profiles: list[tuple[str, list[tuple[int, str]], list[float]]], prefix: str) -> pl.DataFrame:
    rows = []
    for head in dict.fromkeys(head for head, _, _ in profiles):
        same = [(layers, values) for name, layers, values in profiles if name == head]
        for place, (layer, layer_name) in enumerate(same[0][0]):
            spread = _spread(prefix, [values[place] for _, values in same])
            rows.append({"head": head, "layer": layer, "name": layer_name, **spread})
    schema = ["head", "layer", "name", *_score_columns(prefix)]
    return pl.DataFrame(rows, schema=None if rows else schema)
