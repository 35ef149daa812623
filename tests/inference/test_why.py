"""What each token contributes to an answer, against differences of the head's own answers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from ilse.errors import UserError
from inference import Predictor
from tests.inference.conftest import Project
from trainer.ragged import Tokens

Build = Callable[..., Project]
TEXT = "the film wins new law"


def predictor_of(made: Project, head: str = "weighted", **tokens: Any) -> Predictor:
    return made.predictor(head, **{head: {"tokens": {"rank": 6, **tokens}}})


def answers(predictor: Predictor, values: torch.Tensor) -> torch.Tensor:
    """Of treated tokens of one text each, [texts, tokens, layers, width], in float64: small steps cross no kinks."""
    tokens = Tokens(values.flatten(0, 1), torch.full((len(values),), values.shape[1]))
    head = copy.deepcopy(predictor.trained.head).double()
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        outputs: torch.Tensor = head(tokens)
    return outputs


@pytest.mark.parametrize("pool", ["mean", "max+mean", "attention"])
@pytest.mark.parametrize("head", ["weighted", "cayley"])
def test_a_contribution_is_how_the_answer_grows_with_the_state(project: Build, head: str, pool: str) -> None:
    predictor = predictor_of(project(token_states={"rank": 8, "storage_type": "float32"}), head, pool=pool)
    found = predictor.why(TEXT)
    _, states = predictor.capture.tokens_of(TEXT, "text")
    treated = predictor.trained.treatment(states.values.clone()).double()
    shape, step = treated.shape[:2], 1e-6
    assert found.contributions.shape == shape == (len(found.tokens), len(found.layers))
    moved = torch.eye(shape.numel(), dtype=torch.float64).view(-1, *shape, 1) * step
    more, less = (answers(predictor, treated * (1 + sign * moved)) for sign in (1, -1))
    label = int(answers(predictor, treated[None]).argmax())
    slopes = ((more - less) / (2 * step))[:, label].view(shape)
    np.testing.assert_allclose(found.contributions, slopes, atol=1e-4)
    assert np.abs(found.contributions).max() > 1e-2


def test_of_a_linear_head_they_sum_to_the_answer(project: Build) -> None:
    predictor = predictor_of(project(token_states=True), "last", pool="mean", activation="none")
    found = predictor.why(TEXT)
    _, states = predictor.capture.tokens_of(TEXT, "text")
    treated = predictor.trained.treatment(states.values.clone()).double()
    at, nought = answers(predictor, treated[None])[0], answers(predictor, torch.zeros_like(treated)[None])[0]
    label = int(at.argmax())
    assert found.contributions.sum() == pytest.approx(float(at[label] - nought[label]), abs=1e-4)
    assert found.layers == ["final"]


def test_the_prediction_and_the_tokens_are_the_texts(project: Build) -> None:
    predictor = predictor_of(project(token_states={"rank": 8}))
    found = predictor.why(f"  {TEXT}\n")
    assert found.prediction == predictor.predict([TEXT])[0]
    assert [token for token in found.tokens if token in TEXT.split()] == TEXT.split()
    ranked = found.top()
    assert len(ranked) == len(found.tokens)
    assert [abs(value) for _, value in ranked] == sorted((abs(value) for _, value in ranked), reverse=True)
    assert sum(value for _, value in ranked) == pytest.approx(found.contributions.sum(), abs=1e-5)
    assert found.top(2) == ranked[:2]
    assert all(parameter.grad is None for parameter in predictor.trained.parameters())


def test_threads_get_the_serial_explanations(project: Build) -> None:
    made = project(token_states={"rank": 8})
    predictor, texts = predictor_of(made), list(made.texts().values())[:20]
    serial = [predictor.why(text).contributions for text in texts]
    with ThreadPoolExecutor(8) as pool, torch.inference_mode():
        for found, expected in zip(pool.map(predictor.why, texts), serial, strict=True):
            np.testing.assert_array_equal(found.contributions, expected)
        np.testing.assert_array_equal(predictor.why(texts[0]).contributions, serial[0])


def test_other_heads_are_refused_by_name(project: Build) -> None:
    with pytest.raises(UserError, match=r"answers of head 'mean'\n(.|\n)*pooled rows(.|\n)*ilse analyse"):
        project().predictor("mean").why(TEXT)
    pairs = predictor_of(project("pairs with a label", token_states={"rank": 8}))
    with pytest.raises(UserError, match=r"head 'weighted'\n(.|\n)*pairs of texts"):
        pairs.why(TEXT)
    predictor = predictor_of(project(token_states={"rank": 8}))
    with pytest.raises(UserError, match=r"the text\n +expected: a string"):
        predictor.why([TEXT])
    with pytest.raises(UserError, match=r"text 0\n +expected: at least one token"):
        predictor.why(" ")
