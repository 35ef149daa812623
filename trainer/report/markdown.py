"""The report in short, as GitHub-flavoured Markdown for a pull request: recommendation, leaderboard and comparison."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from pathlib import Path

from ilse.core.files.atomic import write_text
from trainer.report.evaluation import BASELINE, Results, read_results
from trainer.report.findings import against_baseline, gains, ties, told_apart
from trainer.report.recommendation import recommended
from trainer.report.result_files import Row, named_results
from trainer.report.verdict import verdict
from trainer.report.wording import digits, percent, plain, points, probability, seconds
from trainer.results.figures import NAMES, upfirst
from trainer.results.intervals import interval


def as_markdown(results: Path, out: Path) -> Path:
    """Write the short report of the evaluation in `results` to `out`; raises what `report` does."""
    read = read_results(results)
    with named_results(results):
        parts = [_advice(read), "", _headline(read), *_simpler(read), *_leaderboard(read), *_comparison(read)]
    write_text(out, "\n".join(parts) + "\n")
    return out


def _advice(results: Results) -> str:
    advice = recommended(results)
    sentences = [f"**{_prose(advice.sentence)}**", *map(_prose, [*advice.details, *advice.notes])]
    return " ".join(sentences)


def _headline(results: Results) -> str:
    best, found = results.chosen, verdict(results)
    sure = interval(results.metrics.metric, best["test_score"], results.metrics.test_rows)
    between = f" (95 % interval {digits(sure[1][0])}–{percent(sure[1][1])})" if sure else ""
    score = f"Chosen on validation: **{_text(best['head'])}**, **{percent(best['test_score'])}** "
    score += f"{NAMES[results.metrics.metric]} on test{between}."
    if found.gain is None:
        return f"{score} {_prose(found.why)}"
    ends = f" (95 % interval {points(found.low)} to {points(found.high)})" if found.known_interval else ""
    gain = f"Gain over {_text(found.baseline)}: {points(found.gain)} points{ends}, {found.words}."
    return f"{score} {gain} {_prose(found.why)}"


def _simpler(results: Results) -> Iterable[str]:
    tied = ties(results)
    if tied and (told_apart(results) is not None or results.chosen["seeds"] > 1):
        how = "within its range over seeds" if told_apart(results) is None else "not significantly worse"
        listed = ", ".join(_text(row["head"]) for row in tied)
        yield f"\nHeads with fewer parameters that are {how}: {listed}."


def _leaderboard(results: Results) -> Iterable[str]:
    figure = upfirst(NAMES[results.metrics.metric])
    over_seeds = "the median over seeds on validation, the mean on test (lowest–highest seed)"
    yield f"\n### Leaderboard\n\n{figure} in %: {over_seeds}. Gain: points of test score over `{BASELINE}`.\n"
    gain = gains(results)
    yield from _table(
        ("#", "head", "validation", "test", "gain", "parameters", "training"),
        ([
            str(row["rank"]), _head(row), _share(row, "val"), _share(row, "test"),
            "–" if row["head"] == BASELINE else points(gain[row["head"]]),
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
        yield "\nThe heads were not compared (`comparison.csv` is missing)."
        return
    rows = table.sort("difference_points", "head", descending=[True, False]).to_dicts()
    yield f"\n### Gain over {_text(rows[0]['baseline'])} on {plain(rows[0]['rows'])} test examples, in points\n"
    yield from _table(
        ("head", "gain", "95 % interval", "p, Holm-corrected"),
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


def _prose(sentences: str) -> str:
    """Sentences of ours with names in them, which need less than a name alone: no line starts with one."""
    flat = " ".join(html.escape(sentences, quote=False).split())
    return re.sub(r"([\\`*_{}\[\]|~@]|:(?=/)|(?<=www)\.)", r"\\\1", flat)
