"""Several evaluations on one page: what each chose, every head in every run, and whether the data are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from ilse.core.errors import UserError
from ilse.core.files.atomic import write_text
from ilse.core.tables import LABEL, PAIR_TEXT_ID, SCORE, TEXT_ID
from trainer.report.charts.parts import Chart
from trainer.report.charts.runs_chart import runs_chart
from trainer.report.evaluation import BASELINE, Results, read_results
from trainer.report.findings import far_off
from trainer.report.on_test.answered import read_answers
from trainer.report.page import fill
from trainer.report.result_files import Row, named_results
from trainer.report.verdict import Verdict, verdict
from trainer.results.figures import NAMES


@dataclass(frozen=True)
class Evaluated:
    """One run: its name on the page, its tables, and a digest of its test examples (None without predictions)."""

    name: str
    results: Results
    digest: str | None

    @property
    def ahead(self) -> Row | None:
        """The control with the highest score on test, where it is higher than every head's."""
        return self._best if self._best["control"] else None

    @property
    def highest(self) -> str | None:
        """The head with the highest score on test; None where a control is ahead of it."""
        return None if self._best["control"] else str(self._best["head"])

    @cached_property
    def _best(self) -> Row:
        return max(self.results.rows, key=lambda row: (row["test_score"], not row["control"], -row["rank"]))

    @cached_property
    def verdict(self) -> Verdict:
        """How its chosen head compares with the baseline."""
        return verdict(self.results)

    @property
    def gain(self) -> float | None:
        """Of the chosen head, in points."""
        return self.verdict.gain

    @property
    def over(self) -> str:
        """What the gain is over, in words."""
        return "the last layer" if self.verdict.baseline == BASELINE else self.verdict.baseline


def compare(runs: Sequence[str], out: Path) -> Path:
    """Write the page that compares evaluations to `out`, whole or not at all, and return `out`.

    Parameters
    ----------
    runs
        Two or more folders that `ilse evaluate` filled, each as `folder` or `name=folder`; without a name, the
        folder's own is used.
    out
        The page. Equal inputs give equal bytes.

    Raises
    ------
    UserError
        For fewer than two runs, equal names, a run without results, and runs with different figures.
    """
    named = [_named(run) for run in runs]
    _check_names([name for name, _ in named])
    read = [Evaluated(name, read_results(folder), _digest(folder)) for name, folder in named]
    _check_metric(read)
    with named_results(named[0][1]):
        page = _render(read)
    write_text(out, page)
    return out


def _named(run: str) -> tuple[str, Path]:
    name, found, folder = run.partition("=")
    # A folder may hold the sign in its own name.
    path = Path(folder) if found and not Path(run).is_dir() else Path(run)
    return (name if path == Path(folder) and found else path.resolve().name), path


def _check_names(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or len(names) < 2:
        raise UserError(
            "comparison of runs",
            expected="two runs or more, each with a name of its own",
            found=f"{', '.join(twice)} more than once" if twice else f"{len(names)} run",
            next_step="name them: ilse compare small=runs/a/results large=runs/b/results",
        )


def _check_metric(runs: list[Evaluated]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if run.results.metrics.metric != first.results.metrics.metric:
            raise UserError(
                f"run {run.name}",
                expected=f"the figure of run {first.name}, {first.results.metrics.metric}",
                found=run.results.metrics.metric,
                next_step="compare runs of one objective",
            )


def _digest(folder: Path) -> str | None:
    """SHA-256 of the test examples' text ids and targets, in an order that does not depend on the run."""
    # All heads answer the same examples, so any of their files will do.
    path = min((folder / "predictions").glob("*.parquet"), default=None)
    if path is None:
        return None
    table = read_answers(path)
    table = table.filter(pl.col("seed") == pl.col("seed").min())
    known = [name for name in (TEXT_ID, PAIR_TEXT_ID, LABEL, "labels", SCORE) if name in table.columns]
    rows = sorted(repr(row) for row in table.select(known).iter_rows())
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def differences(runs: list[Evaluated]) -> list[str]:
    """What makes the runs' scores hard to compare, in sentences."""
    found = []
    sizes = {run.name: run.results.metrics.test_rows for run in runs}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {rows:,} examples" for name, rows in sizes.items())
        found.append(f"The test sets differ in size: {listed}")
    if len({tuple(run.results.metrics.labels) for run in runs}) > 1:
        found.append("The runs have different labels")
    digests = {run.digest for run in runs}
    if None in digests:
        lacking = ", ".join(run.name for run in runs if run.digest is None)
        found.append(f"It is not known whether the test examples are the same: {lacking} has no predictions")
    elif len(digests) > 1:
        listed = ", ".join(f"{run.name} {(run.digest or '')[:12]}" for run in runs)
        found.append(f"The test examples differ (digests of text ids and targets: {listed})")
    return found


def _render(runs: list[Evaluated]) -> str:
    heads = list(dict.fromkeys(head for run in runs for head in run.results.leaderboard["head"]))
    cells = {run.name: {row["head"]: row for row in run.results.rows} for run in runs}
    controls = {row["head"] for run in runs for row in run.results.rows if row["control"]}
    figure = NAMES[runs[0].results.metrics.metric]
    return fill(
        "compare.html.j2",
        runs=runs, heads=heads, cells=cells, controls=controls, figure=figure, differences=differences(runs),
        charts=_charts(runs, heads, figure),
    )  # fmt: skip


def _charts(runs: list[Evaluated], heads: list[str], figure: str) -> list[Chart]:
    omitted = {head for run in runs for head in far_off(run.results.leaderboard)}
    every: list[Row] = [row | {"run": run.name} for run in runs for row in run.results.rows]
    rows = [row for row in every if row["head"] not in omitted]
    domain = (min(row["test_low"] for row in rows), max(row["test_high"] for row in rows))
    names = [run.name for run in runs]
    by_head = {head: [row for row in rows if row["head"] == head] for head in heads if head not in omitted}
    return [runs_chart(head, own, names, domain, figure) for head, own in by_head.items()]
