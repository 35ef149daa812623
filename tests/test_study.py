"""The published study: its parameters are ones that the pipeline takes, and its page says what its tables say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

pytest.importorskip("dvc", reason="the study is a queue of DVC experiments")

from dvc.utils.hydra import apply_overrides

from benchmarks.study import transfer
from benchmarks.study.experiments import experiments
from benchmarks.study.results import ACROSS, compared, extraction_of, placed, runs_of, write_table
from docs.make_study import RESULTS, Study, document
from ilse.core.params import validate
from pipeline.config import ExtractParams
from pipeline.stages.prepare import PrepareParams
from trainer.config import TrainParams
from trainer.controls.config import ControlParams
from trainer.heads import HEADS

ROOT = Path(__file__).parent.parent
EXPERIMENTS = list(experiments(Path("/data")))


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda one: one.name)
def test_its_parameters_are_the_pipelines(experiment: Any, tmp_path: Path) -> None:
    file = shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    apply_overrides(str(file), list(experiment.overrides))
    params = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    prepared = validate("prepare", PrepareParams, params["prepare"])
    extracted = validate("extract", ExtractParams, params["extract"])
    trained = validate("train", TrainParams, params["train"])
    controls = validate("controls", ControlParams, params["controls"])
    assert prepared.path == f"/data/{experiment.task}"
    assert (prepared.score_column is None) == (experiment.task != "stsbenchmark")
    assert str(extracted.model.path) in ("data/raw/minilm", "data/raw/model/SmolLM2-135M-Instruct.Q4_1.gguf")
    assert trained.seeds == 5
    of_scores = experiment.task == "stsbenchmark"
    assert trained.learning_rates == ([0.0001, 0.0003, 0.001] if of_scores else [0.001, 0.003, 0.01])
    left_out = {"layer", *(("exits", "gated") if of_scores else ())}
    assert set(trained.heads) == HEADS.keys() - left_out
    assert (controls.caches, params["control_caches"]) == ({}, {})


def test_experiments_have_names_of_their_own() -> None:
    assert len({one.name for one in EXPERIMENTS}) == len(EXPERIMENTS) == 12


class Folder:
    """What the collector reads of an experiment, in a folder of results."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read_bytes(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def read_text(self, name: str) -> str:
        return self.read_bytes(name).decode()


def test_the_raw_table(tmp_path: Path) -> None:
    (tmp_path / "results" / "train").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    seeds = {"head": ["last", "last", "words"], "seed": [0, 1, 0], "best_epoch": [3, 4, None]}
    scores = {"val_score": [0.5, 0.6, 0.4], "test_score": [0.4, 0.5, 0.3], "parameters": [9, 9, 5]}
    pl.DataFrame({**seeds, **scores, "train_seconds": [1.0, 2.0, 3.0], "other": [0, 0, 0]}).write_csv(
        tmp_path / "results" / "runs.csv"
    )
    for name, own in {"last": {"learning_rate": 0.003}, "words": {}}.items():
        (tmp_path / "results" / "train" / f"{name}.json").write_text(json.dumps({"metric": "accuracy", **own}))
    runs: Any = runs_of(Folder(tmp_path))  # type: ignore[arg-type]
    assert runs["learning_rate"].to_list() == [0.003, 0.003, None]
    assert runs["metric"].unique().to_list() == ["accuracy"]
    assert "other" not in runs.columns
    figures = {"texts": 10, "texts_computed": 5, "tokens": 600, "tokens_per_second": 100.0, "seconds": 3.0}
    (tmp_path / "data" / "extract.json").write_text(json.dumps(figures))
    assert extraction_of(Folder(tmp_path))["seconds"].to_list() == [6.0]  # type: ignore[arg-type]


def answers(right: list[list[bool]]) -> pl.DataFrame:
    rows = [
        {"seed": seed, "text_id": str(i), "label": "a", "prediction": "a" if one else "b"}
        for seed, of_seed in enumerate(right)
        for i, one in enumerate(of_seed)
    ]
    return pl.DataFrame(rows)


def test_heads_are_compared_on_the_same_examples() -> None:
    low, high = answers([[True, False] * 50] * 2), answers([[True, True, True, False] * 25] * 2)
    row = compared({"low": low, "high": high}, "low").row(0, named=True)
    assert (row["head"], row["difference_points"], row["better"]) == ("high", pytest.approx(25), True)
    other = high.with_columns(pl.col("text_id") + "x")
    with pytest.raises(SystemExit, match="high answered other test examples"):
        compared({"low": low, "high": other}, "low")


def test_correlations_are_compared_too() -> None:
    scores = [float(i % 7) for i in range(60)]
    seeds = {"seed": [0] * 60, "text_id": [str(i) for i in range(60)], "score": scores}
    good, bad = (
        pl.DataFrame({**seeds, "prediction": values}) for values in (scores, [float(i % 5) for i in range(60)])
    )
    row = compared({"bad": bad, "good": good}, "bad").row(0, named=True)
    assert row["better"]
    assert row["difference_points"] > 50


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Two models and one task; on 'small' weighted is chosen and best a tie, on 'large' cayley wins."""
    heads = {
        "small": {"last": 0.6, "best": 0.8, "weighted": 0.81, "cayley": 0.7},
        "large": {"weighted": 0.7, "cayley": 0.9},
    }
    chosen = {"small": "weighted", "large": "cayley"}
    runs = [
        {"model": model, "task": "t", "head": head, "seed": 0, "val_score": score, "test_score": score,
         "parameters": 1234, "train_seconds": 2.0, "chosen": head == chosen[model]}
        for model, of_model in heads.items() for head, score in of_model.items()
    ]  # fmt: skip
    pl.DataFrame(runs).write_csv(tmp_path / "runs.csv")

    def row(model: str, head: str, baseline: str, points: float, better: bool | None) -> dict[str, Any]:
        sure = {"difference_points": points, "low_points": points - 1, "high_points": points + 1, "better": better}
        return {"model": model, "task": "t", "head": head, "baseline": baseline, **sure}

    comparisons = [
        row("small", "weighted", "last", 21.0, True), row("small", "last", "weighted", -21.0, False),
        row("small", "best", "weighted", -1.0, None), row("small", "cayley", "weighted", -11.0, False),
        row("large", "cayley", "weighted", 20.0, True), row("large", "weighted", "cayley", -20.0, False),
        row("large", "words", "cayley", 3.0, True), row("small", "words", "weighted", 3.0, None),
        row("across", "small/weighted", "large/cayley", -9.0, False),
    ]  # fmt: skip
    pl.DataFrame(comparisons).write_csv(tmp_path / "comparisons.csv")
    extraction = {"model": ["small", "large"], "task": ["t", "t"], "seconds": [3.25, 40.0]}
    extraction["tokens_per_second"] = [1234.4, 99.0]
    pl.DataFrame(extraction).write_csv(tmp_path / "extraction.csv")
    return tmp_path


def test_the_page_says_what_the_tables_say(tables: Path) -> None:
    small, large = document(Study(tables), [("small", "t"), ("large", "t"), ("large", "u")]).split("\n## large\n")
    assert "Not run yet: large on u." in small
    assert "Not run yet" not in document(Study(tables), [("small", "t")])
    assert "| `weighted` | **81.0** |" in small
    assert "| `best` | 80.0° |" in small
    assert "| `cayley` | 70.0 |" in small
    assert "| t | `weighted` | 81.0 | +21.0 (+20.0 to +22.0) | `best` |" in small
    assert "- one well-chosen layer (`best`) is enough, as far as these figures show, on: t;" in small
    assert "- it is worse than a weighted sum on: t (-11.0 (-12.0 to -10.0));" in small
    assert "Validation chose the Cayley-Encoder on: none." in small
    assert "- the Cayley-Encoder is better than a weighted sum on: t (+20.0 (+19.0 to +21.0));" in large
    assert "- a weighted sum of layers is enough, as far as these figures show, on: none;" in large
    assert "A control is better than the chosen head on: none." in small
    assert "A control is better than the chosen head on: t (`words` +3.0 (+2.0 to +4.0))." in large
    assert "A control does not differ significantly from it on: t (`words` +3.0 (+2.0 to +4.0))." in small
    assert "| t | `weighted` | 81.0 | `cayley` | 90.0 | -9.0 (-10.0 to -8.0) |" in large
    assert "| extraction |  | 3.2 |\n| its tokens per second |  | 1,234 |" in large
    assert "| `cayley` | 1,234 | 2.0 |" in large


def test_the_page_tells_how_far_heads_get_elsewhere(tables: Path) -> None:
    assert "nothing was trained on" not in document(Study(tables))
    rows = [
        {"model": "small", "task": "t", "data": data, "head": head, "pairs": 1000, "pairs_unseen": 900, "score": score,
         "score_unseen": score - 0.1, "chosen": head == "best", "difference_points": 5.0 if head == "best" else None,
         "low_points": 4.0, "high_points": 6.0, "better": better if head == "best" else None}
        for data, score, better in (("x", 0.5, True), ("y", 0.7, None)) for head in ("best", "raw")
    ]  # fmt: skip
    pl.DataFrame(rows).write_csv(tables / "transfer.csv")
    page = document(Study(tables))
    assert "over\npairs and seeds.\n\nNot run yet: large.\n" in page
    assert "| head | mean | mean, all pairs | x (900 of 1,000) | y (900 of 1,000) |" in page
    assert "| `best` | **50.0** | **60.0** | **40.0** | **60.0** |" in page
    assert "| `raw` | 50.0 | 60.0 | 40.0 | 60.0 |" in page
    said = "better than `raw` on: x (+5.0 (+4.0 to +6.0)); worse on: none; not significantly different on: y (+5.0"
    assert said in page


def test_the_committed_page_is_that_of_the_committed_tables() -> None:
    assert (ROOT / "docs" / "study.md").read_text(encoding="utf-8") == document(Study(RESULTS)), (
        "run: python -m docs.make_study"
    )


def test_rows_of_other_experiments_stay(tmp_path: Path) -> None:
    def table(model: str, scores: list[float]) -> pl.DataFrame:
        return placed(model, "t", pl.DataFrame({"head": ["a"] * len(scores), "score": scores}))

    order, file = [("one", "t"), (ACROSS, "t"), ("two", "t")], tmp_path / "runs.csv"
    write_table(file, [table("two", [0.1, 0.2])], order)
    write_table(file, [table("one", [0.3]), table(ACROSS, [0.4])], order)
    write_table(file, [table("one", [0.5])], order)
    found = pl.read_csv(file)
    assert found["model"].to_list() == ["one", ACROSS, "two", "two"]
    assert found["score"].to_list() == [0.5, 0.4, 0.1, 0.2]
    with pytest.raises(SystemExit, match="no experiment of the study has ended"):
        write_table(tmp_path / "other.csv", [], order)


def test_other_models_stay_in_the_table_of_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is made up here: this is about which rows a run for one model leaves."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(transfer, "ended", lambda repo: {one.name: "HEAD" for one in EXPERIMENTS})
    monkeypatch.setattr(
        transfer, "transferred", lambda one, *rest: placed(one.model, one.task, pl.DataFrame({"head": ["last"]}))
    )
    models = list(dict.fromkeys(one.model for one in EXPERIMENTS))
    for model in reversed(models):
        transfer.collect([one for one in EXPERIMENTS if one.model == model], EXPERIMENTS, Path("/data"), tmp_path)
    found = pl.read_csv(tmp_path / "transfer.csv")
    assert found.rows() == [(model, "stsbenchmark", "last") for model in models]
