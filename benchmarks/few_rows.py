"""Few labelled texts in all: the heads, and the one chosen on validation, against scikit-learn's logistic regression.

    python -m benchmarks.few_rows DATA WORK [--tasks NAME ...] [--rows N ...] [--heads NAME ...] [--draws N]
                                 [--recipe JSON] [--quick]

DATA is that of `benchmarks.accuracy`. WORK keeps the model (all-MiniLM-L6-v2), the caches and every finished figure: a
run that is stopped goes on. A draw is N labelled rows of a task's training split (of at most `POOL`), or all rows of a
smaller one. Heads get them by `HeadClassifier`, which chooses by folds of them or, of more than 1,000, holds
`HELD_BACK` of them back to choose on; with N = 200 that is what a user has who prepares 200 texts. `--recipe` says what
of theirs is not the default, such as '{"optimizer": "adamw", "folds": null}'.
scikit-learn gets all N: `LogisticRegression` on standardised rows and on rows as they are, C out of ten from 1e-4 to
1e4 by stratified 5-fold cross-validation, on the last layer and on the layer that this cross-validation finds best.
Test accuracy is over at most `TESTS` test texts, which nothing else looks at.

The chosen head is the one with the best figure on validation. The last line is JSON, and
`benchmarks/results/few_rows.json` the same: by task and rows each contender's median and range of test accuracy over
the draws in per cent and its seconds; `gaps`, how far each head's mean is ahead of scikit-learn's in points, with a
95 % interval over draws and test examples; `worst_gap` and `mean_gap` of the chosen head.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.accuracy import HELD_OUT, interval, points
from benchmarks.demo import RAW
from ilse.core.files.atomic import write_json
from ilse.core.files.json_files import read_json
from ilse.core.files.table_files import read_parquet
from ilse.core.params import load_section, validate
from ilse.core.tables import EXAMPLES_FILE, LABEL, SPLIT, TEST, TEXT_ID, TEXTS_FILE, TRAIN
from pipeline.config import ExtractParams, ModelParams
from pipeline.stages.extract import extract
from pipeline.stages.fetch import FetchParams, fetch
from pipeline.stages.prepare import PrepareParams, prepare
from trainer.estimator import HeadClassifier, rows_of
from trainer.statistics import difference, of_rows

TASKS = ("emotion", "poem_sentiment", "mtop_domain")
ROWS = (50, 100, 200, 450, 2000)
HEADS = ("linear", "last", "best", "mean", "concat")
POOL, TESTS = 4000, 2000
HELD_BACK = 0.15
RESULTS = Path("benchmarks/results/few_rows.json")
CHOSEN = "chosen"
TWINS = {"sklearn last": (False, False), "sklearn best": (True, False), "sklearn last, scaled": (False, True),
         "sklearn best, scaled": (True, True)}  # fmt: skip
"""Contender → whether cross-validation chooses the layer, and whether rows are standardised."""
Bits = NDArray[np.bool_]


def main() -> None:
    """Runs what is missing and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS))
    parser.add_argument("--heads", nargs="+", default=list(HEADS))
    parser.add_argument("--twins", nargs="+", default=list(TWINS), choices=list(TWINS))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--recipe", type=json.loads, default={})
    parser.add_argument("--quick", action="store_true", help="end within minutes: one task, two sizes, three heads")
    given = parser.parse_args()
    if given.quick:
        given.tasks, given.rows, given.heads, given.draws = [TASKS[0]], [50, 200], ["last", "best", "bottleneck"], 2
        given.twins = ["sklearn last", "sklearn last, scaled"]
    found: dict[str, Any] = {"heads": given.heads, "draws": given.draws, "recipe": given.recipe, "tasks": {}}
    for task in given.tasks:
        pool, tests = made(task, given.data, given.work)
        for rows in given.rows:
            size = min(rows, len(pool.y))
            runs = [of_draw(given, task, size, draw, pool, tests) for draw in range(given.draws)]
            found["tasks"].setdefault(task, {})[str(size)] = figures(runs, given.heads, given.twins)
    gaps = [gap["points"] for sizes in found["tasks"].values() for one in sizes.values()
            for gap in one["gaps"][CHOSEN].values()]  # fmt: skip
    found |= {"worst_gap": min(gaps), "mean_gap": round(float(np.mean(gaps)), 2)}
    if not given.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        write_json(RESULTS, found)
    print(json.dumps(found))


class Rows:
    """Rows [texts, layers, dim] and labels [texts] of a split."""

    def __init__(self, cache: Path, examples: pl.DataFrame, split: str, most: int) -> None:
        of_split = examples.filter(pl.col(SPLIT) == split).sort(TEXT_ID)
        drawn = of_split.sample(min(most, len(of_split)), seed=0, shuffle=True)
        self.x, self.y = rows_of(cache, drawn[TEXT_ID]), drawn[LABEL].to_numpy()


def made(task: str, data: Path, work: Path) -> tuple[Rows, Rows]:
    """The texts that draws are of, and the test texts."""
    model, folder = RAW / "minilm", work / "few_rows" / task
    if not model.exists():
        fetch(load_section("fetch.minilm", FetchParams).root, model)
    if not (folder / EXAMPLES_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        files = {}
        for split, most in ((TRAIN, POOL), (TEST, TESTS)):
            table = read_parquet(data / task / f"{split}.parquet")
            files[split] = str(folder / f"{split}.parquet")
            table.sample(min(most, len(table)), seed=0, shuffle=True).write_parquet(files[split])
        section = {"path": files, "format": "parquet", "splits": HELD_OUT}
        prepare(validate("prepare", PrepareParams, section), folder)
    params = ExtractParams(model=ModelParams(path=model), poolings=["mean"], max_tokens=128)
    extract(params, folder / TEXTS_FILE, folder / "cache.zarr", folder / "scratch")  # finished bytes stay
    examples = read_parquet(folder / EXAMPLES_FILE)
    # What `prepare` holds back for validation is training text here: each draw holds back its own.
    examples = examples.with_columns(pl.when(pl.col(SPLIT) == TEST).then(SPLIT).otherwise(pl.lit(TRAIN)).alias(SPLIT))
    return Rows(folder / "cache.zarr", examples, TRAIN, POOL), Rows(folder / "cache.zarr", examples, TEST, TESTS)


def of_draw(given: argparse.Namespace, task: str, rows: int, draw: int, pool: Rows, tests: Rows) -> dict[str, Any]:
    """What each contender got right of the tests, its seconds and its validation figure; kept in WORK."""
    file = given.work / "few_rows" / "draws" / task / f"{rows}-{draw}.json"
    kept: dict[str, Any] = read_json(file) if file.exists() else {}
    found = {name: kept[of] for name in (*given.heads, *given.twins) if (of := _kept_as(name, given.recipe)) in kept}
    chosen = np.random.default_rng(draw).permutation(len(pool.y))[:rows]
    x, y = pool.x[chosen], pool.y[chosen]
    for name in (*given.heads, *given.twins):
        if name in found:
            continue
        started = time.perf_counter()
        if name in TWINS:
            answers, merit = twin(name, x, y, tests.x, draw)
        else:
            answers, merit = head(name, given.recipe, x, y, tests.x, draw)
        seconds = time.perf_counter() - started
        found[name] = {"right": np.packbits(answers == tests.y).tolist(), "merit": merit, "seconds": round(seconds, 2)}
        print(f"{task:12} {rows:5} rows, draw {draw}: {name:22} {100 * np.mean(answers == tests.y):.1f}, "
              f"{seconds:.1f} s", flush=True)  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        kept[_kept_as(name, given.recipe)] = found[name]
        write_json(file, kept)
    return {name: one | {"right": np.unpackbits(np.array(one["right"], np.uint8), count=len(tests.y)).astype(bool)}
            for name, one in found.items()}  # fmt: skip


def _kept_as(name: str, recipe: dict[str, Any]) -> str:
    """What a contender's figures are kept under: heads by their recipe too."""
    return name if name in TWINS or not recipe else f"{name} {json.dumps(recipe, sort_keys=True)}"


def head(
    name: str, recipe: dict[str, Any], x: NDArray[Any], y: NDArray[Any], tests: NDArray[Any], draw: int
) -> tuple[NDArray[Any], float]:
    """Answers of a head, and its figure on validation."""
    model = HeadClassifier(name, recipe=recipe, validation_fraction=HELD_BACK, random_state=draw, device="cpu").fit(
        x, y
    )
    return model.predict(tests), float(model.validation_score_)


def twin(name: str, x: NDArray[Any], y: NDArray[Any], tests: NDArray[Any], draw: int) -> tuple[NDArray[Any], float]:
    """scikit-learn's answers, and its figure by cross-validation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    chooses, scaled = TWINS[name]
    folds = StratifiedKFold(5, shuffle=True, random_state=draw)
    best: tuple[float, Any, int] | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels with fewer rows than folds, and of 100 iterations
        for layer in range(x.shape[1]) if chooses else [x.shape[1] - 1]:
            steps = [StandardScaler()] if scaled else []
            model = make_pipeline(*steps, LogisticRegression(max_iter=300))
            search = GridSearchCV(model, {"logisticregression__C": np.logspace(-4, 4, 10)}, cv=folds)
            search.fit(x[:, layer], y)
            if best is None or search.best_score_ > best[0]:
                best = float(search.best_score_), search, layer
    assert best is not None
    return best[1].predict(tests[:, best[2]]), best[0]


def figures(runs: list[dict[str, Any]], heads: list[str], twins: list[str]) -> dict[str, Any]:
    """One size's figures over the draws."""
    for run in runs:
        run[CHOSEN] = run[max(heads, key=lambda name: run[name]["merit"])]
    shown: dict[str, Any] = {}
    for name in (CHOSEN, *heads, *twins):
        tests = [points(float(np.mean(run[name]["right"]))) for run in runs]
        shown[name] = {
            "median": round(float(np.median(tests)), 2),
            "mean": round(float(np.mean(tests)), 2),
            "low": min(tests),
            "high": max(tests),
            "seconds": round(float(np.median([run[name]["seconds"] for run in runs])), 2),
        }
    return {"contenders": shown, "gaps": {name: _gaps(name, runs, twins) for name in (CHOSEN, *heads)}}


def _gaps(name: str, runs: list[dict[str, Any]], twins: list[str]) -> dict[str, Any]:
    def bits(contender: str) -> Bits:
        return np.stack([run[contender]["right"] for run in runs])

    gaps = {}
    for other in twins:
        found = difference(of_rows(bits(name)), of_rows(bits(other)), paired_seeds=True)
        gaps[other] = {"points": points(found.difference), "interval": interval(found)}
    return gaps


if __name__ == "__main__":
    main()
