"""A head and its objective, put together for a task by the parameters."""

from __future__ import annotations

from typing import Any

from ilse.core.errors import UserError
from trainer.config import TrainParams
from trainer.data.joined import AnyCache, JoinedCaches, widths_of
from trainer.data.poolings import row_width
from trainer.data.task import Task
from trainer.fitting.isolation import seeded
from trainer.heads import Head, JoinedOptions, ModelRows, TokenOptions, build_head, head_kind, refuse_tokens
from trainer.heads.fixed import layer_index
from trainer.objectives import Kind, Objective, choose, make
from trainer.rows.token_shelf import require_tokens


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
            found=f"the objective {kind}" + (", two texts per example" if task.pairs else ""),
            next_step="remove it from train.heads",
        )
    return make(kind, task.labels, params.embedding or 0, params.recipe_of(name).similarity_loss)


def head_of(
    params: TrainParams, name: str, task: Task, objective: Objective, seed: int, options: dict[str, Any] | None = None
) -> Head:
    """An untrained head, drawn by `seed`, with the objective's outputs; of two texts, unless it is for their vectors.

    With `options` instead of those that the parameters give it. Raises `UserError` as `build_head` does.
    """
    pca, tokens = params.recipe_of(name).pca, params.tokens_of(name)
    if tokens is not None:
        tokens = tokens.model_copy(update={"layers": token_layers(name, tokens, task.cache)})
    with seeded(seed):
        return build_head(
            name,
            params.head_options(name) if options is None else options,
            layers=len(task.cache.layers),
            dim=row_width(task.cache, params.pooling_of(name)) if pca is None else pca,
            out=objective.out,
            pair_width=(params.embedding or 0) if task.pairs and not objective.embeds else None,
            tokens=tokens,
            joined=joined_of(params, name, task.cache),
        )


def joined_of(params: TrainParams, name: str, cache: AnyCache) -> JoinedOptions | None:
    """Whose the rows are that head `name` is given, after their treatment; None of a single cache."""
    if not isinstance(cache, JoinedCaches):
        return None
    pca, widths = params.recipe_of(name).pca, widths_of(cache, params.pooling)
    models = [
        ModelRows(layers=len(part.layers), dim=width if pca is None else pca)
        for part, width in zip(cache.parts, widths, strict=True)
    ]
    return JoinedOptions(models=models, width=params.joined_width or min(model.dim for model in models))


def token_layers(name: str, options: TokenOptions, cache: AnyCache) -> list[int]:
    """The layers whose tokens head `name` may read: those that it names, or all whose token states are kept.

    Raises `UserError` for several caches, a cache without token states, and for a layer whose are not kept.
    """
    if isinstance(cache, JoinedCaches):
        raise refuse_tokens(name, len(cache.parts))
    require_tokens(cache)
    if options.layers is None:
        return list(cache.token_layers)
    layers = [layer_index(name, layer, len(cache.layers)) for layer in options.layers]
    if missing := [layer for layer in layers if layer not in cache.token_layers]:
        raise UserError(
            f"head '{name}', tokens.layers",
            expected=f"layers whose token states the cache keeps: {', '.join(map(str, cache.token_layers))}",
            found=", ".join(map(str, missing)),
            next_step="name some of these, or keep that layer in extract.token_states",
        )
    return layers
