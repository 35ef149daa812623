"""`ilse train auto`: screens many heads within a time limit, and keeps the one that scores best on validation.

`candidates` says what is tried, `halving` tries it; here stands what is written and said. The artifact is that of the
winner, trained by its own recipe, which stands in it: `ilse train` with that recipe makes it again. No heads are
averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ilse.core.files.atomic import replacing, replacing_folder, require_ours, write_json
from ilse.core.files.ownership import HEADS
from ilse.core.terminal import say
from trainer.artifacts.artifact import TrainedHead, save_head
from trainer.config import AUTO, TrainParams
from trainer.data.joined import Places, open_caches
from trainer.data.task import Task, open_task
from trainer.fitting.progress import unfinished
from trainer.objectives import Objective
from trainer.results.figures import NAMES
from trainer.search.candidates import CANDIDATES, Candidate, fitting
from trainer.search.halving import Clock, Search, Tried, search
from trainer.stages.train import write_figures
from trainer.statistics import difference, holm
from trainer.statistics.comparison import LEVEL

SEED = 0
SCHEMA: dict[str, Any] = {
    "place": pl.Int64,
    "head": pl.String,
    "settings": pl.String,
    "ended": pl.String,
    "epochs": pl.Int64,
    "of_epochs": pl.Int64,
    "penalty": pl.Float64,
    "val_score": pl.Float64,
    "val_loss": pl.Float64,
    "parameters": pl.Int64,
    "seconds": pl.Float64,
    "difference_points": pl.Float64,
    "p_holm": pl.Float64,
    "chosen": pl.Boolean,
}
"""Columns of `results/auto/candidates.csv`, one row per candidate that was tried, in that order.

`ended` is `finished`, `behind` (of rivals at a quarter or half of its epochs), `out of time` or `not finite`. The last
columns compare the chosen one with those that were not behind: points that it is ahead, and p with Holm's correction.
"""


@dataclass(frozen=True)
class Chosen:
    """The result of `auto`."""

    head: TrainedHead
    """The winner: rows of the cache in, outputs out; `facts` has its recipe and validation figure."""
    candidate: Candidate
    """The winner's name and settings."""
    tried: pl.DataFrame
    """One row per candidate, columns as `SCHEMA`."""
    lines: list[str]
    """Lines to print about the result."""


def train_auto(params: TrainParams, cache: Places, examples: Path, models: Path, results: Path) -> dict[str, Any]:
    """Screens `CANDIDATES` for `train.options.auto.minutes` and returns the winner's validation figures.

    Writes `models/auto/seed-0/`, `results/auto/candidates.csv` and `choice.json`, and what `ilse train` writes of every
    head. An interrupted run leaves the older ones, and the next one starts again. Raises `UserError` as `choose` does,
    and while another process trains there.
    """
    require_ours(models / AUTO, HEADS, "--models")
    task = open_task(open_caches(cache), examples)
    with unfinished(models, AUTO):
        with replacing_folder(models / AUTO, HEADS, "--models") as folder:
            found, chosen = _chosen(task, params, params.auto_minutes, CANDIDATES, SEED, say)
            save_head(folder / f"seed-{SEED}", chosen.head)
        with replacing(results / AUTO / "candidates.csv") as file:
            chosen.tried.write_csv(file, float_precision=6)
        recipe = chosen.head.facts.recipe
        choice = {
            "head": chosen.candidate.head,
            "options": dict(chosen.candidate.options),
            "tokens": None if chosen.candidate.tokens is None else dict(chosen.candidate.tokens),
            "recipe": recipe,
            "minutes": params.auto_minutes,
            "seconds": round(found.seconds, 2),
            "untried": found.untried,
            "said": chosen.lines,
        }
        write_json(results / AUTO / "choice.json", choice)
        return write_figures(AUTO, chosen.head.objective.metric, recipe["learning_rate"], [found.fit], results)


def choose(
    task: Task,
    params: TrainParams,
    minutes: int | float,
    candidates: Sequence[Candidate] = CANDIDATES,
    seed: int = SEED,
    say: Callable[[str], None] = lambda line: None,
) -> Chosen:
    """The best of the candidates on validation, as far as they can be tried in this many minutes.

    The highest figure wins, and of equal ones the head with fewer parameters. `say` is told a line about every
    candidate, and the result. Raises `UserError` for a task without training or validation examples, candidates that
    no task takes or this one does not, and where no loss is finite.
    """
    return _chosen(task, params, minutes, candidates, seed, say)[1]


def _chosen(
    task: Task,
    params: TrainParams,
    minutes: int | float,
    candidates: Sequence[Candidate],
    seed: int,
    say: Callable[[str], None],
) -> tuple[Search, Chosen]:
    clock = Clock(minutes)
    kept, left_out = fitting(candidates, task, params, seed)
    for line in left_out:
        say(f"{AUTO}: {line}")
    found = search(kept, task, params, clock, seed, lambda objective, one: say(_line(objective, one)))
    compared = _compared(found)
    lines = list(_summary(found, compared, minutes))
    for line in lines:
        say(f"{AUTO}: {line}")
    return found, Chosen(found.trained.eval(), found.tried[found.best].candidate, _table(found, compared), lines)


def _line(objective: Objective, one: Tried) -> str:
    """About a candidate that has just ended."""
    if one.ended == "not finite":
        return f"{AUTO}: {one.candidate.label}: its loss was not finite, {one.seconds:.1f} s"
    place = f"penalty {one.penalty:.3g}" if one.epochs is None else f"{one.epochs} of {one.of_epochs} epochs"
    ended = "" if one.ended == "finished" else f", {one.ended}"
    return (
        f"{AUTO}: {one.candidate.label}: validation {NAMES[objective.metric]} {one.val_score:.4f}, {place}{ended}, "
        f"{one.seconds:.1f} s"
    )


def _compared(found: Search) -> dict[int, tuple[float, float]]:
    """Place of a candidate → points that the winner is ahead, and p with Holm's correction."""
    own = found.tried[found.best].estimate
    others = {
        place: difference(own, one.estimate)
        for place, one in enumerate(found.tried)
        if own is not None and one.estimate is not None and place != found.best
    }
    corrected = holm([one.p for one in others.values()])
    return {place: (100 * one.difference, p) for (place, one), p in zip(others.items(), corrected, strict=True)}


def _summary(found: Search, compared: dict[int, tuple[float, float]], minutes: int | float) -> list[str]:
    best, of_all = found.tried[found.best], len(found.tried) + found.untried
    metric = NAMES[found.trained.objective.metric]
    lines = [
        f"chosen: {best.candidate.label}: validation {metric} {best.val_score:.4f}, {best.parameters:,} parameters",
        f"{len(found.tried)} of {of_all} candidates were tried in {found.seconds / 60:.2f} of {minutes:g} minutes",
    ]
    if found.untried and len(found.tried) == 1:
        lines[-1] += ": give it more minutes to try others"
    rivals = sorted((k for k in range(len(found.tried)) if k != found.best), key=lambda k: found.tried[k].rank)
    if not rivals:
        return lines
    second = found.tried[rivals[-1]]
    ahead = 100 * (best.val_score - second.val_score)
    lines.append(f"{f'{ahead:.2f} points ahead of' if ahead else 'level with'} the next, {second.candidate.label}")
    smaller = [k for k in compared if found.tried[k].parameters < best.parameters]
    alike = [k for k in smaller if compared[k][1] >= LEVEL]
    if alike:
        simplest = min(alike, key=lambda k: (found.tried[k].parameters, -found.tried[k].val_score))
        one, (points, p) = found.tried[simplest], compared[simplest]
        lines.append(
            f"not significantly different from the smaller {one.candidate.label} ({one.parameters:,} parameters): "
            f"{points:+.2f} points, p {p:.2g}, on the validation examples that chose it"
        )
    elif smaller:
        lines.append("significantly better than each smaller head that was trained to its end, on validation")
    return lines


def _table(found: Search, compared: dict[int, tuple[float, float]]) -> pl.DataFrame:
    rows = []
    for place, one in enumerate(found.tried):
        points, p = compared.get(place, (None, None))
        lost = one.ended == "not finite"
        rows.append(
            {
                "place": place,
                "head": one.candidate.head,
                "settings": one.candidate.settings,
                "ended": one.ended,
                "epochs": one.epochs,
                "of_epochs": one.of_epochs,
                "penalty": one.penalty,
                "val_score": None if lost else one.val_score,
                "val_loss": None if lost else one.val_loss,
                "parameters": None if lost else one.parameters,
                "seconds": one.seconds,
                "difference_points": points,
                "p_holm": p,
                "chosen": place == found.best,
            }
        )
    return pl.DataFrame(rows, schema=SCHEMA)
