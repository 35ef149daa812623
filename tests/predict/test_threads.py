"""Answers do not depend on who else asks: other threads, other predictors over the same model or over another one."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import pipeline.model.load
from ilse.core.errors import UserError
from ilse.predict import Predictor
from ilse.predict.early_exit import leaving_of
from ilse.predict.text_pipeline import TextPipeline
from pipeline.model.architecture import find_blocks
from tests.predict.conftest import Project

Build = Callable[..., Project]
THREADS = 8


def answers_of(predictor: Predictor, texts: list[str]) -> list[Any]:
    """One text a call."""
    return [answer for text in texts for answer in predictor.predictions([text])]


def in_threads(answer: Callable[[str], Any], texts: list[str]) -> list[Any]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(answer, texts))


@pytest.mark.parametrize(("model", "capture"), [("llama", "hooks"), ("bert", "hooks"), ("gpt2", "hidden_states")])
def test_threads_that_share_a_predictor_get_the_serial_answers(project: Build, model: str, capture: str) -> None:
    made = project(model=model)
    predictor = Predictor.load(made.trained("weighted"), made.model, device="cpu", capture=capture)
    texts = list(made.texts().values())
    serial = answers_of(predictor, texts)
    assert len({answer.probability for answer in serial}) > len(texts) / 2
    assert in_threads(lambda text: predictor.predictions(text)[0], texts * 2) == serial * 2
    pipe = TextPipeline(predictor)
    assert in_threads(lambda text: pipe(text)[0]["score"], texts) == [answer.probability for answer in serial]
    whole = predictor.embed(texts)
    for vectors in in_threads(lambda _: predictor.embed(texts), ["once"] * THREADS):
        np.testing.assert_array_equal(vectors, whole)


def test_so_do_threads_whose_texts_leave_early(project: Build) -> None:
    made = project()
    predictor = made.predictor("exits")
    predictor.trained.head.threshold.fill_(0.4)
    predictor.leaving, texts = leaving_of(predictor.trained), list(made.texts().values())
    assert in_threads(lambda text: predictor.predictions(text)[0], texts) == answers_of(predictor, texts)


def test_predictors_over_one_model_share_it_and_answer_in_threads_of_their_own(project: Build) -> None:
    """The deeper head came first: the other one's must not drop its blocks, nor move its hooks."""
    made = project()
    deep, shallow = made.predictor("last"), made.predictor("layer", layer={"layer": 1})
    assert deep.capture.frozen is shallow.capture.frozen
    assert not any(weight.is_meta for weight in deep.capture.frozen.model.parameters())
    texts = list(made.texts().values())
    serial = {id(one): answers_of(one, texts) for one in (deep, shallow)}
    turns = [(one, text) for text in texts for one in (deep, shallow)]
    found = in_threads(lambda turn: (id(turn[0]), turn[0].predictions(turn[1])[0]), turns)
    for one in (deep, shallow):
        assert [answer for owner, answer in found if owner == id(one)] == serial[id(one)]


def test_blocks_that_a_gone_predictor_needed_are_read_again_for_the_next(project: Build, tmp_path: Path) -> None:
    made = project()
    texts = list(made.texts().values())
    own = shutil.copytree(made.model, tmp_path / "model")  # which nobody else holds
    shallow = Predictor.load(made.trained("layer", layer={"layer": 1}), own, device="cpu")
    blocks, at_first = find_blocks(shallow.capture.frozen.model), answers_of(shallow, texts)
    assert [next(block.parameters()).is_meta for block in blocks] == [False, True, True]
    deep = Predictor.load(made.trained("last"), own, device="cpu")
    assert deep.capture.frozen is shallow.capture.frozen
    assert not any(weight.is_meta for weight in deep.capture.frozen.model.parameters())
    assert answers_of(shallow, texts) == at_first


def test_predictors_over_two_models_take_turns_without_loading(project: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    predictors = [project(model=name).predictor("last") for name in ("llama", "bert")]
    texts = list(project().texts().values())[:10]
    serial = [answers_of(predictor, texts) for predictor in predictors]
    monkeypatch.setattr(pipeline.model.load, "_read", lambda *_: pytest.fail("a model was loaded again"))
    for text, *expected in zip(texts, *serial, strict=True):
        assert [predictor.predictions(text)[0] for predictor in predictors] == expected


def test_a_predictor_leaves_the_process_its_number_of_threads(project: Build) -> None:
    made, seen = project(), []
    head, before = made.trained("last"), torch.get_num_threads()
    for asked, expected in ((before + 1, before + 1), (0, before)):
        predictor = Predictor.load(head, made.model, device="cpu", threads=asked)
        assert predictor.capture.conditions["threads"] == expected
        block = find_blocks(predictor.capture.frozen.model)[0]
        hook = block.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
        predictor.predictions("the film")
        hook.remove()
        assert (set(seen), torch.get_num_threads()) == ({expected}, before)
        seen.clear()


def test_a_string_is_one_text(project: Build) -> None:
    predictor = project().predictor("mean")
    assert predictor.predictions("the film wins") == predictor.predictions(["the film wins"])
    assert [*predictor.stream("the film wins")] == predictor.predictions(["the film wins"])
    np.testing.assert_array_equal(predictor.embed("the film wins"), predictor.embed(["the film wins"]))
    assert predictor.predictions(pd.Series(["the film"])) == predictor.predictions(np.array(["the film"]))


@pytest.mark.parametrize("given", [{"text": "the film"}, pd.DataFrame({"text": ["the film"]})])
def test_what_is_no_list_of_texts_is_refused(project: Build, given: Any) -> None:
    predictor = project().predictor("mean")
    for ask in (predictor.predict, predictor.embed):
        with pytest.raises(UserError, match=r"the texts\n +expected: a string or a list(.|\n)*as one column"):
            ask(given)


def test_another_process_gets_the_same_predictor(project: Build, tmp_path: Path) -> None:
    """Dask and joblib send it: what travels is the head, and which model it reads."""
    predictor = project().predictor("mean")
    sent, answer = tmp_path / "sent", predictor.predictions("the film wins")[0].probability
    sent.write_bytes(pickle.dumps(predictor))
    assert sent.stat().st_size < 100_000
    code = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).predictions('the film wins')[0].probability)"
    said = subprocess.run([sys.executable, "-c", code, str(sent)], capture_output=True, text=True, check=True).stdout
    assert float(said) == pytest.approx(answer, abs=1e-6)
