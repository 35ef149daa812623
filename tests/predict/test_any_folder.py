"""A project works in a folder whose name would be a pattern to Polars, a shell or a library, file names included."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml
from click.testing import CliRunner

from ilse.cli import main
from tests.predict.conftest import source

FOLDER = "a [1] *?{x}~ #%20$HOME: 'b' \"ä\n%s{0}\\\\;&"
STAGES = (
    ["prepare"],
    ["plan"],
    ["identify"],
    ["extract"],
    ["verify", "data/cache.zarr"],
    ["train"],
    ["control", "words"],
    ["tune"],
    ["lora"],
    ["analyse"],
    ["evaluate"],
    ["report", "--texts", "data/texts.parquet"],
    ["compare", "a=results", "b=results"],
    ["subset", "data/cache.zarr", "small [2].zarr", "--layers", "0"],
    ["export", "models/mean/seed-0", "--to", "sentence-transformer", "--out", "exported {}"],
    [
        "predict",
        "exported {}/0_HeadModule/head",
        "--model",
        "exported {}/0_HeadModule/model",
        "--input",
        "new [1].csv",
        "--out",
        "%d ä.csv",
    ],
    ["predict", "models/mean/seed-0", "--input", "new [1].csv", "--out", "answers [1].parquet"],
    ["predict", "models/mean/seed-0", "--input", "new [1].parquet", "--out", "answers *.csv", "--delimiter", ";"],
)


@pytest.mark.slow
def test_every_stage_runs_in_a_folder_of_any_name(
    tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    monkeypatch.chdir(folder)
    shutil.copytree(tiny_model("llama"), "model [1]")
    for name, write in {"news [1]": source(), "new [1]": source().head(9)}.items():
        for place, texts in {name: write, name.replace("[1]", "1"): write.with_columns(text=pl.lit("another"))}.items():
            texts.write_csv(folder / f"{place}.csv")
            with Path(f"{place}.parquet").open("wb") as file:
                texts.write_parquet(file)
    params = {
        "prepare": {"path": "news [1].parquet"},
        "extract": {
            "model": {"path": "model [1]"}, "compute_type": "float32", "max_tokens": 10, "batch_tokens": 64,
            "shard_rows": 64, "threads": 1, "cluster": {"kind": "synchronous"},
        },
        "train": {"heads": ["mean"], "seeds": 1, "device": "cpu", "recipe": {"epochs": 2}},
        "controls": {"names": ["words"], "seeds": 1, "grid": [1.0], "caches": {}, "baseline": None, "others": []},
        "analyse": {"heads": ["mean"]},
        "lora": {"epochs": 1},
        "tune": {"trials": 1, "seeds": 1},
    }  # fmt: skip
    Path("params.yaml").write_text(yaml.safe_dump(params))
    for stage in STAGES:
        found = CliRunner().invoke(main, stage)
        assert found.exit_code == 0, (stage, found.output, found.exception)
    assert pl.read_parquet(folder / "data" / "texts.parquet", glob=False).height == source()["text"].n_unique()
    answers = pl.read_parquet(folder / "answers [1].parquet", glob=False)
    assert answers["label"].to_list() == pl.read_csv(folder / "answers *.csv", glob=False)["label"].to_list()
    assert answers["probability"].n_unique() > 1  # of the other file, all texts are the same
