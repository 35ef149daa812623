"""`ilse init`: what a new project's files say, and what is never overwritten."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from ilse.cli import main
from ilse.core.errors import UserError
from ilse.core.params import load_section
from pipeline.config import ExtractParams
from pipeline.stages.prepare import PrepareParams
from pipeline.stages.start import start
from trainer.config import AUTO, TrainParams
from trainer.controls.config import ControlParams
from trainer.heads import HEADS

TEMPLATES = files("pipeline") / "templates"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my.csv").write_text("review,stars\n")
    (tmp_path / "model").mkdir()
    return tmp_path


def written(folder: Path) -> Any:
    return yaml.safe_load((folder / "params.yaml").read_text())


def test_paths_and_columns_are_those_given(folder: Path) -> None:
    columns = {"text_column": "review", "score_column": "stars"}
    assert start(folder, Path("my.csv"), Path("model"), columns) == [
        "params.yaml", "dvc.yaml", ".gitignore", ".dvcignore",
    ]  # fmt: skip
    prepare = load_section("prepare", PrepareParams, folder / "params.yaml")
    assert (prepare.path, prepare.text_column, prepare.score_column) == ("my.csv", "review", "stars")
    assert load_section("extract", ExtractParams, folder / "params.yaml").model.path == Path("model")
    assert set(load_section("train", TrainParams, folder / "params.yaml").heads) <= HEADS.keys()
    assert load_section("controls", ControlParams, folder / "params.yaml").caches == {}
    assert "# CSV, TSV, JSONL or Parquet" in (folder / "params.yaml").read_text(), "comments stay"


@pytest.mark.parametrize(("model", "ignored"), [("model", True), ("../model", False), (None, False)])
def test_git_ignores_a_model_in_the_folder(folder: Path, model: str | None, ignored: bool) -> None:
    (folder / "inner").mkdir()
    start(folder if ignored else folder / "inner", None, Path(model) if model else None)
    (written_to,) = folder.rglob(".gitignore")
    assert ("model\n" in written_to.read_text().replace("/models/", "")) == ignored


def test_without_data_and_model_the_template_is_written(tmp_path: Path) -> None:
    start(tmp_path)
    assert written(tmp_path) == yaml.safe_load((TEMPLATES / "params.yaml").read_text())


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml"])
def test_nothing_is_overwritten(folder: Path, name: str) -> None:
    (folder / name).write_text("mine")
    before = sorted(folder.iterdir())
    with pytest.raises(UserError, match="none yet: 'ilse init' starts a new project") as caught:
        start(folder)
    assert "go to an empty folder" in caught.value.next_step
    assert sorted(folder.iterdir()) == before
    assert (folder / name).read_text() == "mine"


def test_ignored_files_of_ones_own_stay(folder: Path) -> None:
    (folder / ".gitignore").write_text("mine")
    assert ".gitignore" not in start(folder)
    assert (folder / ".gitignore").read_text() == "mine"


@pytest.mark.parametrize(("where", "which"), [("--data", 0), ("model", 1)])
def test_a_path_to_nothing_is_refused(folder: Path, where: str, which: int) -> None:
    paths = [Path("my.csv"), Path("model")]
    paths[which] = Path("nothing")
    with pytest.raises(UserError, match=f"{where} nothing\n"):
        start(folder, *paths)
    assert not (folder / "params.yaml").exists()


def test_the_command_says_what_comes_next(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(main, ["init", "--data", "my.csv", "--label-column", "stars"])
    assert result.exit_code == 0
    assert "wrote params.yaml, dvc.yaml" in result.stdout
    assert "next: set prepare.path and extract.model.path in params.yaml" in result.stderr
    assert "next:" not in result.stdout
    assert written(folder)["prepare"]["label_column"] == "stars"


def test_every_head_has_its_entry() -> None:
    """DVC stops at a stage whose parameter is missing, and a user may name any head."""
    options = yaml.safe_load((TEMPLATES / "params.yaml").read_text())["train"]["options"]
    assert options.keys() == {*HEADS, AUTO}


def test_every_parameter_of_the_stages_is_in_the_template() -> None:
    params = yaml.safe_load((TEMPLATES / "params.yaml").read_text())
    stages = yaml.safe_load((TEMPLATES / "dvc.yaml").read_text())["stages"]
    named = {name for stage in stages.values() for name in stage.get("params", stage.get("do", {}).get("params", []))}
    assert len(named) > 15
    for name in named - {"fetch.${key}", "control_caches.${key}"}:
        section = params
        for key in name.replace(".${item.head}", "").split("."):
            section = section[key]


def test_the_stages_name_no_source_of_the_package() -> None:
    text = (TEMPLATES / "dvc.yaml").read_text()
    assert "ilse train '${item.head}'" in text
    assert ".py" not in text
    assert "trainer/" not in text


def test_a_start_that_was_cut_short_is_done_again(folder: Path) -> None:
    start(folder)
    (folder / "params.yaml").unlink()  # it comes last
    start(folder)
    assert written(folder) == yaml.safe_load((TEMPLATES / "params.yaml").read_text())
    (folder / "params.yaml").unlink()
    (folder / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(UserError, match="none yet"):
        start(folder)


@pytest.mark.parametrize("name", [".gitignore", ".dvcignore", "dvc.yaml"])
def test_a_folder_in_a_files_place_is_refused_before_anything_is_written(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    before = sorted(folder.iterdir())
    with pytest.raises(UserError, match=name):
        start(folder)
    assert sorted(folder.iterdir()) == before
