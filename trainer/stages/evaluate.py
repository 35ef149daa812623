"""The evaluate stage: the only reader of the test targets, after every choice has been made on validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl
from jaxtyping import Float
from torch import Tensor

from ilse.core.files.atomic import require_ours, write_json, write_text
from ilse.core.files.ownership import PREDICTIONS
from ilse.core.progress_bars import progress_bar
from ilse.core.tables import TEST, TRAIN, VALIDATION
from trainer.artifacts.answers import Answers
from trainer.artifacts.artifact import TrainedHead
from trainer.artifacts.seeds import load_seeds, require_a_head, shared_objective
from trainer.data.joined import Places, open_caches
from trainer.data.memory import memory_budget as bytes_for_rows
from trainer.data.memory import require_room_for_answers
from trainer.data.poolings import Poolings
from trainer.data.task import Task, open_task
from trainer.data.truncated import Truncated
from trainer.heads import Exits, FrontedHead
from trainer.heads.exit_thresholds import tradeoff, tradeoffs
from trainer.objectives import Objective
from trainer.results.leaderboard import (
    BASELINE,
    Run,
    as_text,
    layer_table,
    leaderboard,
    metrics,
    runs_table,
    scores,
    weight_table,
)
from trainer.results.manifest import together
from trainer.results.significance import calibration_table, class_table, comparison
from trainer.rows.in_memory import Examples, told_of_all


@dataclass(frozen=True)
class Prediction:
    """One trained head, or one control, on the test split."""

    run: Run
    objective: Objective
    predicted: Float[Tensor, "rows ..."]
    """Predictions in the form of the objective: probabilities, or scores."""
    y: Tensor
    exits: list[dict[str, Any]]
    """Rows of `exits.csv`."""


def evaluate(
    names: list[str],
    cache: Places,
    examples: Path,
    models: Path,
    results: Path,
    memory_budget: float | None = None,
    baseline: str | None = None,
    paired_seeds: bool = False,
) -> pl.DataFrame:
    """Scores every seed of every head and control on the test split, writes `results/` and returns the leaderboard.

    All tables are written, or none.

    `names` are folders of `models`: heads, and answers that something else gave (`trainer.artifacts.answers`), the
    controls. One head there must be, since one is chosen. Differences are to `baseline` (`last` where it is named, if
    none is given) and to the chosen head; `paired_seeds` says that a seed drew the same training examples for every
    head. Rows beyond `memory_budget` (GB; None for half of the free memory) are read again for every head.

    Raises `UserError` for a head that is missing, or was trained on another capture, on other labels or for another
    objective, for answers that `load_answers` refuses, and for a baseline that is not named.
    """
    require_ours(results / "predictions", PREDICTIONS, "--results")
    task = open_task(open_caches(cache), examples)
    require_room_for_answers(task.rows(TEST), len(task.labels), len(names))
    trained = {name: load_seeds(models / name, task) for name in names}
    require_room_for_answers(task.rows(TEST), len(task.labels), sum(map(len, trained.values())))
    require_a_head(models, trained)
    objective = shared_objective(models, trained, task)
    # Most heads read all layers: the last rows are kept for the next head.
    budget = bytes_for_rows(memory_budget)
    held_out = lru_cache(maxsize=1)(lambda layers, poolings: _rows(task, layers, poolings, budget))
    each = [(name, one) for name, seeds in trained.items() for one in seeds]
    predictions = []
    with progress_bar(len(each), "evaluate", "head") as bar:
        for name, one in each:
            if isinstance(one, Answers):
                predictions.append(_judge(name, one, task.held_out_targets()))
            else:
                predictions.append(_predict(name, one, held_out))
            bar.update()
    runs = [prediction.run for prediction in predictions]
    table = leaderboard(runs)
    counts = {f"{split}_rows": task.rows(split) for split in (TRAIN, VALIDATION, TEST)}
    chosen = table.filter("chosen")["head"].item()
    first = baseline or (BASELINE if BASELINE in names else chosen)
    with together(results) as folder:
        _write_tables(folder, table, runs, objective, task.labels, counts, task.truncated())
        (folder / "predictions").mkdir()
        for name in names:
            of_head = [prediction for prediction in predictions if prediction.run.head == name]
            _predictions_table(of_head, task.unlabelled_ids()).write_parquet(folder / "predictions" / f"{name}.parquet")
        _write_exits(folder, predictions)
        _write_confusion(folder, [p for p in predictions if p.run.head == chosen])
        _write_significance(folder, objective, predictions, list(dict.fromkeys([first, chosen])), paired_seeds)
    return table


def _rows(task: Task, layers: tuple[int, ...], poolings: Poolings, budget: int) -> Examples:
    if task.bytes(TEST, len(layers), poolings) <= budget:
        return task.held_out(layers, poolings)
    return task.held_out_streamed(layers, poolings, memory_budget=budget)


def _judge(name: str, answers: Answers, y: Tensor) -> Prediction:
    figures = answers.objective.figures(answers.predicted, y)
    return Prediction(Run.of_answers(name, answers, figures), answers.objective, answers.predicted, y, [])


def _predict(name: str, trained: TrainedHead, held_out: Callable[[tuple[int, ...], Poolings], Examples]) -> Prediction:
    rows = held_out(trained.head.layers_read, trained.facts.pooling)
    predicted = told_of_all(rows, lambda x: trained.objective.predict(trained(x)))
    figures = trained.objective.figures(predicted, rows.y)
    run = Run.of(name, trained, figures)
    return Prediction(run, trained.objective, predicted, rows.y, _exits(trained, rows))


def _exits(trained: TrainedHead, rows: Examples) -> list[dict[str, Any]]:
    """Accuracy and depth of a head with exits at every threshold; `chosen` marks its own."""
    head, layers = trained.head, trained.head.layers_read
    exits = head.inner if isinstance(head, FrontedHead) else head
    if not isinstance(exits, Exits):
        return []

    def every(x: Any) -> Tensor:
        treated = trained.treated(x)
        return exits.every(head.pooled(treated) if isinstance(head, FrontedHead) else treated)

    logits, kind = told_of_all(rows, every), exits.spec.options.sureness
    own = tradeoff(logits, rows.y, kind, layers, float(exits.threshold))
    curve = tradeoffs(logits, rows.y, kind, layers)
    return [asdict(point) | {"chosen": point is own} for point in (*curve, own)]


def _write_tables(
    folder: Path,
    table: pl.DataFrame,
    runs: list[Run],
    objective: Objective,
    labels: tuple[str, ...],
    counts: dict[str, int],
    truncated: Truncated,
) -> None:
    tables = {
        "leaderboard.csv": table,
        "runs.csv": runs_table(runs),
        "layers.csv": layer_table(runs),
        "weights.csv": weight_table(runs),
    }
    for name, frame in tables.items():
        frame.write_csv(folder / name, float_precision=6)
    write_text(folder / "leaderboard.txt", "\n".join([as_text(table, objective.metric), *truncated.lines, ""]))
    write_json(folder / "scores.json", scores(table))
    write_json(folder / "metrics.json", metrics(table, objective, labels, counts | truncated.metrics))


def _predictions_table(predictions: list[Prediction], ids: pl.DataFrame) -> pl.DataFrame:
    frames = []
    for p in predictions:
        columns = p.objective.columns(p.predicted, p.y)
        frames.append(
            pl.DataFrame({"seed": pl.Series([p.run.seed] * len(p.y), dtype=pl.Int32), **ids.to_dict(), **columns})
        )
    return pl.concat(frames)


def _write_significance(
    folder: Path, objective: Objective, predictions: list[Prediction], baselines: list[str], paired_seeds: bool
) -> None:
    """How sure the differences to each baseline are, how far heads know when they are right, every label's figures."""
    by_head: dict[str, list[Tensor]] = {}
    for prediction in predictions:
        by_head.setdefault(prediction.run.head, []).append(prediction.predicted)
    y = predictions[0].y
    tables = {
        "comparison.csv": comparison(objective, by_head, y, baselines, paired_seeds),
        "calibration.csv": calibration_table(objective, by_head, y),
        "classes.csv": class_table(objective, by_head, y),
    }
    for name, frame in tables.items():
        frame.write_csv(folder / name, float_precision=6)


def _write_exits(folder: Path, predictions: list[Prediction]) -> None:
    """Accuracy on the test split against mean depth, for every threshold of a head with exits; empty without one."""
    rows = [{"head": p.run.head, "seed": p.run.seed, **point} for p in predictions for point in p.exits]
    columns = {"head": pl.String, "seed": pl.Int64, "mean_layer": pl.Float64, "accuracy": pl.Float64}
    schema = columns | {"threshold": pl.Float64, "chosen": pl.Boolean}
    pl.DataFrame(rows, schema=schema).write_csv(folder / "exits.csv")


def _write_confusion(folder: Path, predictions: list[Prediction]) -> None:
    """Labels and answers of the chosen head; empty where examples have no single label."""
    seeds = [p.objective.columns(p.predicted, p.y) for p in predictions]
    pairs = {"actual": "label", "predicted": "prediction"} if "label" in seeds[0] else {}
    table = {ours: [value for seed in seeds for value in seed[theirs]] for ours, theirs in pairs.items()}
    schema = {"actual": pl.String, "predicted": pl.String}
    pl.DataFrame(table, schema=schema).write_csv(folder / "confusion.csv")
