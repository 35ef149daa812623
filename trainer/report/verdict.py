"""The gain of the chosen head over the baseline, and whether it is statistically significant.

A gain is the same everywhere: points of test score over the head `last`, of the means over seeds. `comparison.csv` has
it with its interval; without that table it is the leaderboard's.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from trainer.report.evaluation import BASELINE, Results
from trainer.report.findings import contains_zero, difference
from trainer.report.wording import probability

SIGNIFICANT, WORSE, OPEN, UNTESTED = (
    "statistically significant", "significantly worse", "not significantly different", "not tested",
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """`words` is one of the four above, or says that the chosen head is the baseline; `why` is a sentence or two."""

    baseline: str
    gain: float | None
    low: float | None
    high: float | None
    words: str
    why: str

    @property
    def known_interval(self) -> bool:
        """Whether the gain has an interval."""
        return self.low is not None and self.high is not None


def verdict(results: Results) -> Verdict:
    """How the chosen head compares with `last`, or with the one baseline that the evaluation was given."""
    best, gap = results.chosen, difference(results)
    if best["head"] == BASELINE:
        return Verdict(BASELINE, None, None, None, "no gain", _without_gain(results))
    if gap is None:
        lacking = "The head last was not evaluated, so no gain is known."
        if best["gain_points"] is not None:
            lacking = "The evaluation has no comparison of heads (comparison.csv)."
        return Verdict(BASELINE, best["gain_points"], None, None, UNTESTED, lacking)
    words = OPEN if gap["better"] is None else SIGNIFICANT if gap["better"] else WORSE
    p = f"Holm-corrected {probability(gap['p_holm'])}"
    if gap["better"] is not None:
        why = f"{p}."
    elif contains_zero(gap):
        why = f"The interval contains 0 ({p})."
    else:
        why = f"The interval excludes 0, but corrected for the number of heads compared it could be chance ({p})."
    if gap["seeds"] == 1:
        why += " With one seed, this holds for these runs only."
    return Verdict(gap["baseline"], gap["difference_points"], gap["low_points"], gap["high_points"], words, why)


def _without_gain(results: Results) -> str:
    ahead = better_than(results, BASELINE)
    if ahead is None:
        return "The last layer itself has the best validation score of all heads."
    heads = [row["head"] for row in results.rows if not row["control"] and row["head"] in ahead]
    if heads:
        return f"The last layer was chosen on validation, but on test {', '.join(heads)} did significantly better."
    return "The last layer itself was chosen on validation, and no head beats it significantly on test."


def better_than(results: Results, baseline: str) -> set[str] | None:
    """Heads and controls that are significantly better than `baseline`; None where nothing was compared with it."""
    settled = settled_against(results, baseline)
    return None if settled is None else {head for head, better in settled.items() if better}


def settled_against(results: Results, baseline: str) -> dict[str, bool | None] | None:
    """By head: significantly better than `baseline` or worse, and None where neither; None without a comparison."""
    table = results.comparison
    of_baseline = None if table is None else table.filter(pl.col("baseline") == baseline)
    if of_baseline is None or of_baseline.is_empty():
        return None
    return dict(of_baseline.select("head", "better").iter_rows())
