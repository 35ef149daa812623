"""Parameters of the train stage, section `train` of `params.yaml`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from ilse.params import Section
from trainer.heads import HEADS
from trainer.objectives import Kind, SimilarityLoss
from trainer.treatment import TreatmentOptions

PAPER: dict[str, Any] = {
    "epochs": 50,
    "optimizer": "adam",
    "weight_decay": 1e-4,
    "schedule": "plateau",
    "label_smoothing": 0.0,
    "gradient_clip": 0.0,
    "standardise": False,
    "similarity_loss": "mse",
}
"""ILSE's published training (arXiv 2603.22665, its code): what it does otherwise than our defaults."""


class Recipe(TreatmentOptions):
    """How a head is trained; the same for every head unless a head's own `recipe` says otherwise."""

    preset: Literal["default", "paper"] = Field(
        "default", description="Values of the keys that are not given: ours, or those of ILSE's published code."
    )
    epochs: int = Field(30, ge=1, description="Passes over the training examples; the best one on validation is kept.")
    patience: int | None = Field(
        None, ge=1, description="Stop after so many epochs without a better one on validation; unset: run all."
    )
    batch_size: int = Field(64, ge=1, description="Examples of a step.")
    optimizer: Literal["adamw", "adam"] = Field(
        "adamw", description="AdamW decays weights apart from the gradient, Adam as a part of it (L2)."
    )
    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(1e-2, ge=0, description="Weight decay.")
    schedule: Literal["one_cycle", "constant", "plateau"] = Field(
        "one_cycle",
        description="Learning rate over the steps; plateau halves it after 3 epochs without a lower validation loss.",
    )
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Share of the target spread over all labels.")
    gradient_clip: float = Field(1.0, ge=0, description="Largest norm of a step's gradient; 0 turns clipping off.")
    compute_type: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Type of the matrix products in training; `auto` is bfloat16 where the hardware multiplies it. "
        "Weights, sums, norms and validation stay in float32.",
    )
    imbalance: Literal["none", "weights", "sampling"] = Field(
        "none", description="Rare labels count more in the loss, or are drawn as often as the others, or neither."
    )
    similarity_loss: SimilarityLoss = Field(
        "cosent",
        description="Of the objective `similarity`: order of the cosines, their squared error, or alike and not alike.",
    )

    @model_validator(mode="before")
    @classmethod
    def _preset_gives_what_is_not_given(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("preset") == "paper":
            return {**PAPER, **given}
        return given

    def treatment(self) -> TreatmentOptions:
        """What is done to the rows first."""
        return TreatmentOptions.model_validate({name: getattr(self, name) for name in TreatmentOptions.model_fields})


if TYPE_CHECKING:
    HeadSections = Section
else:
    _RECIPE = (Recipe, Field(Recipe(), description="What this head trains otherwise than `train.recipe`."))
    _OF_HEAD = {
        name: create_model(f"Train{name.title()}", __base__=kind.options, __doc__=kind.options.__doc__, recipe=_RECIPE)
        for name, kind in HEADS.items()
    }
    HeadSections = create_model(
        "HeadSections",
        __base__=Section,
        __doc__="What one head has of its own: a section for each, with its options and its `recipe`.",
        **{name: (section, Field(section(), description=HEADS[name].summary)) for name, section in _OF_HEAD.items()},
    )


def _known_head(name: str) -> str:
    if name not in HEADS:
        # The message of an unknown key names the nearest one.
        raise PydanticCustomError("unknown_key", "unknown head", {"key": name, "known": list(HEADS)})
    return name


class TrainParams(Section):
    """Which heads are trained, and how."""

    heads: list[Annotated[str, AfterValidator(_known_head)]] = Field(
        list(HEADS), min_length=1, description="Heads of the comparison, by name, each once."
    )
    seeds: int = Field(3, ge=1, description="Independent runs of each head, with seeds 0, 1, …")
    learning_rates: list[Annotated[float, Field(gt=0)]] | None = Field(
        None,
        min_length=1,
        description="Rates that each head is tried at with seed 0, in place of its recipe's; the best one on "
        "validation is that of all its seeds. null: no search.",
    )
    objective: Literal["auto", Kind] = Field(
        "auto",
        description="What heads are trained for; `auto` goes by the examples: `multi_class` for a label, `multi_label` "
        "for lists of them, `regression` for a score, `similarity` for a score of two texts.",
    )
    embedding: int | None = Field(
        256, ge=1, description="Width of the vectors that two texts are compared by; null: the encoder's own."
    )
    shots: int | None = Field(
        None, ge=1, description="Train on so many examples of each label, drawn by the seed, the same for every head."
    )
    share: float | None = Field(
        None, gt=0, le=1, description="Or train on this share of all examples, drawn by the seed; 0 to 1."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto` takes a CUDA device where there is one.")
    pooling: Literal["mean"] = Field("mean", description="Which pooled array of the cache is read.")
    memory_budget: float | None = Field(
        None, gt=0, description="GB for rows; more of them are read as they are used. Unset: half of the free memory."
    )
    recipe: Recipe = Field(Recipe(), description="How every head is trained.")
    options: HeadSections = Field(HeadSections(), description="By head: its own options, also of heads not trained.")

    @model_validator(mode="after")
    def _as_a_whole(self) -> TrainParams:
        if len(set(self.heads)) != len(self.heads):
            raise ValueError("heads: each one once")
        if self.shots is not None and self.share is not None:
            raise ValueError("shots or share, not both")
        return self

    def head_options(self, name: str) -> dict[str, Any]:
        """The options of one head, without its recipe."""
        section: Section = getattr(self.options, name)
        return section.model_dump(exclude={"recipe"})

    def recipe_of(self, name: str) -> Recipe:
        """The shared recipe with this head's differences; a preset of its own takes the place of the shared recipe."""
        differences = getattr(self.options, name).recipe.model_dump(exclude_unset=True)
        shared = {} if "preset" in differences else self.recipe.model_dump()
        return Recipe.model_validate(shared | differences)

    def recipes_of(self, name: str) -> list[Recipe]:
        """The recipes that this head is tried with: its own, or that at each of `learning_rates`."""
        recipe = self.recipe_of(name)
        rates = self.learning_rates or [recipe.learning_rate]
        return [recipe.model_copy(update={"learning_rate": rate}) for rate in rates]
