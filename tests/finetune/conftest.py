"""A tiny model, and examples whose label is a word of their text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

for package in ("transformers", "peft", "lightning"):
    pytest.importorskip(package, reason="needs the extra 'lora'")

import torch  # noqa: E402

from ilse.finetune.config import LoraParams  # noqa: E402
from ilse.finetune.examples import Split  # noqa: E402
from pipeline.capture.tokens import tokenise  # noqa: E402
from pipeline.config import ModelParams  # noqa: E402
from pipeline.model.load import Compute, FrozenModel, load_model  # noqa: E402
from tests.pipeline.conftest import sentence, texts_table, tiny_model  # noqa: E402, F401

TELLING = ("profit", "song")
"""The word that gives a text its label."""


def text_of(number: int) -> str:
    """A sentence with one telling word, at its start or end; texts of even numbers have the first label."""
    words = [word for word in sentence(number).split() if word not in TELLING]
    words.insert(0 if number % 3 else len(words), TELLING[number % 2])
    return " ".join(words)


def quick(**changes: object) -> LoraParams:
    """A short training, with changes."""
    values = {"epochs": 4, "learning_rate": 0.01, "batch_size": 16, "dropout": 0.0, "compute_type": "float32"}
    return LoraParams.model_validate(values | changes)


@pytest.fixture
def frozen(tiny_model: Callable[[str], Path]) -> Callable[[str], FrozenModel]:  # noqa: F811
    """A tiny random model of the named architecture."""

    def load(name: str, compute_type: str = "float32") -> FrozenModel:
        return load_model(ModelParams(path=tiny_model(name)), Compute(compute_type, "cpu", 1, 1024, False, "hooks"))

    return load


def examples(frozen: FrozenModel, numbers: range) -> Split:
    """The texts with these numbers, and their labels."""
    texts = [text_of(i) for i in numbers]
    tokens = tokenise(frozen.tokenizer, texts, [str(i) for i in numbers], "{text}", 32)
    return Split(tokens, torch.tensor([i % 2 for i in numbers]))
