"""Called as transformers' own pipelines are, it answers in their form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ilse.core.errors import UserError
from ilse.predict import TextPipeline
from tests.predict.conftest import Project

Build = Callable[..., Project]
TEXTS = ["the film wins", "new law"]


def near(label: str, score: float) -> dict[str, Any]:
    """In a batch of other texts the last bits are others."""
    return {"label": label, "score": pytest.approx(score, abs=1e-5)}


def test_answers_have_the_form_of_transformers_pipelines(project: Build) -> None:
    predictor = project().predictor("mean")
    pipe, first, second = TextPipeline(predictor), *predictor.predictions(TEXTS)
    expected = [near(p.label, p.probability) for p in (first, second)]
    assert pipe(TEXTS) == expected
    assert pipe(TEXTS[0]) == pipe({"text": TEXTS[0]}) == pipe(TEXTS[:1]) == expected[:1]
    ranked = [sorted(p.probabilities.items(), key=lambda item: -item[1]) for p in (first, second)]
    assert pipe(TEXTS, top_k=2) == [[near(*item) for item in of_text[:2]] for of_text in ranked]
    assert pipe(TEXTS[0], top_k=None) == [near(*item) for item in ranked[0]]
    assert len(TextPipeline(predictor, top_k=None)(TEXTS[0])) == 3
    assert pipe([]) == []
    with pytest.raises(UserError, match=r"text 1\n +expected: a string\n +found: +None"):
        pipe([TEXTS[0], None])


def test_an_iterator_is_answered_as_it_is_read(project: Build) -> None:
    pipe, asked = TextPipeline(project().predictor("mean")), []
    answers = pipe(text for text in TEXTS * 300 if asked.append(text) is None)
    assert next(answers) == near(*pipe(TEXTS[0])[0].values())
    assert len(asked) < 600
    assert len(list(answers)) == 599


def test_pairs_and_scores(project: Build) -> None:
    predictor = project("pairs with a score").predictor("weighted")
    (expected,) = predictor.predictions([tuple(TEXTS)])
    pipe = TextPipeline(predictor)
    assert (
        pipe({"text": TEXTS[0], "text_pair": TEXTS[1]})
        == pipe(tuple(TEXTS))
        == [{"score": pytest.approx(expected.score, abs=1e-5)}]
    )
    assert pipe([tuple(TEXTS)]) == pipe(tuple(TEXTS))
