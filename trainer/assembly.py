"""A head and its objective, put together for a task by the parameters."""

from __future__ import annotations

from typing import Any

from ilse.errors import UserError
from trainer.config import TrainParams
from trainer.heads import Head, build_head, head_kind
from trainer.objectives import Kind, Objective, choose, make
from trainer.task import Task


def objective_kind(params: TrainParams, task: Task) -> Kind:
    """What all heads are trained for. Raises `UserError` for an objective that the examples are not made for."""
    return choose(params.objective, task.targets.kind, task.pairs)


def objective_of(params: TrainParams, name: str, task: Task) -> Objective:
    """The objective of head `name`, which has learned nothing yet.

    Raises `UserError` as `objective_kind` does, and for a head that can be trained for labels alone.
    """
    kind = objective_kind(params, task)
    if head_kind(name).classifies and (kind != "multi_class" or task.pairs):
        raise UserError(
            f"head '{name}'",
            expected="examples of one text with one label, which it gives probabilities of",
            found=f"the objective {kind}" + (", two texts an example" if task.pairs else ""),
            next_step="take it out of train.heads",
        )
    return make(kind, task.labels, params.embedding or 0, params.recipe_of(name).similarity_loss)


def head_of(
    params: TrainParams, name: str, task: Task, objective: Objective, options: dict[str, Any] | None = None
) -> Head:
    """An untrained head with the objective's outputs; of two texts, unless it is for their vectors.

    With `options` instead of those that the parameters give it. Raises `UserError` as `build_head` does.
    """
    pca = params.recipe_of(name).pca
    return build_head(
        name,
        params.head_options(name) if options is None else options,
        layers=len(task.cache.layers),
        dim=task.cache.dim if pca is None else pca,
        out=objective.out,
        pair_width=(params.embedding or 0) if task.pairs and not objective.embeds else None,
    )
