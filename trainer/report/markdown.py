"""The report in short, as GitHub-flavoured Markdown for a pull request: headline, comparison and leaderboard."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from pathlib import Path

from ilse.core.files.atomic import write_text
from trainer.report.evaluation import BASELINE, Results, read_results
from trainer.report.findings import against_baseline, contains_zero, difference, ties
from trainer.report.result_files import Row, named_results
from trainer.report.wording import digits, percent, plain, points, probability, seconds
from trainer.results.figures import NAMES, upfirst
from trainer.results.intervals import interval


def as_markdown(results: Path, out: Path) -> Path:
    """Write the short report of the evaluation in `results` to `out`; raises what `report` does."""
    read = read_results(results)
    with named_results(results):
        parts = [_headline(read), *_plainly(read), *_leaderboard(read), *_comparison(read)]
    write_text(out, "\n".join(parts) + "\n")
    return out


def _headline(results: Results) -> str:
    best, gap = results.chosen, difference(results)
    sure = interval(results.metrics.metric, best["test_score"], results.metrics.test_rows)
    between = f" (95 % interval {digits(sure[1][0])}–{percent(sure[1][1])})" if sure else ""
    figure = f"**{_text(best['head'])}**, chosen on validation: **{percent(best['test_score'])}** "
    figure += f"{NAMES[results.metrics.metric]} on test{between}"
    if gap is not None:
        return f"{figure}, {_difference(gap)}."
    known = best["head"] != BASELINE and best["gain_points"] is not None
    return f"{figure}, {points(best['gain_points'])} points over `{BASELINE}`." if known else f"{figure}."


def _difference(gap: Row) -> str:
    ends = [gap["low_points"], gap["high_points"]]
    sure = [] if None in ends else [f"95 % interval {points(ends[0])} to {points(ends[1])}"]
    sure += [] if gap["p_holm"] is None else [f"Holm-corrected {probability(gap['p_holm'])}"]
    given = f" ({', '.join(sure)})" if sure else ""
    return f"{points(gap['difference_points'])} points over {_text(gap['baseline'])}{given}"


def _plainly(results: Results) -> Iterable[str]:
    gap, tied = difference(results), ties(results)
    if gap is not None and contains_zero(gap):
        yield f"\nThe interval of the difference contains 0: it is open which of the two is better on {_rows(results)}."
    if tied and results.chosen["seeds"] > 1:
        yield "\nSimpler and tied over seeds: " + ", ".join(_text(row["head"]) for row in tied) + "."


def _rows(results: Results) -> str:
    return f"these {plain(results.metrics.test_rows)} test rows"


def _leaderboard(results: Results) -> Iterable[str]:
    figure = upfirst(NAMES[results.metrics.metric])
    yield f"\n### Leaderboard\n\n{figure} in %, median over seeds (lowest–highest); gain in points over `{BASELINE}`.\n"
    yield from _table(
        ("#", "head", "validation", "test", "gain", "parameters", "training"),
        ([
            str(row["rank"]), _head(row), _share(row, "val"), _share(row, "test"),
            "–" if row["head"] == BASELINE else points(row["gain_points"]),
            plain(row["parameters"]), seconds(row["train_seconds"]),
        ] for row in results.rows),
    )  # fmt: skip


def _head(row: Row) -> str:
    mark = " (control)" if row["control"] else ""
    return f"**{_text(row['head'])}**" if row["chosen"] else _text(row["head"]) + mark


def _share(row: Row, split: str) -> str:
    low, high = row[f"{split}_low"], row[f"{split}_high"]
    between = "" if low is None or low == high else f" ({digits(low)}–{digits(high)})"
    return digits(row[f"{split}_score"]) + between


def _comparison(results: Results) -> Iterable[str]:
    table = against_baseline(results)
    if table is None:
        yield "\nThe comparison of heads on the same rows is missing (`comparison.csv`)."
        return
    rows = table.sort("difference_points", "head", descending=[True, False]).to_dicts()
    yield f"\n### Points over {_text(rows[0]['baseline'])} on the same {plain(rows[0]['rows'])} test rows\n"
    yield from _table(
        ("head", "difference", "95 % interval", "p, Holm"),
        ([
            _text(row["head"]), points(row["difference_points"]),
            f"{points(row['low_points'])} to {points(row['high_points'])}",
            probability(row["p_holm"]).removeprefix("p\u00a0=\u00a0"),
        ] for row in rows),
    )  # fmt: skip


def _table(headings: tuple[str, ...], rows: Iterable[list[str]]) -> Iterable[str]:
    yield _line(list(headings))
    yield _line(["---"] * len(headings))
    yield from map(_line, rows)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(name: str) -> str:
    """A name that Markdown shows as it is: nothing in it is markup, a link, a mention or the end of a cell."""
    flat = " ".join(html.escape(name, quote=False).split())
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~@:])", r"\\\1", flat)
