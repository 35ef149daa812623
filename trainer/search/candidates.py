"""Candidates of `ilse train auto`: heads with settings, in the order in which they are tried.

Linear heads at their optimum come first, which take least; then `bottleneck` on pooled rows and, where the cache keeps
them, on token states, which gain most where they gain; then the other kinds of heads as they are by default; then a
linear head on all layers, and one on the best layer, for which all are solved; then the others with other settings. Of
every kind the first one is thus tried before the second of any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ilse.core.errors import UserError
from ilse.core.params import validate
from trainer.config import OF_TOKENS, TrainParams
from trainer.data.joined import JoinedCaches
from trainer.data.task import Task
from trainer.fitting.assembly import head_of, objective_of

NOT_SOLVED = ("adamw", "adam")


@dataclass(frozen=True)
class Candidate:
    """A head with settings of its own; all else is as the parameters say.

    Candidate("bottleneck", {"rank": 32}, {"learning_rate": 3e-3}).label    # bottleneck, rank 32, learning_rate 0.003

    Parameters
    ----------
    head
        Its name.
    options, recipe
        As under `train.options.<head>`, and what its recipe says otherwise than `train.recipe`.
    tokens
        How it reads token states, as under `tokens`; None for pooled rows.
    """

    head: str
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    tokens: Mapping[str, Any] | None = None

    @property
    def label(self) -> str:
        """Head and settings in words."""
        return ", ".join([self.head, *filter(None, [self.settings])])

    @property
    def settings(self) -> str:
        """Options that differ from their defaults, in words."""
        told = dict(self.options) if self.tokens is None else {"tokens": "", **self.tokens, **self.options}
        told |= {key: value for key, value in self.recipe.items() if key not in _OF_ALL}
        return ", ".join(f"{key} {value}".strip() for key, value in told.items())

    @property
    def halves(self) -> bool:
        """Whether halving may stop it early: solved heads have no epochs to compare."""
        return self.recipe.get("optimizer") in (None, *NOT_SOLVED)

    def params(self, base: TrainParams) -> TrainParams:
        """The section `train` for this candidate alone. Raises `UserError` for a key or value that the head refuses."""
        section = {**self.options, "recipe": dict(self.recipe)}
        if self.tokens is not None:
            section["tokens"] = dict(self.tokens)
        given = base.model_dump(exclude_unset=True) | {"learning_rates": None, "options": {self.head: section}}
        if base.recipe.folds == "auto":  # all are compared on validation, whatever their rows
            given["recipe"] = given.get("recipe", {}) | {"folds": None}
        return validate("train", TrainParams, given, where=f"candidate '{self.label}'")

    def with_epochs(self, epochs: int) -> Candidate:
        """The candidate, trained for this number of epochs."""
        return replace(self, recipe={**self.recipe, "epochs": epochs, "least_steps": 0})


_SOLVED: dict[str, Any] = {"optimizer": "auto", "penalty": "validation", "refit": False}
"""Recipe of solved candidates: validation alone chooses, so that all figures are on the same rows."""
_OF_ALL = ("optimizer", "penalty", "refit", "epochs", "least_steps")
"""Keys of recipes that tell no candidates apart."""


LEAST_STEPS = 500
"""Least steps of a head on tokens, where validation may end a long training early."""


def _on_tokens(rate: float = OF_TOKENS["learning_rate"], /, **tokens: Any) -> Candidate:
    recipe = {"epochs": OF_TOKENS["epochs"], "least_steps": LEAST_STEPS, "learning_rate": rate}
    return Candidate("bottleneck", recipe=recipe, tokens=tokens)


CANDIDATES: tuple[Candidate, ...] = (
    Candidate("last", recipe=_SOLVED),
    Candidate("mean", recipe=_SOLVED),
    Candidate("bottleneck", recipe={"learning_rate": 1e-3}),
    _on_tokens(),
    Candidate("mlp", recipe={"learning_rate": 1e-3}),
    Candidate("weighted", recipe={"learning_rate": 3e-3}),
    Candidate("set", recipe={"learning_rate": 1e-3}),
    Candidate("linear", recipe=_SOLVED),
    Candidate("best", recipe=_SOLVED),
    Candidate("bottleneck", recipe={"learning_rate": 3e-3}),
    Candidate("mlp", recipe={"learning_rate": 3e-3}),
    Candidate("bottleneck", {"rank": 32, "dropout": 0.3}, {"learning_rate": 1e-3}),
    Candidate("mlp", {"hidden": 512, "dropout": 0.3}, {"learning_rate": 1e-3}),
    Candidate("set", {"hidden": 512, "dropout": 0.3}, {"learning_rate": 1e-3}),
    Candidate("bottleneck", {"rank": 8}, {"learning_rate": 3e-3}),
    Candidate("bottleneck", {"rank": 64, "dropout": 0.5}, {"learning_rate": 1e-3}),
    Candidate("weighted", {"mlp_layers": 2, "dropout": 0.3}, {"learning_rate": 1e-3}),
    _on_tokens(rank=32, dropout=0.1),
    _on_tokens(4e-3),
    _on_tokens(pool="attention"),
    _on_tokens(1e-3, rank=64),
)
"""Candidates in the order in which they are tried."""


def fitting(
    candidates: Sequence[Candidate], task: Task, params: TrainParams, seed: int
) -> tuple[list[Candidate], list[str]]:
    """The candidates that the task allows, and a line about the others.

    Raises `UserError` for a candidate that there is not, whatever the task, and where the task allows none.
    """
    kept, lines, refusals = [], [], []
    without_tokens = 0
    for candidate in candidates:
        if candidate.tokens is not None and not task.cache.token_layers:
            without_tokens += 1
            continue
        own = candidate.params(params)
        try:
            head_of(own, candidate.head, task, objective_of(own, candidate.head, task), seed)
        except UserError as error:
            refusals.append(error)
            lines.append(f"{candidate.label} is left out: expected {error.expected}, found {error.found}")
        else:
            kept.append(candidate)
    if without_tokens:
        several = isinstance(task.cache, JoinedCaches)
        why = "of several caches pooled rows are read" if several else "the cache keeps none (extract.token_states)"
        lines.append(f"what reads token states is left out, {without_tokens} of {len(candidates)} candidates: {why}")
    if not kept:
        raise refusals[0] if refusals else _none_fits(task)
    return kept, lines


def _none_fits(task: Task) -> UserError:
    return UserError(
        "candidates of 'auto'",
        expected="at least one that reads pooled rows, on a cache without token states",
        found=f"token heads alone, and {task.cache.path} with pooled rows alone",
        next_step="extract again with extract.token_states, or give other candidates",
    )
