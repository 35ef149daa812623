"""`ilse layers --compare A B`: how far two caches of the same texts are apart, and whether a head minds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ilse.core.errors import UserError
from pipeline.store import Cache
from trainer.cache_drift.answer_changes import Answers, answers
from trainer.cache_drift.drift_table import Figure, frame, lines
from trainer.cache_drift.gate import LEVEL, Scored, least_examples, require_tolerance, scored
from trainer.cache_drift.matching import Matched, matched
from trainer.cache_drift.row_differences import Options, measure_layers
from trainer.results.intervals import wilson


@dataclass(frozen=True)
class Drift:
    """Two caches of the same texts, compared.

    Parameters
    ----------
    table
        One row per layer and metric; of a head rows without a layer.
    score
        The head's score on both; None without a head or without examples.
    told
        All of it, for the screen.
    """

    table: pl.DataFrame
    score: Scored | None
    told: tuple[str, ...]

    @property
    def passed(self) -> bool | None:
        """Verdict of the gate; None without a tolerance."""
        return None if self.score is None else self.score.passed

    def __str__(self) -> str:
        return "\n".join(self.told)


def compare(
    a: str,
    b: str,
    options: Options,
    head: Path | None = None,
    examples: Path | None = None,
    tolerance: float | None = None,
) -> Drift:
    """Compares two caches, and a head's answers from both if one is given.

    Raises `UserError` for options that mean nothing, as `matched` and `answers` do, and for what reading refuses.
    """
    _require(options, head, examples, tolerance)
    both = matched(a, b)
    for cache in (both.a, both.b):
        cache.statistics(options.pooling)  # refuses a pooling that is not there, before anything is read
    told = None if head is None else answers(both, head, examples)
    score = None if told is None or told.y is None else scored(told, tolerance)
    figures = [*measure_layers(both, options), *_of_head(told, score)]
    table = frame(figures, both.a.layers)
    said = [*_of_caches(both), *lines(table)]
    if told is not None and head is not None:
        said += ["", *_of_answers(told, head, both), *([] if score is None else _of_score(told, score))]
    return Drift(table, score, tuple(said))


def _require(options: Options, head: Path | None, examples: Path | None, tolerance: float | None) -> None:
    for name, value in (("texts", options.texts), ("neighbours", options.neighbours)):
        if value < 1:
            raise _refused(f"option {name}", "a number of at least 1", str(value), "correct it")
    if examples is not None and head is None:
        raise _refused("option --examples", "a head, whose answers they judge", "none", "name one with --head")
    if tolerance is not None:
        require_tolerance(tolerance)
        if head is None or examples is None:
            missing = " and ".join(n for n, v in (("--head", head), ("--examples", examples)) if v is None)
            expected = "a head and examples with labels: the tolerance is of a head's score"
            raise _refused("option --tolerance", expected, f"no {missing}", f"name them with {missing}")


def _of_head(told: Answers | None, score: Scored | None) -> list[Figure]:
    if told is None:
        return []
    changed, rows = told.changed, len(told.a)
    if changed is None:
        found = [Figure(None, "answers_moved", told.moved, rows)]
    else:
        share = float(changed.mean())
        low, high = wilson(share, rows)
        found = [Figure(None, "answers_changed", share, rows, low=low, high=high)]
    if score is not None:
        found += [
            Figure(None, f"{score.metric}_{side}", value, rows) for side, value in (("a", score.a), ("b", score.b))
        ]
        found.append(Figure(None, f"{score.metric}_change", score.change, rows, low=score.low, high=score.high))
        if score.p is not None:
            note = f"within {score.tolerance:g} points at {LEVEL:.0%}: {'yes' if score.passed else 'not shown'}"
            found.append(Figure(None, "p_not_within", score.p, rows, note=note))
    return found


def _of_caches(both: Matched) -> list[str]:
    told = [f"{name}: {_described(cache)}" for name, cache in (("A", both.a), ("B", both.b))]
    left = {
        name: c.header.texts - both.texts for name, c in (("A", both.a), ("B", both.b)) if c.header.texts > both.texts
    }
    told += [f"{count:,} texts of {name} that the other lacks are left out" for name, count in left.items()]
    return [*told, ""]


def _described(cache: Cache) -> str:
    capture = cache.header.capture
    types = f"computed in {capture.compute_type}, stored as {capture.storage_type}"
    return f"{cache.path}, {cache.header.texts:,} texts, {cache.header.model_name}, {types}"


def _of_answers(told: Answers, head: Path, both: Matched) -> list[str]:
    trained, rows = told.trained, len(told.a)
    on = "A" if trained.facts.fingerprint == both.a.fingerprint else "B"
    changed = told.changed
    if changed is None:
        said = f"answers move by {told.moved:.2g} standard deviations on average, of {rows:,} {told.of}"
    else:
        low, high = wilson(float(changed.mean()), rows)
        said = f"{int(changed.sum()):,} of {rows:,} {told.of} get another answer: {changed.mean():.1%} "
        said += f"({low:.1%} to {high:.1%})"
    lines = [f"head {head}, trained on {on}: {said}"]
    if told.may_know_them:
        lines.append("  it may have been trained on these examples too, and be surer of them than of new ones")
    return lines


def _of_score(told: Answers, score: Scored) -> list[str]:
    change = f"{100 * score.change:+.1f} points, 95% interval {100 * score.low:+.1f} to {100 * score.high:+.1f}"
    said = [f"  {score.metric} {score.a:.1%} on A, {score.b:.1%} on B: {change}"]
    if score.p is None or score.tolerance is None:
        return said
    shown = "yes" if score.passed else "no, not shown"
    said.append(f"  within {score.tolerance:g} points at an error rate of {LEVEL:.0%}: {shown} (p = {score.p:.2g})")
    if not score.passed and score.metric == "accuracy":
        least = least_examples(score.tolerance)
        if score.examples < least:
            said.append(
                f"  so many points take {least:,} examples even where no answer changes, {score.examples:,} are here"
            )
    return said


def _refused(where: str, expected: str, found: str, next_step: str) -> UserError:
    return UserError(where, expected=expected, found=found, next_step=next_step)
