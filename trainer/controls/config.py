"""Parameters of the controls, section `controls` of `params.yaml`."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from ilse.core.params import PLAIN_NAME, Section
from trainer.config import AUTO
from trainer.controls import CONTROLS
from trainer.heads import HEADS


def _known_control(name: str) -> str:
    if name not in CONTROLS:
        # The message of an unknown key names the nearest one.
        raise PydanticCustomError("unknown_key", "unknown control", {"key": name, "known": list(CONTROLS)})
    return name


Strength = Annotated[float, Field(gt=0)]


class ControlParams(Section):
    """Which controls are fitted for comparison with the heads, and how."""

    names: list[Annotated[str, AfterValidator(_known_control)]] = Field(
        list(CONTROLS), description="Controls to compare with, by name, each once."
    )
    seeds: int = Field(3, ge=1, description="Independent runs of a random control, with seeds 0, 1, …")
    grid: list[Strength] = Field(
        [0.01, 0.1, 1.0, 10.0, 100.0],
        min_length=1,
        description="Inverse strengths of the penalty of linear controls; validation chooses one.",
    )
    caches: dict[str, str] = Field(
        {},
        description="Further controls, name → cache of the same texts: linear models on the mean of its layers.",
    )
    baseline: str | None = Field(
        None, description="Head or control that all others are compared with. Unset: `last`, else the chosen head."
    )
    others: list[str] = Field([], description="Folders in `models/` with answers of other programs, to compare too.")

    @model_validator(mode="after")
    def _as_a_whole(self) -> ControlParams:
        if len(set(self.all_names)) != len(self.all_names):
            raise ValueError("names, caches and others: each name once")
        if unfit := [name for name in self.all_names if not PLAIN_NAME.fullmatch(name)]:
            raise ValueError(f"letters, digits, - and _ in the names of folders, of which {unfit[0]!r} has others")
        if taken := [name for name in self.all_names if name in (*HEADS, AUTO)]:
            raise ValueError(f"names that no head has, but {taken[0]} is one")
        return self

    @property
    def all_names(self) -> list[str]:
        """Everything that is evaluated along with the heads."""
        return [*self.names, *self.caches, *self.others]
