"""SetFit on the draws of `benchmarks.few_rows`: the same texts, labels, embedder and test texts.

    python -P benchmarks/setfit_rows.py WORK MODEL [--tasks NAME ...] [--rows N ...] [--draws N]

It runs in an environment of its own, with `setfit` and `polars` and without ilse-cache. WORK is that of
`benchmarks.few_rows`, which has prepared the tables; MODEL is the folder of all-MiniLM-L6-v2. SetFit has its defaults
(one epoch of pairs, logistic regression on the fine-tuned embeddings) with 20 pairs per text, as its paper has. Figures
of finished draws are kept in WORK. The last line is JSON, and `benchmarks/results/setfit.json` the same: by task and
rows the median, mean, lowest and highest test accuracy over the draws in per cent, and the median seconds.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments

TASKS, ROWS = ("emotion", "poem_sentiment"), (50, 100)
POOL, TESTS = 4000, 2000
RESULTS = Path("benchmarks/results/setfit.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS))
    parser.add_argument("--draws", type=int, default=5)
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for task in given.tasks:
        pool, tests = (of_split(given.work / "few_rows" / task, test, most) for test, most in ((0, POOL), (1, TESTS)))
        for rows in given.rows:
            draws = [of_draw(given, task, rows, draw, pool, tests) for draw in range(given.draws)]
            scores = [100 * one["accuracy"] for one in draws]
            found.setdefault(task, {})[str(rows)] = {
                "median": round(float(np.median(scores)), 2),
                "mean": round(float(np.mean(scores)), 2),
                "low": round(min(scores), 2),
                "high": round(max(scores), 2),
                "seconds": round(float(np.median([one["seconds"] for one in draws])), 1),
                "draws": len(draws),
            }
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))


def _table(path: Path) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(path.read_bytes()))


def of_split(folder: Path, test: int, most: int) -> tuple[list[str], np.ndarray]:
    """Texts and labels, drawn as `few_rows` draws them: all that is no test text may be trained on."""
    examples = _table(folder / "examples.parquet").join(
        _table(folder / "texts.parquet"), on="text_id", how="left", maintain_order="left"
    )
    held = (pl.col("split") == "test") if test else (pl.col("split") != "test")
    chosen = examples.filter(held).sort("text_id")
    drawn = chosen.sample(min(most, len(chosen)), seed=0, shuffle=True)
    return drawn["text"].to_list(), drawn["label"].to_numpy()


def of_draw(given: argparse.Namespace, task: str, rows: int, draw: int, pool: Any, tests: Any) -> dict[str, float]:
    """Accuracy on the tests, and the seconds of training and answering."""
    file = given.work / "few_rows" / "setfit" / task / f"{rows}-{draw}.json"
    if file.exists():
        kept: dict[str, float] = json.loads(file.read_text())
        return kept
    chosen = np.random.default_rng(draw).permutation(len(pool[1]))[:rows]
    names = sorted(set(pool[1].tolist()))
    started = time.perf_counter()
    model = SetFitModel.from_pretrained(str(given.model), labels=names)
    data = Dataset.from_dict({"text": [pool[0][i] for i in chosen], "label": [names.index(pool[1][i]) for i in chosen]})
    arguments = TrainingArguments(batch_size=16, num_iterations=20, num_epochs=1, seed=draw, report_to="none",
                                  output_dir=str(file.parent / "checkpoints"), save_strategy="no")  # fmt: skip
    Trainer(model=model, args=arguments, train_dataset=data).train()
    answers = np.array([str(one) for one in model.predict(tests[0])])
    found = {"accuracy": float(np.mean(answers == tests[1])), "seconds": time.perf_counter() - started}
    print(task, rows, draw, found, flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
