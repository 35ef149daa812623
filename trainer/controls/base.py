"""What a control is: something simple that is fitted on training examples, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from trainer.config import TrainParams
from trainer.data.task import Task
from trainer.objectives import Kind, Objective

Matrix = Any
"""Features [rows, features], float64: a NumPy array, or a sparse matrix of SciPy's."""


@dataclass(frozen=True)
class Given:
    """What a control is fitted on. Nothing here tells a target of the test split."""

    task: Task
    texts: Path
    """The table of texts."""
    training: TrainParams
    """Training parameters of the heads: controls get the same training examples and the same memory budget."""
    grid: tuple[float, ...]
    """Inverse strengths of the penalty, of which validation chooses."""
    kind: Kind
    """Kind of the objective."""


@dataclass(frozen=True)
class Fitted:
    """The answers of a fitted control, as the objective's `predict` has them."""

    validation: Float[Tensor, "rows ..."]
    test: Float[Tensor, "tests ..."]
    parameters: int
    """Values that were fitted."""
    model_parameters: int = 0
    """Parameters of the frozen model whose rows were read."""


Fit = Callable[[Objective, int], Fitted]
"""Fits with a seed; the objective has learned from the training targets of that seed."""


@dataclass(frozen=True)
class ControlKind:
    """One entry of the registry."""

    name: str
    summary: str
    prepare: Callable[[Given], Fit]
    """Reads once what all seeds need."""
    of_texts: tuple[Kind, ...]
    """Objectives that it can answer where an example has one text."""
    of_pairs: tuple[Kind, ...] = ()
    """Objectives that it can answer if an example has two texts."""
    random: bool = False
    """Another seed gives other answers, on the same training examples too."""

    def answers(self, kind: Kind, pairs: bool) -> bool:
        """Whether the control can answer such examples."""
        return kind in (self.of_pairs if pairs else self.of_texts)
