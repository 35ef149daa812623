"""What section `train` takes and refuses."""

from __future__ import annotations

from typing import Any

import pytest

from ilse.core.errors import UserError
from ilse.core.params import validate
from pipeline.store import POOLINGS
from trainer.config import Recipe, TrainParams
from trainer.heads import HEADS, build_head


def params(**values: Any) -> TrainParams:
    return validate("train", TrainParams, values)


@pytest.mark.parametrize(
    ("values", "place", "nearest"),
    [
        ({"head": ["last"]}, "", "heads"),
        ({"heads": ["last", "cayly"]}, "heads.1", "cayley"),
        ({"pooling": "las"}, "pooling", "last"),
        ({"pooling": ["mean", "maxx"]}, "pooling", "max"),
        ({"recipe": {"epoch": 3}}, "recipe", "epochs"),
        ({"options": {"cayly": {}}}, "options", "cayley"),
        ({"options": {"cayley": {"block": 1}}}, "options.cayley", "blocks"),
        ({"options": {"cayley": {"recipe": {"learning-rate": 1}}}}, "options.cayley.recipe", "learning_rate"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(values: dict[str, Any], place: str, nearest: str) -> None:
    where = ", ".join(["section 'train'", *([place] if place else [])])
    with pytest.raises(UserError, match=rf"{where}\n(.|\n)*did you mean '{nearest}'\?"):
        params(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"heads": []}, "at least 1 item"),
        ({"heads": ["last", "last"]}, "each one once"),
        ({"seeds": 0}, "greater than or equal to 1"),
        ({"pooling": []}, "pooling(.|\n)*the name of a pooling, or a list of several"),
        ({"pooling": None}, "pooling(.|\n)*the name of a pooling, or a list of several"),
        ({"pooling": ["max", "mean", "max"]}, "pooling(.|\n)*each pooling once"),
        ({"recipe": {"label_smoothing": 1}}, "recipe.label_smoothing"),
        ({"options": {"mlp": {"hidden": 0}}}, "options.mlp.hidden"),
        ({"options": {"mlp": {"recipe": {"epochs": 0}}}}, "options.mlp.recipe.epochs"),
    ],
)
def test_a_value_out_of_range_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        params(**values)


def test_every_pooling_of_a_cache_can_be_read_and_several_side_by_side() -> None:
    assert [params(pooling=name).pooling for name in POOLINGS] == list(POOLINGS)
    assert params(pooling=list(POOLINGS)).pooling == POOLINGS
    assert params(pooling=["last"]) == params(pooling="last")  # one of a list is the same training


def test_options_of_a_head_that_is_not_trained_are_kept() -> None:
    assert params(heads=["last"], options={"mlp": {"hidden": 7}}).head_options("mlp")["hidden"] == 7


@pytest.mark.parametrize("name", HEADS)
def test_the_options_of_every_head_build_it(name: str) -> None:
    options = params().head_options(name)
    assert "recipe" not in options
    assert build_head(name, options, layers=4, dim=8, out=3).spec.options == HEADS[name].options()


def test_a_heads_recipe_differs_only_where_it_says_so() -> None:
    # A value that is the default too: said is said.
    own = {"epochs": Recipe().epochs, "gradient_clip": 0}
    found = params(recipe={"epochs": 5, "batch_size": 8}, options={"set": {"recipe": own}})
    assert found.recipe_of("set") == Recipe(epochs=Recipe().epochs, batch_size=8, gradient_clip=0)
    assert found.recipe_of("fc") == Recipe(epochs=5, batch_size=8)


def test_a_preset_gives_what_is_not_given() -> None:
    paper = params(recipe={"preset": "paper", "epochs": 7}).recipe
    assert (paper.epochs, paper.optimizer, paper.schedule, paper.weight_decay) == (7, "adam", "plateau", 1e-4)
    assert (paper.label_smoothing, paper.gradient_clip, paper.standardise, paper.batch_size) == (0, 0, False, 64)
    assert params().recipe.preset == "default"
    with pytest.raises(UserError, match=r"recipe.preset(.|\n)*'default' or 'paper'"):
        params(recipe={"preset": "papers"})


def test_a_heads_preset_takes_the_place_of_the_shared_recipe() -> None:
    found = params(recipe={"epochs": 5}, options={"cayley": {"recipe": {"preset": "paper", "epochs": 9}}})
    assert found.recipe_of("cayley") == Recipe.model_validate({"preset": "paper", "epochs": 9})
    assert found.recipe_of("cayley").optimizer == "adam"
    shared = params(recipe={"preset": "paper"}, options={"set": {"recipe": {"epochs": 9}}})
    assert shared.recipe_of("set") == Recipe.model_validate({"preset": "paper", "epochs": 9})
