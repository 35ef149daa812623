"""What a benchmark compares: a head, its options and how it is trained, run by the stages that a user runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from ilse.core.files.table_files import read_csv, read_parquet
from ilse.core.params import validate
from trainer.config import AUTO, TrainParams
from trainer.stages.auto import train_auto
from trainer.stages.evaluate import evaluate
from trainer.stages.train import train


@dataclass(frozen=True)
class Contender:
    """A head, its options, how it is trained, and the width of its vectors for pairs (None: its encoder's own).

    `auto` has one seed, whatever is asked for.
    """

    head: str
    options: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    embedding: int | None = 256

    def params(self, seeds: int, shots: int | None = None) -> TrainParams:
        """The train section that says the same."""
        section = {"heads": [self.head], "seeds": seeds, "options": {self.head: self.options}, "recipe": self.recipe}
        return validate("train", TrainParams, section | {"embedding": self.embedding, "shots": shots})

    def fit(self, seeds: int, cache: Path, examples: Path, folder: Path, shots: int | None = None) -> None:
        """Trains in `folder`, unless that was done before; the test split is not read."""
        if (folder / "results" / "train" / f"{self.head}.json").exists():
            return
        params, places = self.params(seeds, shots), (folder / "models", folder / "results")
        if self.head == AUTO:
            train_auto(params, cache, examples, *places)
        else:
            train(params, self.head, cache, examples, *places)

    def run(
        self, seeds: int, cache: Path, examples: Path, folder: Path, shots: int | None = None
    ) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
        """Trains and evaluates in `folder`, or reads what was written there before.

        Returns a row of figures a seed, and each seed's predictions on the test split.
        """
        models, results = folder / "models", folder / "results"
        if not (results / "runs.csv").exists():
            self.fit(seeds, cache, examples, folder, shots)
            evaluate([self.head], cache, examples, models, results)
        predictions = read_parquet(results / "predictions" / f"{self.head}.parquet")
        by_seed = [of_seed for _, of_seed in predictions.group_by("seed", maintain_order=True)]
        return read_csv(results / "runs.csv").sort("seed"), by_seed
