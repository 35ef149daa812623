"""Parameters of the search, section `tune` of `params.yaml`, and what they mean for one head."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from ilse.core.params import Section, validate
from trainer.config import Recipe, TrainParams
from trainer.heads import HEADS

Value = bool | int | float | str | None
OPTION_NAMES = tuple(dict.fromkeys(name for kind in HEADS.values() for name in kind.options.model_fields))


class Range(Section):
    """Numbers from `low` to `high`; whole numbers if both are whole."""

    low: int | float = Field(description="Smallest value.")
    high: int | float = Field(description="Largest value.")
    log: bool = Field(False, description="Draw the logarithm evenly.")

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("low < high" + (", both above 0 for log" if self.log else ""))
        return self


class TuneParams(Section):
    """How `ilse tune` searches: every head gets the same number of trials."""

    trials: int = Field(20, ge=1, description="Trials per head; the first one uses the values in section `train`.")
    seeds: int = Field(1, ge=1, description="Runs per trial; their mean validation accuracy counts.")
    pruning: bool = Field(True, description="Stop a trial early if it is worse than the median of the others.")
    storage: str = Field("sqlite:///data/tune.db", description="Optuna storage. Machines that share it share the work.")
    seed: int = Field(0, ge=0, description="Seed of the search.")
    space: dict[str, Range | list[Value]] = Field(
        {
            "learning_rate": Range(low=3e-4, high=1e-2, log=True),
            "weight_decay": Range(low=1e-3, high=0.3, log=True),
            "label_smoothing": [0.0, 0.1],
            "dropout": [0.0, 0.1, 0.3, 0.5],
        },
        min_length=1,
        description="Key of the recipe or of a head's options → the values to choose from, or a range. Heads "
        "without such an option ignore it.",
    )

    @model_validator(mode="after")
    def _keys_exist(self) -> TuneParams:
        known = [*Recipe.model_fields, *OPTION_NAMES]
        for key, values in self.space.items():
            if key not in known:
                raise PydanticCustomError("unknown_key", "unknown key", {"key": key, "known": known})
            if isinstance(values, list) and not values:
                raise ValueError(f"space.{key}: at least one value")
        return self

    def space_of(self, head: str, params: TrainParams) -> dict[str, Range | list[Value]]:
        """The search space of a head: the keys that it has, with their current values among the choices.

        An option comes before the recipe's key of the same name. `UserError` for a value that the head refuses.
        """
        own = HEADS[head].options.model_fields
        keys = [key for key in self.space if key in own or key in Recipe.model_fields]
        space = {}
        for key, now in current(params, head, keys).items():
            values = self.space[key]
            for value in [values.low, values.high] if isinstance(values, Range) else values:
                with_values(params, head, {key: value})
            space[key] = _with(values, now)
        return space


def _with(values: Range | list[Value], now: Value) -> Range | list[Value]:
    if isinstance(values, list):
        return values if now in values else [*values, now]
    if not isinstance(now, int | float) or (values.log and now <= 0):
        return values
    return values.model_copy(update={"low": min(values.low, now), "high": max(values.high, now)})


def section_of(head: str, values: dict[str, Value]) -> dict[str, Any]:
    """The values of a trial as `train.options.<head>` says them: options, and `recipe` for the rest."""
    own = HEADS[head].options.model_fields
    recipe = {key: value for key, value in values.items() if key not in own}
    return {key: value for key, value in values.items() if key in own} | ({"recipe": recipe} if recipe else {})


def with_values(params: TrainParams, head: str, values: dict[str, Value]) -> TrainParams:
    """The train section with these values for the head; `UserError` for one that it does not take."""
    given = params.model_dump(exclude_unset=True)
    section = given.setdefault("options", {}).setdefault(head, {})
    new = section_of(head, values)
    section["recipe"] = section.get("recipe", {}) | new.pop("recipe", {})
    section |= new
    return validate("tune", TrainParams, given, where="a trial's parameters")


def current(params: TrainParams, head: str, keys: list[str]) -> dict[str, Value]:
    """The values that the train section has now."""
    everything = params.recipe_of(head).model_dump() | params.head_options(head)
    return {key: everything[key] for key in keys}
