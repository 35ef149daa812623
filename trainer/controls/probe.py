"""A linear model on the mean of some layers, each standardised by the training rows.

Of two texts it sees u, v, |u - v| and u · v, as heads do. To `similarity` the answer is the cosine of u and v, and
nothing is fitted; there, rows of another cache stay as they are, because models of sentences are made for that cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ilse.core.tables import TEST, TRAIN, VALIDATION
from pipeline.store import open_cache
from trainer.controls.base import ControlKind, Fit, Fitted, Given
from trainer.controls.linear import fit_best
from trainer.data.inputs import Inputs, drawn_of
from trainer.data.joined import last_of_each, runs_of, sources_of
from trainer.data.memory import memory_budget
from trainer.data.task import Task, open_task
from trainer.heads.pairs import compared
from trainer.objectives import Kind, Objective
from trainer.rows.in_memory import Examples, told_of_all
from trainer.treatment import TreatmentOptions

LABELLED: tuple[Kind, ...] = ("multi_class", "ordinal", "multi_label", "regression")


def prepare_mean_probe(given: Given) -> Fit:
    """A probe on the mean of all layers; on several caches, on the means side by side."""
    return Probe(given, given.task, range(len(given.task.cache.layers)))


def prepare_last_probe(given: Given) -> Fit:
    """A probe on the last layer, which is what most people use; on several caches, on the last layers side by side.

    Its rows stay as they are where the answer is a cosine.
    """
    return Probe(given, given.task, last_of_each(given.task.cache), standardise=given.kind != "similarity")


def prepare_random_labels(given: Given) -> Fit:
    """A probe trained on shuffled targets, in an order that the seed draws, so that there is nothing to learn."""
    return Probe(given, given.task, range(len(given.task.cache.layers)), permuted=True)


def of_cache(name: str, path: str, examples: Path) -> ControlKind:
    """The control on another cache over the same texts: the mean of the layers that it keeps, which may be one.

    A cache of one pooling is read by that one, whatever the heads read of theirs. Raises `UserError` as `open_cache`
    and `open_task` do, also for a cache without some of the texts.
    """
    cache = open_cache(path)
    task, kept, poolings = open_task(cache, examples), cache.layers, cache.header.capture.poolings

    def prepare(given: Given) -> Fit:
        if len(poolings) == 1:
            given = replace(given, training=given.training.model_copy(update={"pooling": poolings[0]}))
        return Probe(given, task, range(len(kept)), standardise=given.kind != "similarity")

    read = f"layer '{kept[0]}'" if len(kept) == 1 else f"the mean of {len(kept)} layers"
    summary = f"{cache.header.model_name}: linear model on {read}"
    return ControlKind(name, summary, prepare, LABELLED, (*LABELLED, "similarity"))


class Probe:
    """Fits to the mean of `layers` of `task`, which may be over another cache than the heads'."""

    def __init__(
        self, given: Given, task: Task, layers: Sequence[int], standardise: bool = True, permuted: bool = False
    ) -> None:
        self._given, self._task, self._permuted, reads = given, task, permuted, tuple(layers)
        self._runs = runs_of(task.cache, reads, given.training.pooling)
        self._inputs = Inputs(task, given.training, TreatmentOptions(standardise=standardise), reads)
        self._test = _test_rows(task, reads, given)

    def __call__(self, objective: Objective, seed: int) -> Fitted:
        """The answers of one seed."""
        treatment, train, validation = self._inputs.of_seed(seed)
        size, means = sum(source.model_parameters for source in sources_of(self._task.cache)), self._means
        if objective.kind == "similarity":
            answers = told_of_all(validation, lambda x: objective.predict(means(x)))
            return Fitted(answers, told_of_all(self._test, lambda x: objective.predict(means(treatment(x)))), 0, size)
        x, x_validation = (self._features(rows, lambda x: x) for rows in (train, validation))
        y, y_validation = self._targets(seed), self._task.training_targets(VALIDATION)
        chosen = fit_best(self._given.grid, objective, x, y, x_validation, y_validation)
        answers = chosen.model.answers(self._features(self._test, treatment))
        return Fitted(chosen.answers, answers, chosen.model.parameters, size)

    def _targets(self, seed: int) -> Tensor:
        y = self._task.training_targets(TRAIN)[drawn_of(self._task, self._given.training, seed)]
        return y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))] if self._permuted else y

    def _means(self, x: Float[Tensor, "texts layers dim"]) -> Float[Tensor, "texts width"]:
        """The mean of the layers of each cache, side by side."""
        return torch.cat([x[:, run, :width].mean(1) for run, width in self._runs], dim=-1)

    def _features(self, rows: Examples, treat: Callable[[Tensor], Tensor]) -> NDArray[np.float64]:
        """[rows, features]."""

        def tell(x: Float[Tensor, "texts layers dim"]) -> Float[Tensor, "rows features"]:
            mean = self._means(treat(x))[:, None]
            return (compared(mean) if self._task.pairs else mean)[:, 0]

        features: NDArray[np.float64] = told_of_all(rows, tell).double().numpy()
        return features


def _test_rows(task: Task, layers: tuple[int, ...], given: Given) -> Examples:
    poolings, budget = given.training.pooling, memory_budget(given.training.memory_budget)
    if task.bytes(TEST, len(layers), poolings) <= budget:
        return task.unlabelled(layers, poolings)
    return task.unlabelled_streamed(layers, poolings, memory_budget=budget)
