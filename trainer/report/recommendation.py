"""What to use, in a sentence: the chosen head where it earns its place, and what is simpler where it does not.

The chosen head must be significantly better on test than whatever is cheaper to have: answers without any language
model, a smaller model, the last layer alone, a linear control on the same cache. Of those that it does not beat, the
first in that order is recommended. A control that beats it significantly is recommended at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import polars as pl

from trainer.report.evaluation import BASELINE, Results
from trainer.report.findings import SIMPLER
from trainer.report.result_files import Row
from trainer.report.verdict import better_than, settled_against
from trainer.report.wording import millions, percent, points
from trainer.results.costs import WITHOUT_CACHE

PHRASES = {
    "last": "a linear probe on the last layer",
    "last_probe": "a linear model on the last layer",
    "mean_probe": "a linear model on the mean of all layers",
    "words": "a linear model on words",
}
"""What heads and controls are called in a sentence; others by their name and summary."""
CHANCE = {"majority": "guessing from the labels’ frequencies", "random_labels": "training on random labels"}
"""Controls that learn nothing: a head that does not beat them is of no use."""
UNTRAINED, FINE_TUNED = "untrained", "lora"
"""The controls whose model has random weights, and whose model was trained: neither is simpler than a head."""


@dataclass(frozen=True)
class Recommendation:
    """`Use {what}: {reason}.`, with the name of what to use; empty where nothing is worth it."""

    head: str
    what: str
    """In words, without its name where the words are its own."""
    named: bool
    """Whether `what` names it already."""
    reason: str
    control: bool
    details: list[str] = field(default_factory=list)
    """Sentences with the figures behind it."""
    notes: list[str] = field(default_factory=list)
    """Sentences that a reader should not miss."""

    @property
    def sentence(self) -> str:
        """The whole of it, as text."""
        name = "" if self.named or not self.head else f" ({self.head})"
        return f"Use {self.what}{name}: {self.reason}."


class _Against:
    """How heads and controls came out against the chosen one."""

    def __init__(self, results: Results) -> None:
        table = results.comparison
        self.chosen = results.chosen
        self._settled = settled_against(results, self.chosen["head"]) or {}
        self._over_last = (settled_against(results, BASELINE) or {}).get(self.chosen["head"], ...)
        rows = [] if table is None else table.filter(pl.col("baseline") == self.chosen["head"]).to_dicts()
        self._rows = {row["head"]: row for row in rows}

    def tested(self, row: Row) -> bool:
        """Whether it was compared with the chosen head."""
        return row["head"] in self._settled

    def beats(self, row: Row) -> bool:
        """Is significantly better than the chosen head."""
        return self._settled.get(row["head"]) is True

    def holds(self, row: Row) -> bool:
        """Is not significantly worse than the chosen head; where nothing was compared, is not behind it."""
        if row["head"] == BASELINE and self._over_last is not ...:
            return self._over_last is not True  # as the verdict has it: corrections differ from baseline to baseline
        if self.tested(row):
            return self._settled[row["head"]] is not False
        return bool(row["test_score"] >= self.chosen["test_score"])

    def figures(self, row: Row) -> str:
        """How far the chosen head is ahead of it on test, in a sentence with the interval."""
        found, name = self._rows.get(row["head"]), self.chosen["head"]
        if found is None or found["difference_points"] is None:
            lead = 100 * (self.chosen["test_score"] - row["test_score"])
            return f"Difference on test, {name} minus {row['head']}: {points(lead)} points, not tested."
        # in the table the other way round
        ends = [found["low_points"], found["high_points"]]
        sure = [] if None in ends else sorted(-end for end in ends)
        between = f" (95\u00a0% interval {points(sure[0])} to {points(sure[1])})" if sure else ""
        return f"Difference on test, {name} minus {row['head']}: {points(-found['difference_points'])} points{between}."


def recommended(results: Results) -> Recommendation:
    """The recommendation for one evaluation."""
    against, chosen = _Against(results), results.chosen
    others = [row for row in results.rows if row["control"]]
    chance = [row for row in others if row["head"] in CHANCE and against.holds(row)]
    controls = [row for row in others if row["head"] not in (*CHANCE, UNTRAINED)]
    ahead = [row for row in controls if against.beats(row)]
    simpler = _simpler(results, controls)
    equal = [row for row in simpler if against.holds(row)]
    if chance:
        reason = f"{_the(chosen)} is not significantly better than {CHANCE[chance[0]['head']]}"
        found = Recommendation("", "none of these heads", True, reason, True, [against.figures(chance[0])])
    elif ahead:
        found = _use(ahead[0], f"it beats {_the(chosen)} significantly", chosen, against)
    elif equal:
        found = _use(equal[0], _not_beaten(results, equal[0]), chosen, against)
    else:
        beaten = [row for row in simpler if row["control"]]
        earned = _earned(results, against, bool(beaten) and all(map(against.tested, beaten)))
        found = _use(chosen, earned, chosen, against)
    return replace(found, notes=_notes(results, against, found.head))


def _simpler(results: Results, controls: list[Row]) -> list[Row]:
    """What is cheaper to have than the chosen head, cheapest first: no model or a smaller one, `last`, other controls.

    Heads but `last` are not among them: with the same model, they cost as much to use.
    """
    chosen, controls = results.chosen, [row for row in controls if row["head"] != FINE_TUNED]
    size = model_size(chosen) or float("inf")
    known = {row["head"]: model_size(row) for row in controls}
    # not known, or not known to be smaller: as large
    sizes = {head: size if own is None or (own and size == float("inf")) else own for head, own in known.items()}
    smaller = [row for row in controls if sizes[row["head"]] <= SIMPLER * size and sizes[row["head"]] < size]
    smaller.sort(key=lambda row: (sizes[row["head"]], row["parameters"], row["head"]))
    last = [row for row in results.rows if row["head"] == BASELINE != chosen["head"]]
    same = [row for row in controls if row not in smaller and SIMPLER * sizes[row["head"]] <= size]
    fewer = [row for row in same if row["parameters"] <= SIMPLER * chosen["parameters"]]
    return smaller + last + sorted(fewer, key=lambda row: (row["parameters"], row["head"]))


def model_size(row: Row) -> float | None:
    """Parameters of the frozen model that a head or control needs; 0 for a control without one, None if not known."""
    if row["share_percent"]:
        return float(row["parameters"] / row["share_percent"] * 100)
    return 0.0 if row["control"] and row["head"] in WITHOUT_CACHE else None


def _use(row: Row, reason: str, chosen: Row, against: _Against) -> Recommendation:
    what = PHRASES.get(row["head"])
    named = f"the {'control' if row['control'] else 'head'} {row['head']}"
    details = [] if what else [_summary(row)]
    if row is not chosen:
        details += [*_smaller_model(row, chosen), against.figures(row)]
    return Recommendation(row["head"], what or named, what is None, reason, row["control"], details)


def _summary(row: Row) -> str:
    own = row["summary"].removeprefix(f"{row['head']}: ")
    return f"{row['head']}: {own}."


def _not_beaten(results: Results, row: Row) -> str:
    over = better_than(results, row["head"])
    if over is not None and not over & _heads(results):
        return "no head beats it significantly"
    return f"{_the(results.chosen)} does not beat it significantly"


def _smaller_model(row: Row, chosen: Row) -> list[str]:
    own, other = model_size(row), model_size(chosen)
    if own == 0:
        return ["It needs no language model."]
    if own is None or other is None or own > SIMPLER * other:
        return []
    return [f"Its model has {millions(own)} parameters instead of {millions(other)}."]


def _earned(results: Results, against: _Against, controls_beaten: bool) -> str:
    chosen, over = results.chosen["head"], better_than(results, BASELINE)
    if chosen == BASELINE:
        known = over is not None and not over & _heads(results)
        return "it was chosen on validation" + (", and no head beats it significantly" if known else "")
    last = [row for row in results.rows if row["head"] == BASELINE]
    if last and (over is not None or against.tested(last[0])):
        more = " and all simpler controls" if controls_beaten else ""
        return f"it beats the last layer{more} significantly"
    return "it has the best validation score; whether it beats the last layer significantly was not tested"


def _heads(results: Results) -> set[str]:
    return {row["head"] for row in results.rows if not row["control"]}


def _notes(results: Results, against: _Against, head: str) -> list[str]:
    chosen, found = results.chosen, []
    controls = [row for row in results.rows if row["control"]]
    in_front = [row for row in controls if row["test_score"] > chosen["test_score"] and row["head"] != head]
    if in_front:
        best = max(in_front, key=lambda row: row["test_score"])
        how = "significantly" if against.beats(best) else "not significantly" if against.tested(best) else "not tested"
        found.append(
            f"The control {best['head']} is ahead of {_the(chosen)} on test: {percent(best['test_score'])} against "
            f"{percent(chosen['test_score'])} ({how})."
        )
    if any(row["head"] == UNTRAINED and against.holds(row) for row in controls):
        found.append(
            "A model with random weights (untrained) is not significantly worse: what the heads use need not come "
            "from pretraining."
        )
    return found


def _the(chosen: Row) -> str:
    return f"the chosen head, {chosen['head']},"
