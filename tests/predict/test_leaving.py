"""Exit heads: texts leave the model where the head is sure of them, and the answers are those of the whole model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pipeline.capture.early_exit
from ilse.predict import Predictor
from ilse.predict.early_exit import leaving_of
from pipeline.capture.early_exit import LeavingReader
from pipeline.capture.reader import Reader, Request
from pipeline.capture.tokens import tokenise
from pipeline.config import ModelParams
from pipeline.model.architecture import find_blocks
from pipeline.model.load import Compute, load_model
from tests.predict.conftest import Project
from trainer.heads.exit_thresholds import leaves_at, sureness
from trainer.heads.exits import Exits

Build = Callable[..., Project]
MORE = {"shared": 4, "layers": [0, 2, 3]}


def rows_of_blocks(predictor: Predictor, texts: list[str]) -> list[int]:
    """How many rows each block was run on for the answers."""
    seen: dict[int, int] = {}
    handles = []
    for number, block in enumerate(find_blocks(predictor.capture.frozen.model)):

        def count(_block: Any, _args: Any, out: Tensor, number: int = number) -> None:
            seen[number] = seen.get(number, 0) + len(out)

        handles.append(block.register_forward_hook(count))
    predictor.predictions(texts)
    for handle in handles:
        handle.remove()
    return [seen.get(number, 0) for number in range(3)]


@pytest.mark.parametrize(
    ("kind", "more", "pooling"),
    [
        ("entropy", {}, "mean"),
        ("probability", MORE, "mean"),
        ("margin", {"training": "separate"}, ["last", "mean"]),
        ("patience", {}, "mean"),
    ],
)
def test_texts_leave_where_the_head_lets_them(
    project: Build, kind: str, more: dict[str, Any], pooling: str | list[str]
) -> None:
    made = project(poolings=["mean", "max", "last"])
    predictor = made.predictor("exits", pooling=pooling, exits={"sureness": kind, **more})
    head, texts = predictor.trained.head, list(made.texts().values())
    assert isinstance(head, Exits)
    rows = predictor.capture.rows(texts, texts)
    with torch.inference_mode():
        sure = sureness(head.every(predictor.trained.treatment(rows)), kind)
        surest = sure[:, :-1].max(1).values.sort().values
        # Between two texts: at the value of one, the last bit of its state decides.
        between = surest[len(surest) // 2 - 1 : len(surest) // 2 + 1].mean()
        head.threshold.fill_(0.5 if kind == "patience" else between)
        left = leaves_at(sure, head.threshold)
    predictor.leaving = leaving_of(predictor.trained)
    found = predictor.predictions(texts)
    predictor.leaving = None
    expected = predictor.predictions(texts)
    assert [p.label for p in found] == [p.label for p in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-3)
    assert len(set(left.tolist())) > 1
    # The block behind an exit runs on the texts that are left there, and no more.
    predictor.leaving = leaving_of(predictor.trained)
    layers = torch.tensor(head.layers_read)[left]
    assert rows_of_blocks(predictor, texts) == [int((layers > block).sum()) for block in range(3)]
    assert rows_of_blocks(predictor, texts)[2] < len(texts)


def test_a_head_that_lets_none_leave_reads_all_layers_as_any_other(project: Build) -> None:
    predictor = project().predictor("exits")
    predictor.trained.head.threshold.fill_(2.0)
    assert leaving_of(predictor.trained) is None
    assert leaving_of(project().predictor("mean").trained) is None


def test_where_a_model_does_not_bear_it_all_layers_are_read(project: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    made = project(model="bert")
    predictor = made.predictor("exits")
    predictor.trained.head.threshold.fill_(0.4)
    predictor.leaving, texts = None, list(made.texts().values())[:9]
    expected = predictor.predictions(texts)
    predictor.leaving = leaving_of(predictor.trained)
    monkeypatch.setattr(pipeline.capture.early_exit, "_of", lambda _there, _whole, given: given)  # masks keep all rows
    assert predictor.predictions(texts) == expected
    assert not predictor.capture._leaving.works


def test_where_a_text_is_read_in_windows_none_leaves_on_the_way(project: Build) -> None:
    made = project(windows={"tokens": 6}, max_tokens=None)
    predictor, texts = made.predictor("exits"), list(made.texts().values())
    predictor.trained.head.threshold.fill_(0.4)
    predictor.leaving = None
    expected = predictor.predictions(texts)
    predictor.leaving = leaving_of(predictor.trained)
    assert predictor.predictions(texts) == expected
    short = [text for text in texts if len(text.split()) <= 6]
    assert predictor.capture.leaving(texts, texts, predictor.leaving) is None
    assert predictor.capture.leaving(short, short, predictor.leaving) is not None


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2"])
def test_rows_are_those_of_the_reader_whoever_has_left(tiny_model: Callable[[str], Path], name: str) -> None:
    frozen = load_model(ModelParams(path=tiny_model(name)), Compute("float32", "cpu", 1, 64, False, "hooks"))
    reader = Reader(frozen, Request(tuple(range(4)), ("mean",)))
    leaving = LeavingReader(frozen, reader)
    assert leaving.works
    texts = [" ".join(["the", "film", "wins", "law"][: 1 + i % 4] * (1 + i % 3)) for i in range(12)]
    tokens = tokenise(frozen.tokenizer, texts, texts, "{text}", 32)
    expected = torch.empty(12, 4, frozen.facts.dim)
    for positions, rows in reader.read_all(tokens, 64):
        expected[positions] = rows.pooled["mean"]
    leaves = torch.tensor([i % 4 for i in range(12)])
    seen = torch.full_like(expected, torch.nan)

    def decide(place: int, positions: Tensor, rows: Tensor) -> Tensor:
        seen[positions, place] = rows
        return leaves[positions] > place

    leaving.read_all(tokens, 64, decide)
    for i in range(12):
        torch.testing.assert_close(seen[i, : leaves[i] + 1], expected[i, : leaves[i] + 1], atol=1e-5, rtol=1e-5)
        assert seen[i, leaves[i] + 1 :].isnan().all()
