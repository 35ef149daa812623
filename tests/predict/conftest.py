"""Small projects made by the stages themselves: a tiny model's cache, and heads trained from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from ilse.predict import Predictor
from pipeline.config import ExtractParams
from pipeline.stages.extract import extract
from pipeline.stages.prepare import PrepareParams, prepare
from tests.pipeline.conftest import WORDS, sentence, tiny_model
from trainer.config import TrainParams
from trainer.stages.evaluate import evaluate
from trainer.stages.train import train

__all__ = ["tiny_model"]  # a fixture

EXAMPLES = 90
KINDS: dict[str, dict[str, Any]] = {
    "labels": {},
    "label sets": {"labels_column": "labels"},
    "scores": {"score_column": "score"},
    "pairs with a label": {"text_pair_column": "other"},
    "pairs with a score": {"text_pair_column": "other", "score_column": "score"},
}
"""What examples are → parameters of `prepare`."""


def source() -> pl.DataFrame:
    """Sentences with a label, labels and a score that follow from their words, and a second sentence each."""
    texts = [f"{sentence(i)} {' '.join(str(i))}" for i in range(EXAMPLES)]
    first = [WORDS.index(text.split()[0]) for text in texts]
    return pl.DataFrame(
        {
            "text": texts,
            "other": [f"{sentence(1000 + i)} {' '.join(str(i))}" for i in range(EXAMPLES)],
            "label": [("art", "law", "war")[word % 3] for word in first],
            "labels": ["|".join(name for k, name in enumerate("abc", 2) if word % k == 0) for word in first],
            "score": [float(word) for word in first],
        }
    )


_TRAINED: dict[tuple[Path, str], str] = {}
"""Of every head that stands in a project's folder: the parameters it was trained with."""


@dataclass(frozen=True)
class Project:
    """A folder with a cache and heads, and the model that made it."""

    folder: Path
    model: Path
    objective: str

    @property
    def cache(self) -> Path:
        return self.folder / "cache.zarr"

    def trained(self, *heads: str, pooling: str | list[str] = "mean", **options: Any) -> Path:
        """The folder of the last head, with one seed; its predictions of the test split stand in `results`."""
        params = TrainParams.model_validate(
            {
                "seeds": 1,
                "device": "cpu",
                "objective": self.objective,
                "embedding": 6,
                "options": options,
                "pooling": pooling,
                "recipe": {
                    "epochs": 12,
                    "batch_size": 16,
                    "learning_rate": 0.01,
                    "compute_type": "float32",
                    "optimizer": "adamw",
                    "folds": None,
                },
            }
        )
        places = self.cache, self.folder / "examples.parquet", self.folder / "models", self.folder / "results"
        how = params.model_dump_json()
        missing = [name for name in heads if _TRAINED.get((self.folder, name)) != how]
        for name in missing:
            train(params, name, *places)
            _TRAINED[self.folder, name] = how
        # Evaluation keeps the answers of the heads that it is asked for, and of no others.
        if missing or not all((self.folder / "results" / "predictions" / f"{name}.parquet").exists() for name in heads):
            evaluate(list(heads), *places)
        return self.folder / "models" / heads[-1] / "seed-0"

    def predictor(self, *heads: str, **options: Any) -> Predictor:
        return Predictor.load(self.trained(*heads, **options), self.model, device="cpu", threads=1, batch_tokens=64)

    def texts(self) -> dict[str, str]:
        """Text id → text, in the cache's order."""
        return dict(pl.read_parquet(self.folder / "texts.parquet").select("text_id", "text").rows())

    def predicted(self, head: str) -> pl.DataFrame:
        """What evaluation said of the test split."""
        return pl.read_parquet(self.folder / "results" / "predictions" / f"{head}.parquet")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def project(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Project]:
    """A project of a kind of examples, made once for each kind and capture."""
    made: dict[str, Project] = {}

    def build(kind: str = "labels", objective: str = "auto", model: str = "llama", **capture: Any) -> Project:
        key = repr((kind, objective, model, capture))
        if key not in made:
            folder = tmp_path_factory.mktemp("project")
            source().write_csv(folder / "source.csv")
            prepare(PrepareParams.model_validate({"path": str(folder / "source.csv")} | KINDS[kind]), folder)
            made[key] = Project(folder, tiny_model(model), objective)
            values = {
                "model": {"path": str(made[key].model)}, "compute_type": "float32", "max_tokens": 10,
                "batch_tokens": 64, "shard_rows": 64, "threads": 1, "cluster": {"kind": "synchronous"},
            }  # fmt: skip
            params = ExtractParams.model_validate(values | capture)
            extract(params, folder / "texts.parquet", folder / "cache.zarr", folder / "scratch")
        return made[key]

    return build
