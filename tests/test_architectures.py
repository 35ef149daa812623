"""A sample of the architectures is read right or refused by name, and the judge sees what is neither."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.architectures import trial
from benchmarks.architectures.campaign import PARTS_KIND, QUICK, all_models, campaign, document
from benchmarks.architectures.models import Model
from benchmarks.architectures.specs import SPECIAL, WIDE
from benchmarks.architectures.trial import REFUSED, RIGHT, TRACEBACK, WRONG, judged

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "architectures.json"
SAMPLE = ("data2vec-text", "fnet", "squeezebert", "mixtral", "paligemma", "vit", "T5EncoderModel", "DPRContextEncoder")
LEAST = 100


def test_there_are_enough_architectures_and_the_sample_is_of_them() -> None:
    models = list(all_models())
    assert len({model.architecture for _, _, model in models}) >= LEAST
    assert {*QUICK, *SAMPLE} <= {name for _, name, _ in models}
    recorded = json.loads(RESULTS.read_text(encoding="utf-8"))["architectures"]
    assert [one["name"] for one in recorded] == [name for _, name, _ in models]


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_an_architecture_is_read_right_or_refused_by_name(tmp_path: Path, name: str) -> None:
    kind, model = next((kind, model) for kind, known, model in all_models() if known == name)
    outcome = judged(kind, name, model, tmp_path)
    assert outcome.verdict == (REFUSED if name == "vit" else RIGHT), outcome.found
    assert (kind == PARTS_KIND) == bool(model.saved)


@pytest.mark.exhaustive
def test_every_architecture_is_read_right_or_refused_by_name(tmp_path: Path) -> None:
    found = document(campaign(tmp_path))
    assert [one for one in found["architectures"] if one["verdict"] in (WRONG, TRACEBACK)] == []
    assert found["right"] >= LEAST


def test_the_judge_sees_wrong_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = trial.Reader.read

    def shifted(self: trial.Reader, batch: object, projection: None = None) -> object:
        rows = plain(self, batch, projection)  # type: ignore[arg-type]
        return replace(rows, tokens=[1.01 * states for states in rows.tokens or []])

    monkeypatch.setattr(trial.Reader, "read", shifted)
    outcome = judged("encoders", "bert", Model("bert", {**WIDE, **SPECIAL}), tmp_path)
    assert (outcome.verdict, "in batches" in outcome.found) == (WRONG, True)


def test_the_judge_sees_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "tokenise", lambda *_: torch.zeros(1)[2])
    outcome = judged("encoders", "bert", Model("bert", WIDE), tmp_path)
    assert (outcome.verdict, "IndexError" in outcome.found) == (TRACEBACK, True)
