"""The small task with texts, of which one word tells the label, and controls fitted on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.store import open_cache
from tests.trainer.conftest import Made, write_task
from trainer.artifacts.answers import Answers, load_answers
from trainer.config import TrainParams
from trainer.controls.config import ControlParams
from trainer.data.task import Task, open_task
from trainer.stages.control import control

WORDS = {"art": "paint", "law": "court", "war": "siege"}


@dataclass(frozen=True)
class Project:
    """A folder with a cache, examples and texts."""

    folder: Path

    @property
    def task(self) -> Task:
        return open_task(open_cache(self.folder / "cache.zarr"), self.folder / "examples.parquet")

    @property
    def table(self) -> pl.DataFrame:
        return pl.read_parquet(self.folder / "examples.parquet")

    def fit(
        self, name: str, training: dict[str, Any] | None = None, folder: Path | None = None, **params: Any
    ) -> dict[str, Any]:
        """Fits into `folder`, or the project's own."""
        tables = (self.folder / "cache.zarr", self.folder / "examples.parquet", self.folder / "texts.parquet")
        into = folder or self.folder
        return control(
            ControlParams.model_validate(params),
            TrainParams.model_validate({"device": "cpu", **(training or {})}),
            name, *tables, into / "models", into / "results",
        )  # fmt: skip

    def answers(self, name: str, seed: int = 0) -> Answers:
        return load_answers(self.folder / "models" / name / f"seed-{seed}", self.task)

    def facts(self, name: str, seed: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            (self.folder / "models" / name / f"seed-{seed}" / "answers.json").read_text()
        )
        return found


def made_with_texts(folder: Path, **capture: Any) -> tuple[Made, Project]:
    folder.mkdir(exist_ok=True)
    made = write_task(folder, **capture)
    draw = np.random.default_rng(0)
    texts = [
        " ".join(["report", f"day{draw.integers(9)}", WORDS[label], f"page{draw.integers(9)}"])
        for label in made.table["label"]
    ]
    write_texts(folder, made.table["text_id"].to_list(), texts)
    return made, Project(folder)


def write_texts(folder: Path, ids: list[str], texts: list[str]) -> None:
    pl.DataFrame({"text_id": ids, "text": texts}).write_parquet(folder / "texts.parquet")
