"""The control stage: fits one control, and lets it answer the test examples without seeing their targets."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

from ilse.core.files.atomic import replacing_folder, require_ours, write_json
from ilse.core.files.ownership import HEADS
from ilse.core.tables import TRAIN, VALIDATION
from ilse.core.terminal import say
from trainer.artifacts.answers import Answers, AnswersFacts, save_answers, texts_digest
from trainer.config import TrainParams
from trainer.controls import ControlKind, Fitted, Given, control_kind, of_cache, refuse_unless_answered
from trainer.controls.config import ControlParams
from trainer.controls.judge import judged
from trainer.data.inputs import drawn_of, draws_all
from trainer.data.joined import Places, open_caches
from trainer.data.memory import require_room_for_answers
from trainer.data.task import Task, open_task
from trainer.fitting.assembly import objective_kind
from trainer.fitting.progress import unfinished
from trainer.objectives import Objective, make

IN_DOUBLE = 4
"""Sets of answers that judging them holds: those of validation in double precision, and their logarithms."""


def control(
    params: ControlParams,
    training: TrainParams,
    name: str,
    cache: Places,
    examples: Path,
    texts: Path,
    models: Path,
    results: Path,
) -> dict[str, Any]:
    """Fits control `name` on the training examples of the heads and returns its validation figures.

    Writes `models/<name>/seed-<n>/` (see `trainer.artifacts.answers`) and `results/train/<name>.json`. Raises
    `UserError` for a control that there is not, an objective that it cannot answer, and for what `open_caches`,
    `open_task` and its own reading refuse; the old answers then stay.
    """
    require_ours(models / name, HEADS, "--models")
    kind = of_cache(name, params.caches[name], examples) if name in params.caches else control_kind(name)
    task = open_task(open_caches(cache), examples)
    require_room_for_answers(task.rows(VALIDATION) + len(task.unlabelled_ids()), len(task.labels), IN_DOUBLE)
    asked = objective_kind(training, task)
    refuse_unless_answered(kind, asked, task.pairs)
    fit = kind.prepare(Given(task, texts, training, tuple(params.grid), asked))
    all_facts = []
    with unfinished(models, name):
        with replacing_folder(models / name, HEADS, "--models") as folder:
            for seed in range(_seeds(kind, params, training)):
                objective = _learned(task, training, seed)
                started = time.perf_counter()
                fitted = fit(objective, seed)
                facts = _facts(kind, task, objective, fitted, seed, time.perf_counter() - started)
                save_answers(folder / f"seed-{seed}", Answers(facts, fitted.test), task.unlabelled_ids())
                all_facts.append(facts)
                line = f"validation {objective.metric} {facts.val_score:.4f}, {facts.train_seconds:.1f} s"
                say(f"{name} seed {seed}: {line}")
        return _write_figures(name, objective.metric, all_facts, results)


def _seeds(kind: ControlKind, params: ControlParams, training: TrainParams) -> int:
    """One where all seeds would answer alike."""
    if kind.random:
        return params.seeds
    return 1 if draws_all(training) else training.seeds


def _learned(task: Task, training: TrainParams, seed: int) -> Objective:
    """The objective, with what it takes from the seed's training targets."""
    objective = make(objective_kind(training, task), task.labels, 0, training.recipe.similarity_loss)
    places = drawn_of(task, training, seed)
    objective.learn(task.training_targets(TRAIN)[places], "none")
    return objective


def _facts(
    kind: ControlKind, task: Task, objective: Objective, fitted: Fitted, seed: int, seconds: float
) -> AnswersFacts:
    score, loss = judged(objective, fitted.validation, task.training_targets(VALIDATION))
    return AnswersFacts(
        name=kind.name,
        summary=kind.summary,
        objective=objective.facts(),
        labels=list(task.labels),
        texts=texts_digest(task.unlabelled_ids()),
        seed=seed,
        val_score=score,
        val_loss=loss,
        parameters=fitted.parameters,
        model_parameters=fitted.model_parameters,
        train_seconds=seconds,
    )


def _write_figures(name: str, metric: str, seeds: list[AnswersFacts], results: Path) -> dict[str, Any]:
    losses = [facts.val_loss for facts in seeds if facts.val_loss is not None]
    figures = {
        "metric": metric,
        "val_score": median(facts.val_score for facts in seeds),
        "val_loss": median(losses) if losses else None,
        "train_seconds": round(median(facts.train_seconds for facts in seeds), 2),
        "seeds": len(seeds),
    }
    write_json(results / "train" / f"{name}.json", figures)
    return figures
