"""Parameters of the train stage, section `train` of `params.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from ilse.core.errors import UserError
from ilse.core.params import Section, validate
from pipeline.store import POOLINGS, Pooling
from trainer.data.poolings import TOKENS, Poolings
from trainer.heads import HEADS, TokenOptions
from trainer.objectives import Kind, SimilarityLoss
from trainer.treatment import TreatmentOptions

PAPER: dict[str, Any] = {
    "epochs": 50,
    "optimizer": "adam",
    "refit": False,
    "weight_decay": 1e-4,
    "schedule": "plateau",
    "label_smoothing": 0.0,
    "gradient_clip": 0.0,
    "standardise": False,
    "similarity_loss": "mse",
    "least_steps": 0,
    "folds": None,
}
"""ILSE's published training (arXiv 2603.22665, its code): what it does otherwise than our defaults."""
OF_TOKENS: dict[str, Any] = {"epochs": 12, "least_steps": 0, "learning_rate": 2e-3}
"""What a head that reads tokens does otherwise by default: every example shows it some twenty times as much as a row,
and it learns the words of the training texts by heart after some ten passes."""

SMOOTHING = 0.1
"""Default label smoothing of a head that is trained in epochs."""
OF_SHOTS: dict[str, Any] = {"folds": None, "penalty": "validation", "refit": False}
"""What `auto` means with `shots` or `share`: to learn what this many examples are worth, train on no others."""


class Recipe(TreatmentOptions):
    """How a head is trained; the same for every head unless a head's own `recipe` says otherwise."""

    preset: Literal["default", "paper"] = Field(
        "default", description="Values of the keys that are not given: ours, or those of ILSE's published code."
    )
    epochs: int = Field(30, ge=1, description="Passes over the training examples; the best one on validation is kept.")
    least_steps: int = Field(
        500,
        ge=0,
        description="Least number of steps: with few rows, epochs are added until it is reached. 0 if only `epochs` "
        "is given.",
    )
    patience: int | None = Field(
        None, ge=1, description="Stop after this many epochs without improvement on validation; unset: run all epochs."
    )
    batch_size: int = Field(64, ge=1, description="Examples per step.")
    optimizer: Literal["auto", "lbfgs", "adamw", "adam"] = Field(
        "auto",
        description="`auto` solves linear heads on labels or scores if their rows are in memory, and trains others "
        "with `adamw`. `lbfgs` solves a linear head to its optimum; only `penalty`, `refit`, `folds`, "
        "`label_smoothing` and `imbalance` matter then. AdamW decays weights apart from the gradient, Adam as part "
        "of it (L2).",
    )
    penalty: Literal["auto", "validation"] | Annotated[float, Field(gt=0)] = Field(
        "auto",
        description="Penalty of a solved head: ½ penalty · |weights|² is added to the sum of the losses, so it is "
        "1 / C of scikit-learn. `auto`: the best on validation, or by five folds of all labelled rows if validation "
        "has fewer than 500; `validation`: the best on validation, however few rows it has.",
    )
    refit: Literal["auto"] | bool = Field(
        "auto",
        description="Once its penalty is chosen, solve a head again on training and validation rows together; "
        "`auto`: if validation has fewer than 500 rows.",
    )
    folds: Literal["auto"] | Annotated[int, Field(ge=2)] | None = Field(
        "auto",
        description="Number of folds: every head, solved or trained, is scored by cross-validation on training and "
        "validation rows, so that scores are comparable, and is then trained on all of them. null: validation "
        "chooses, or what `penalty` says. `auto`: 5 if there are at most 1,000 such rows and they are in memory, "
        "unless the head needs its validation rows (`exits`), `refit` is false or `penalty` is `validation`.",
    )
    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(1e-2, ge=0, description="Weight decay.")
    schedule: Literal["one_cycle", "constant", "plateau"] = Field(
        "one_cycle",
        description="Schedule of the learning rate; `plateau` halves it after 3 epochs without a lower validation "
        "loss.",
    )
    label_smoothing: Literal["auto"] | Annotated[float, Field(ge=0, lt=1)] = Field(
        "auto",
        description="Share of the target that is spread over all labels. `auto`: 0.1 for a trained head, 0 for a "
        "solved one, which the penalty keeps from overconfidence.",
    )
    gradient_clip: float = Field(1.0, ge=0, description="Norm at which gradients are clipped; 0 turns clipping off.")
    compute_type: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Type of the matrix products in training; `auto` is bfloat16 if the hardware supports it. "
        "Weights, sums, norms and validation stay in float32.",
    )
    imbalance: Literal["none", "weights", "sampling"] = Field(
        "none",
        description="For rare labels: `weights` gives them more weight in the loss, `sampling` draws them as often as "
        "the others.",
    )
    similarity_loss: SimilarityLoss = Field(
        "cosent",
        description="Loss of the objective `similarity`: by the order of the cosines, by their squared error, or by "
        "similar against dissimilar pairs.",
    )

    @model_validator(mode="before")
    @classmethod
    def _preset_gives_what_is_not_given(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("preset") == "paper":
            return {**PAPER, **given}
        return given

    @model_validator(mode="before")
    @classmethod
    def _epochs_are_as_given(cls, given: Any) -> Any:
        if isinstance(given, dict) and "epochs" in given:
            return {"least_steps": 0, **given}
        return given

    @model_validator(mode="after")
    def _folds_train_on_all_rows(self) -> Recipe:
        if isinstance(self.folds, int) and self.refit is False:
            raise ValueError("refit: true or auto with folds, which train on all labelled rows")
        return self

    def for_batches(self, batches: int) -> Recipe:
        """The recipe with as many epochs as `least_steps` demands."""
        return self.model_copy(update={"epochs": max(self.epochs, -(-self.least_steps // batches))})

    @property
    def smoothing(self) -> float:
        """`label_smoothing` as a number; of `auto`, that of a trained head."""
        return SMOOTHING if isinstance(self.label_smoothing, str) else self.label_smoothing

    def treatment(self) -> TreatmentOptions:
        """The treatment applied to the rows first."""
        return TreatmentOptions.model_validate({name: getattr(self, name) for name in TreatmentOptions.model_fields})


AUTO = "auto"
"""Stands among the heads for the one that `ilse train auto` chooses."""


class AutoOptions(Section):
    """How `ilse train auto` screens heads; the head that it chooses is trained with seed 0 alone."""

    minutes: float = Field(
        5.0,
        gt=0,
        allow_inf_nan=False,
        description="Minutes for the whole search, by the clock. The first candidate is always trained to the end.",
    )


if TYPE_CHECKING:
    HeadSections = Section
else:
    _RECIPE = (Recipe, Field(Recipe(), description="Keys in which this head's recipe differs from `train.recipe`."))
    _TOKENS = (
        TokenOptions | None,
        Field(
            None,
            description="How the head reads token states, from a cache that keeps them (`{}` for the defaults); null: "
            "it reads pooled rows.",
        ),
    )
    _OF_HEAD = {
        name: create_model(
            f"Train{name.title()}", __base__=kind.options, __doc__=kind.options.__doc__, tokens=_TOKENS, recipe=_RECIPE
        )
        for name, kind in HEADS.items()
    }
    HeadSections = create_model(
        "HeadSections",
        __base__=Section,
        __doc__="Settings of single heads: one section per head, with its options and its `recipe`.",
        **{name: (section, Field(section(), description=HEADS[name].summary)) for name, section in _OF_HEAD.items()},
        **{
            AUTO: (
                AutoOptions,
                Field(AutoOptions(), description="the head that scores best on validation among many tried"),
            )
        },
    )


def _known_head(name: str) -> str:
    if name not in (*HEADS, AUTO):
        # The message of an unknown key names the nearest one.
        raise PydanticCustomError("unknown_key", "unknown head", {"key": name, "known": [*HEADS, AUTO]})
    return name


def _known_poolings(given: Any) -> Any:
    """One pooling by its name, also of a list of one; several in their order."""
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list | tuple) or not names:
        raise ValueError("the name of a pooling, or a list of several")
    for name in names:
        if name not in POOLINGS:
            raise PydanticCustomError("unknown_key", "unknown pooling", {"key": str(name), "known": list(POOLINGS)})
    if len({*names}) < len(names):
        raise ValueError("each pooling once")
    return names[0] if len(names) == 1 else tuple(names)


class TrainParams(Section):
    """Which heads are trained, and how."""

    heads: list[Annotated[str, AfterValidator(_known_head)]] = Field(
        list(HEADS),
        min_length=1,
        description="Heads to compare, by name, each once; `auto` is the head that `ilse train auto` chooses.",
    )
    seeds: int = Field(3, ge=1, description="Independent runs of each head, with seeds 0, 1, …")
    learning_rates: list[Annotated[float, Field(gt=0)]] | None = Field(
        None,
        min_length=1,
        description="Learning rates to try for each head with seed 0, instead of its recipe's rate; the best one on "
        "validation is used for all its seeds. null: no search.",
    )
    objective: Literal["auto", Kind] = Field(
        "auto",
        description="Objective of the heads. `auto` follows the examples: `multi_class` for a label, `multi_label` for "
        "lists of labels, `regression` for a score, `similarity` for a score of two texts.",
    )
    embedding: int | None = Field(
        256, ge=1, description="Width of the vectors by which two texts are compared; null: the encoder's own width."
    )
    shots: int | None = Field(
        None, ge=1, description="Train on this many examples per label, drawn by the seed, the same for every head."
    )
    share: float | None = Field(
        None, gt=0, le=1, description="Or train on this share of all examples, drawn by the seed; 0 to 1."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device that heads are trained on; `auto` uses a CUDA device if there is one."
    )
    pooling: Annotated[
        Pooling | Annotated[tuple[Pooling, ...], Field(min_length=1)], BeforeValidator(_known_poolings)
    ] = Field(
        "mean",
        description="Pooling whose rows are read. Several, as in `[mean, max]`, are joined side by side, and a head "
        "sees them as one wider layer.",
    )
    memory_budget: float | None = Field(
        None,
        gt=0,
        description="GB of memory for rows; if they do not fit, they are streamed. Unset: half the free memory.",
    )
    caches: list[Annotated[str, Field(min_length=1)]] | None = Field(
        None,
        min_length=1,
        description="Caches to read, folders or URLs. With several over the same texts, the layers of one model follow "
        "those of another, in this order. null: `data/cache.zarr`. The option `--cache` overrides it.",
    )
    joined_width: int | None = Field(
        None,
        ge=1,
        description="With several caches, the width that the rows of each are mapped to, for heads that learn how "
        "layers are fused; null: the width of the narrowest.",
    )
    recipe: Recipe = Field(Recipe(), description="How every head is trained.")
    options: HeadSections = Field(HeadSections(), description="Options of single heads, whether trained or not.")

    @model_validator(mode="after")
    def _as_a_whole(self) -> TrainParams:
        if len(set(self.heads)) != len(self.heads):
            raise ValueError("heads: each one once")
        if self.shots is not None and self.share is not None:
            raise ValueError("shots or share, not both")
        return self

    @property
    def auto_minutes(self) -> float:
        """The time of `ilse train auto`."""
        minutes: float = getattr(self.options, AUTO).minutes
        return minutes

    def with_minutes(self, minutes: int | float, heads: Sequence[str]) -> TrainParams:
        """The parameters with this time for `auto`. Raises `UserError` if `auto` is not among `heads`, or the time is
        not positive.
        """
        if AUTO not in heads:
            raise UserError(
                "option --minutes",
                expected=f"'{AUTO}' among the heads, whose time it is",
                found=", ".join(heads),
                next_step="run 'ilse train auto --minutes …', or leave --minutes out",
            )
        own = validate(AUTO, AutoOptions, {"minutes": minutes}, where="option --minutes")
        return self.model_copy(update={"options": self.options.model_copy(update={AUTO: own})})

    def head_options(self, name: str) -> dict[str, Any]:
        """The options of one head, without its recipe and how it reads tokens."""
        section: Section = getattr(self.options, name)
        return section.model_dump(exclude={"recipe", "tokens"})

    def tokens_of(self, name: str) -> TokenOptions | None:
        """How a head reads tokens; None for one that reads pooled rows."""
        found: TokenOptions | None = getattr(self.options, name).tokens
        return found

    def pooling_of(self, name: str) -> Poolings:
        """What of the cache a head reads: `pooling`, or `TOKENS`."""
        return self.pooling if self.tokens_of(name) is None else TOKENS

    def recipe_of(self, name: str) -> Recipe:
        """The shared recipe with this head's differences; a preset of its own takes the place of the shared recipe.

        Of a head that reads tokens some defaults are others (`OF_TOKENS`), and with `shots` or `share` what is `auto`
        (`OF_SHOTS`); what either recipe says is as it says.
        """
        differences = getattr(self.options, name).recipe.model_dump(exclude_unset=True)
        shared = {} if "preset" in differences else self.recipe.model_dump()
        if self.tokens_of(name) is not None and differences.get("preset", self.recipe.preset) == "default":
            said = set() if "preset" in differences else self.recipe.model_fields_set
            shared |= {key: value for key, value in OF_TOKENS.items() if key not in said}
        given = shared | differences
        drawn = self.shots is not None or self.share is not None
        if drawn and not isinstance(given.get("folds"), int):
            given |= {key: value for key, value in OF_SHOTS.items() if given.get(key, "auto") == "auto"}
        return Recipe.model_validate(given)

    def recipes_of(self, name: str) -> list[Recipe]:
        """The recipes that this head is tried with: its own, or that at each of `learning_rates`."""
        recipe = self.recipe_of(name)
        rates = self.learning_rates or [recipe.learning_rate]
        return [recipe.model_copy(update={"learning_rate": rate}) for rate in rates]
