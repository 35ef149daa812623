"""What the tables say: which simpler heads tie, what is confused with what, and how the comparison came out."""

from __future__ import annotations

from collections import Counter
from typing import Any

import polars as pl

from trainer.controls import CONTROLS
from trainer.report.charts.analysis_chart import spread
from trainer.report.evaluation import BASELINE, Results
from trainer.report.result_files import Row
from trainer.results.costs import FIGURES, WITHOUT_CACHE, cost_table
from trainer.statistics import calibration_error

SHOWN = 200
"""Labels that are drawn and listed; a picture of more has no room for their names, and a browser hangs on thousands."""
SIMPLER = 0.9
"""A head counts as simpler up to this share of another's parameters; one parameter fewer does not make it so."""


def ties(results: Results) -> list[Row]:
    """Heads simpler than the chosen one that the test split does not tell from it, smallest first.

    Where no comparison with the chosen head is there: those whose range over seeds meets its range.
    """
    best, settled = results.chosen, told_apart(results)
    heads = [row for row in results.rows if not row["control"] and row["head"] != best["head"]]
    simpler = [row for row in heads if row["parameters"] <= SIMPLER * best["parameters"]]
    if settled is None:
        met = [r for r in simpler if r["test_high"] >= best["test_low"] and r["test_low"] <= best["test_high"]]
    else:
        met = [row for row in simpler if row["head"] not in settled]
    return sorted(met, key=lambda row: int(row["parameters"]))


def told_apart(results: Results) -> set[str] | None:
    """What the comparison with the chosen head calls better or worse than it; None without such a comparison."""
    table = results.comparison
    with_chosen = None if table is None else table.filter(pl.col("baseline") == results.chosen["head"])
    if with_chosen is None or with_chosen.is_empty():
        return None
    return set(with_chosen.drop_nulls("better")["head"])


def per_label(results: Results) -> list[Row]:
    """For each label shown: its test examples (`rows`), recall, precision, F1, and what it is most often taken for."""
    table, seeds = results.confusion, results.chosen["seeds"]
    if table is None:
        return []
    actual, predicted, taken = Counter[str](), Counter[str](), dict[str, tuple[int, str]]()
    right = Counter[str]()
    for label, other, count in table.group_by("actual", "predicted").len().iter_rows():
        actual[label] += count
        predicted[other] += count
        if label == other:
            right[label] = count
        else:
            taken[label] = max(taken.get(label, (0, "")), (count, other))
    rows = []
    for label in shown_labels(results):
        wrong, taken_for = taken.get(label, (0, ""))
        rows.append({
            "label": label, "rows": round(actual[label] / seeds),
            "recall": right[label] / actual[label] if actual[label] else None,
            "precision": right[label] / predicted[label] if predicted[label] else None,
            "f1": 2 * right[label] / (actual[label] + predicted[label]) if actual[label] + predicted[label] else None,
            "taken_for": taken_for if wrong else None, "taken_share": wrong / actual[label] if wrong else None,
        })  # fmt: skip
    return rows


def shown_labels(results: Results) -> list[str]:
    """The labels that are drawn, in their order: of more than `SHOWN`, those with the most wrong answers."""
    labels, table = label_order(results), results.confusion
    if len(labels) <= SHOWN or table is None:
        return labels[:SHOWN]
    wrong = Counter(table.filter(pl.col("actual") != pl.col("predicted"))["actual"].to_list())
    place = {label: i for i, label in enumerate(labels)}
    return sorted(sorted(labels, key=lambda label: (-wrong[label], place[label]))[:SHOWN], key=place.__getitem__)


def recalls(results: Results) -> list[Row]:
    """The rows of `classes.csv`, of the labels whose recall differs most between layers where there are many."""
    table = results.analysis.get("classes")
    if table is None:
        return []
    return table.filter(pl.col("label").is_in(spread(table)[:SHOWN])).to_dicts()


def label_order(results: Results) -> list[str]:
    """The labels as `metrics.json` lists them, then any other that was met."""
    if results.confusion is None:
        return results.metrics.labels
    met = pl.concat([results.confusion["actual"], results.confusion["predicted"]]).unique().sort()
    return list(dict.fromkeys([*results.metrics.labels, *met]))


def against_baseline(results: Results) -> pl.DataFrame | None:
    """The comparison's rows against one baseline (`last`, or the first there is), with the leaderboard's `control`."""
    table = results.comparison
    if table is None:
        return None
    baselines = table["baseline"].unique(maintain_order=True).to_list()
    baseline = BASELINE if BASELINE in baselines else baselines[0]
    rows = table.filter(pl.col("baseline") == baseline, pl.col("head") != baseline).drop_nulls("difference_points")
    known = rows.join(results.leaderboard.select("head", "control"), on="head", how="inner", maintain_order="left")
    return None if known.is_empty() else known


def difference(results: Results) -> Row | None:
    """The chosen head's row of `against_baseline`."""
    table = against_baseline(results)
    rows = [] if table is None else table.filter(pl.col("head") == results.chosen["head"]).to_dicts()
    return rows[0] if rows else None


def gains(results: Results) -> dict[str, float | None]:
    """By head: points of test score over `last`, as the comparison has them, or the leaderboard without it."""
    table = results.comparison
    rows = [] if table is None else table.filter(pl.col("baseline") == BASELINE).to_dicts()
    compared = {row["head"]: row["difference_points"] for row in rows if row["difference_points"] is not None}
    return {row["head"]: compared.get(row["head"], row["gain_points"]) for row in results.rows}


def contains_zero(row: Row) -> bool:
    """Whether the interval of a difference leaves open which of the two is better."""
    low, high = row["low_points"], row["high_points"]
    return low is None or high is None or low <= 0 <= high


def far_off(leaderboard: pl.DataFrame) -> list[str]:
    """Controls so far below the heads that a picture with them would show nothing of the heads' differences.

    That is more than the heads' own spread (at least ten points) below the lowest of them.
    """
    heads, controls = leaderboard.filter(~pl.col("control")), leaderboard.filter("control")
    bounds = heads.select(pl.col("test_low").min(), pl.col("test_high").max()).row(0)
    low, high = (value if value is not None else 0.0 for value in bounds)
    return controls.filter(pl.col("test_score") < low - max(high - low, 0.1))["head"].to_list()


def calibration_errors(results: Results) -> dict[str, float]:
    """The expected calibration error by head, over all seeds; none where examples have no single label."""
    if results.calibration is None:
        return {}
    of_heads = results.calibration.partition_by("head", as_dict=True).items()
    return {str(head): error for (head,), table in of_heads if (error := calibration_error(table)) is not None}


def of_head(table: pl.DataFrame | None, wanted: str) -> tuple[str, pl.DataFrame] | None:
    """The rows of the `wanted` head, or of the table's first one where it has none of that."""
    if table is None:
        return None
    head = wanted if wanted in table["head"] else str(table["head"][0])
    return head, table.filter(pl.col("head") == head)


def total_costs(results: Results, extraction: Row) -> list[dict[str, Any]]:
    """Rows of `cost_table`, quickest first; none where the stage's figures do not say what extracting took.

    A control on another cache is left out: its extraction was another one.
    """
    if not extraction.keys() >= FIGURES:
        return []
    others = {row["head"] for row in results.rows if row["control"]} - CONTROLS.keys() - set(WITHOUT_CACHE)
    table = cost_table(results.runs.filter(~pl.col("head").is_in(others)), extraction)
    return table.sort("total_seconds", nulls_last=True, maintain_order=True).to_dicts()
