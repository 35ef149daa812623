"""What each token contributes to an answer, against differences of the head's own answers; and what is made of it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import ilse.predict.why.why_page
from ilse.core.errors import UserError
from ilse.predict import Predictor
from ilse.predict.command import predict
from ilse.predict.inputs import Fields
from ilse.predict.predictions import LabelSetPrediction, in_words
from ilse.predict.why.why_examples import SHOWN, chosen, explain_examples, missed
from tests.predict.conftest import Project
from trainer.analysis.words_told import read_told
from trainer.rows.ragged import Tokens

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
    assert found.prediction == predictor.predictions([TEXT])[0]
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


def test_words_sum_their_tokens_and_are_drawn(project: Build) -> None:
    found = predictor_of(project(token_states={"rank": 8})).why(TEXT)
    assert found.words == found.tokens, "this tokenizer has whole words"
    np.testing.assert_array_equal(found.word_contributions, found.contributions)
    joined = copy.copy(found)
    object.__setattr__(joined, "words", ["the film", "rest"])
    object.__setattr__(joined, "word_of", np.array([0, 0] + [1] * (len(found.tokens) - 2)))
    expected = [found.contributions[:2].sum(0), found.contributions[2:].sum(0)]
    np.testing.assert_allclose(joined.word_contributions, expected, atol=1e-6)
    html = found._repr_html_()
    assert html == found.html()
    assert html.startswith('<figure class="why"><style>')
    assert html.count("<g ") == len(found.words)
    assert in_words(found.prediction) in html
    assert "<style>" not in found.html(style=False)


def test_a_page_explains_the_first_texts_of_an_input(
    project: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ilse.predict.why.why_page, "MOST_TEXTS", 3)
    made = project(token_states={"rank": 8})
    predictor = predictor_of(made)
    texts = [TEXT, "", "the <film> " * 200, "law", "new law", "film"]
    pl.DataFrame({"text": texts}).write_csv(tmp_path / "new.csv")
    place, head = tmp_path / "why.html", made.folder / "models" / "weighted" / "seed-0"
    given = (head, str(tmp_path / "new.csv"), tmp_path / "answers.csv", None, Fields(), 1, made.model)
    predict(*given, tmp_path / "none.yaml", "cpu", 1, place)
    found = place.read_text()
    assert "The first 3 of 5 texts." in found
    assert found.count("<figure") == 3
    assert found.count("<style>") == 1
    assert re.search(r"<h2>[^<]*the &lt;film&gt;[^<]*…</h2>", found)
    assert predictor.why(TEXT).html(style=False) in found
    assert len(pl.read_csv(tmp_path / "answers.csv")) == len(texts)
    again = tmp_path / "again.html"
    predict(*given, tmp_path / "none.yaml", "cpu", 1, again)
    assert again.read_text() == found
    pooled = project()
    pooled.trained("mean")
    with pytest.raises(UserError, match="one that reads pooled rows"):
        predict(pooled.folder / "models" / "mean" / "seed-0", *given[1:6], pooled.model, place, "cpu", 1, place)


@pytest.mark.parametrize("kind", ["labels", "label sets", "scores"])
def test_validation_examples_are_explained_with_their_answers(project: Build, tmp_path: Path, kind: str) -> None:
    made = project(kind, token_states={"rank": 8})
    predictor = predictor_of(made)
    tables = made.folder / "examples.parquet", made.folder / "texts.parquet"
    head = made.folder / "models" / "weighted" / "seed-0"
    place = explain_examples(head, *tables, tmp_path / "new", made.model, tmp_path / "none.yaml", "cpu", 1)
    told, texts = read_told(tmp_path / "new"), made.texts()
    assert told is not None
    assert (told.head, told.seed, told.trained_on) == ("weighted", 0, False)
    held = {row["text_id"]: row for row in pl.read_parquet(tables[0]).filter(split="validation").to_dicts()}
    assert told.asked == len(held)
    column = {"labels": "label", "label sets": "labels", "scores": "score"}[kind]
    misses = {one: missed(predictor.predictions(texts[one])[0], row[column]) for one, row in held.items()}
    for example in told.examples:
        why = predictor.why(texts[example.text_id])
        assert (example.answer, example.words) == (in_words(why.prediction), why.words)
        np.testing.assert_allclose(example.contributions, why.word_contributions, rtol=1e-3, atol=1e-6)
        if kind != "scores":
            assert example.right == (misses[example.text_id] == 0)
    if kind == "scores":
        assert told.answered_rightly is None
        assert {example.text_id for example in told.examples if not example.right} == set(
            sorted(misses, key=lambda one: misses[one])[-SHOWN:]
        )
    else:
        assert told.answered_rightly == list(misses.values()).count(0)
    assert json.loads(place.read_text())["format_version"] == 1


def test_right_and_wrong_ones_are_taken_as_they_were_drawn() -> None:
    assert chosen([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0], scores=False) == ([1, 2, 4, 5, 0, 3], {1, 2, 4, 5})
    assert chosen([0.5, 0.1, 3.0], scores=True) == ([1, 2], {1})
    assert missed(LabelSetPrediction(("a", "b"), {}), ["b", "a"]) == 0
    assert missed(LabelSetPrediction((), {}), ["b"]) == 1


def test_examples_that_cannot_be_explained_are_refused(project: Build, tmp_path: Path) -> None:
    made = project(token_states={"rank": 8})
    head, texts = made.trained("weighted", weighted={"tokens": {"rank": 6}}), made.folder / "texts.parquet"
    others, rest = project("scores").folder / "examples.parquet", (tmp_path, made.model, tmp_path / "none.yaml")
    with pytest.raises(UserError, match=r"validation examples with art, law, war(.|\n)*scores"):
        explain_examples(head, others, texts, *rest)
    pl.read_parquet(texts).head(3).write_parquet(tmp_path / "few.parquet")
    with pytest.raises(UserError, match=r"few.parquet\n(.|\n)*no text"):
        explain_examples(head, made.folder / "examples.parquet", tmp_path / "few.parquet", *rest)
    assert not (tmp_path / "why.json").exists()
