"""Presets: every file fits the parameters' structures, and applying one changes its own values and no others."""

from __future__ import annotations

import gzip
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import yaml
from click.testing import CliRunner
from huggingface_hub import HfApi
from huggingface_hub.utils import filter_repo_objects

from ilse.cli import main
from ilse.core.errors import UserError
from ilse.core.params import load_section, validate
from pipeline.config import ExtractParams
from pipeline.stages.fetch import FetchParams, HubArtifact
from pipeline.stages.prepare import PrepareParams, prepare
from pipeline.stages.presets import apply, presets

ROOT = Path(__file__).parent.parent.parent
CONFIGS = ROOT / "pipeline" / "configs"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TASKS = [name for name in presets() if name.startswith("tasks/")]
MODELS = [name for name in presets() if name.startswith("models/")]
ONLY_TEST = {f"tasks/{name}" for name in ("biosses", "sick-r", "sts12", "sts13", "sts14", "sts15", "sts16")}


@pytest.fixture
def params(tmp_path: Path) -> Path:
    """A copy of the repository's own file."""
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml"))


def values_of(params: Path) -> Any:
    return yaml.safe_load(params.read_text())


def test_every_file_is_a_preset() -> None:
    assert set(presets()) == {str(file.relative_to(CONFIGS).with_suffix("")) for file in CONFIGS.rglob("*.yaml")}
    assert (len(TASKS), len(MODELS)) == (13, 18)
    ends = [name.split("/")[1] for name in presets()]
    assert len(ends) == len(set(ends))


def test_the_files_are_part_of_the_package() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["pipeline"]
    packed = {file for pattern in patterns for file in (ROOT / "pipeline").glob(pattern)}
    assert packed == {
        ROOT / "pipeline" / "py.typed",
        *CONFIGS.rglob("*.yaml"),
        *(ROOT / "pipeline" / "templates").iterdir(),
    }


@pytest.mark.parametrize("name", presets())
def test_a_preset_fits_the_structures(name: str) -> None:
    values = yaml.safe_load(presets()[name].text)
    ((key, artifact),) = values.pop("fetch").items()
    found = validate("fetch", FetchParams, {"revision": COMMIT} | artifact).root
    assert isinstance(found, HubArtifact)
    assert found.repo_type == ("dataset" if name in TASKS else "model")
    assert re.fullmatch(r"[\w-]+", key), "load_section and DVC take a dot in a key for a level"
    if name in TASKS:
        place = validate("prepare", PrepareParams, values.pop("prepare")).path
        path = place["test"] if isinstance(place, dict) else place
    else:
        path = str(validate("extract", ExtractParams, values.pop("extract")).model.path)
    assert path.split("/")[:3] == ["data", "raw", key]
    assert not values
    assert presets()[name].about.endswith(".")


def write_parquet(frame: pl.DataFrame, folder: Path, split: str) -> None:
    frame.write_parquet(folder / f"{split}-00000-of-00001.parquet")


def write_packed(frame: pl.DataFrame, folder: Path, split: str) -> None:
    (folder / f"{split}.jsonl.gz").write_bytes(gzip.compress(frame.write_ndjson().encode()))


@pytest.mark.parametrize("write", [write_parquet, write_packed])
@pytest.mark.parametrize("name", TASKS)
def test_a_task_prepares_a_folder_of_its_columns(
    name: str, write: Callable[[pl.DataFrame, Path, str], None], params: Path, tmp_path: Path
) -> None:
    apply([name], params, place=str(tmp_path / "data"))
    section = load_section("prepare", PrepareParams, params)
    (tmp_path / "data").mkdir()
    given = ("train", "test") if name == "tasks/banking77" else ("train", "validation", "test")
    for split in given:
        rows = {section.text_column: [f"{split} {i}" for i in range(40)]}
        if section.score_column:
            assert section.text_pair_column
            rows |= {section.text_pair_column: [f"of {split} {i}" for i in range(40)]}
            rows |= {section.score_column: [i / 8 for i in range(40)]}
        else:
            rows |= {section.label_column: [i % 11 for i in range(40)]}
        write(pl.DataFrame(rows), tmp_path / "data", split)
    examples = prepare(section, tmp_path / "out")["examples"]
    assert examples["test"] == 40
    if name in ONLY_TEST:
        assert examples["train"] == examples["validation"] == 0
    else:
        assert examples["train"] + examples["validation"] == 40 * (len(given) - 1)
        assert examples["validation"] > 0


@pytest.mark.parametrize("name", ["tasks/mtop_domain", "tasks/mtop_intent"])
def test_one_language_is_fetched(name: str) -> None:
    patterns = presets()[name].artifact["files"]
    there = [f"{language}/{split}.parquet" for language in ("de", "en") for split in ("train", "test")]
    assert list(filter_repo_objects([*there, "README.md"], allow_patterns=patterns)) == there[2:]


def test_a_preset_changes_its_own_values_and_no_others(params: Path) -> None:
    before = values_of(params)
    lines = apply(["tasks/banking77", "models/all-minilm-l6-v2"], params)
    after = values_of(params)
    assert after["fetch"].keys() == {"minilm", "banking77", "all-minilm-l6-v2"}, (
        "what only the old values read has gone"
    )
    assert after["prepare"] == yaml.safe_load(presets()["tasks/banking77"].text)["prepare"]
    assert after["extract"] == before["extract"] | {"model": {"path": "data/raw/all-minilm-l6-v2"}}
    caches = after["control_caches"]
    assert caches["untrained"]["model"] == {"path": "data/raw/all-minilm-l6-v2", "untrained": 0}, "of the same model"
    assert caches["minilm"] == before["control_caches"]["minilm"]
    assert (after["train"], after["tune"]) == (before["train"], before["tune"])
    assert "  extract.model.path: data/raw/model/SmolLM2-135M-Instruct.Q4_1.gguf -> data/raw/all-minilm-l6-v2" in lines
    assert "+ prepare.text_column: text" in lines
    assert "- prepare.fallback_encoding: cp1252" in lines
    assert not any("train." in line.split(":")[0].removeprefix("prepare.splits.") for line in lines)


def test_comments_and_empty_lines_stay(params: Path) -> None:
    text = params.read_text().replace("\nextract:", "\n# about the model\nextract:")
    params.write_text(text)
    apply(["tasks/emotion"], params)
    after = params.read_text()
    # With the comments of what was replaced.
    gone = (
        text[text.index("  texts:") : text.index("  minilm:")],
        text[text.index("\nprepare:") : text.index("\n# about the model")],
    )
    kept = [line for line in text.replace(gone[0], "").replace(gone[1], "").splitlines() if "#" in line]
    assert [line for line in after.splitlines() if "#" in line] == kept
    assert "\n\nprepare:\n  path: data/raw/emotion\n" in after
    assert "  label_column: label\n\n# about the model\nextract:" in after
    assert "shots: null # or so many" in after


def test_applied_twice_it_changes_nothing(params: Path) -> None:
    apply(["tasks/sts12"], params)
    text = params.read_text()
    assert apply(["tasks/sts12"], params) == []
    assert params.read_text() == text


def test_an_artifact_that_is_still_read_stays(params: Path) -> None:
    apply(["tasks/stsbenchmark"], params)
    assert values_of(params)["fetch"].keys() == {"model", "minilm", "stsbenchmark"}


def test_a_file_with_other_sections_alone_gets_its_own(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: { seeds: 2 }\n")
    apply(["tasks/emotion", "models/all-minilm-l6-v2"], tmp_path / "params.yaml")
    assert values_of(tmp_path / "params.yaml").keys() == {"train", "fetch", "prepare", "extract"}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_may_be_a_folder_of_this_machine(name: str, params: Path) -> None:
    apply([name], params, place="/models/here")
    assert str(load_section("extract", ExtractParams, params).model.path) == "/models/here"
    assert "model" not in values_of(params)["fetch"], "no longer read"


def test_a_model_without_a_commit_gets_the_one_that_main_is_at(params: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def repo_info(_: HfApi, repo_id: str, **more: Any) -> SimpleNamespace:
        asked.append((repo_id, more))
        return SimpleNamespace(sha=COMMIT)

    monkeypatch.setattr(HfApi, "repo_info", repo_info)
    apply(["models/pythia-1.4b"], params)
    assert asked == [("EleutherAI/pythia-1.4b", {"repo_type": "model", "revision": "main"})]
    assert values_of(params)["fetch"]["pythia-1_4b"]["revision"] == COMMIT
    assert values_of(params)["extract"]["model"] == {"path": "data/raw/pythia-1_4b"}


def test_a_commit_of_ones_own(params: Path) -> None:
    apply(["tasks/emotion"], params, revision=COMMIT)
    assert values_of(params)["fetch"]["emotion"]["revision"] == COMMIT


def test_a_hub_out_of_reach_is_said_and_nothing_written(params: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def repo_info(*_: Any, **__: Any) -> None:
        raise RuntimeError("no route to host")  # the transport's own error, which is no OSError

    monkeypatch.setattr(HfApi, "repo_info", repo_info)
    text = params.read_text()
    with pytest.raises(UserError, match=r"Hub model EleutherAI/pythia-14m(.|\n)*no route to host(.|\n)*--revision"):
        apply(["tasks/emotion", "models/pythia-14m"], params)
    assert params.read_text() == text


@pytest.mark.parametrize(
    ("names", "more", "message"),
    [
        (["tasks/bankng77"], {}, r"preset tasks/bankng77(.|\n)*did you mean 'tasks/banking77'\?"),
        (["Pythia-1b"], {}, r"did you mean 'models/pythia-1b'\?"),
        (["tasks/xyz"], {}, r"run 'ilse preset' to see all names"),
        (["tasks/sts12"], {"place": "s3://u:p@x/y"}, r"--path\n  expected: a folder of this machine"),
        (["tasks/sts12", "tasks/sts13"], {"place": "x"}, r"one name with --path or --revision\n  found:    2 names"),
        (["tasks/emotion"], {"revision": "main"}, r"section 'fetch\.emotion'(.|\n)*a branch or tag can move"),
    ],
)
def test_what_is_refused_writes_nothing(names: list[str], more: dict[str, str], message: str, params: Path) -> None:
    text = params.read_text()
    with pytest.raises(UserError, match=message):
        apply(names, params, **more)
    assert params.read_text() == text


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        apply(["tasks/emotion"], tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("train: [1,\n")
    with pytest.raises(UserError, match="valid YAML"):
        apply(["tasks/emotion"], tmp_path / "params.yaml")


def test_the_command(params: Path) -> None:
    listed = CliRunner().invoke(main, ["preset"]).stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(presets())
    done = CliRunner().invoke(main, ["preset", "tasks/sts16", "--params", str(params), "--path", "here"])
    assert "+ prepare.path.test: here\n" in done.output
    assert load_section("prepare", PrepareParams, params).path == {"test": "here"}


@pytest.mark.parametrize("name", TASKS)
def test_tasks_are_those_of_mteb(name: str) -> None:
    mteb = pytest.importorskip("mteb", reason="needs the extra 'mteb'")
    preset = presets()[name]
    task, section = mteb.get_task(preset.about.split(":")[0]), preset.values["prepare"]
    found = {"path": preset.artifact["repo_id"], "revision": preset.artifact["revision"]}
    assert found == task.metadata.dataset
    if "score_column" in section:
        assert (section["text_column"], section["text_pair_column"]) == task.column_names
    else:
        assert (section["text_column"], section["label_column"]) == (task.input_column_name, task.label_column_name)
    assert task.metadata.license in preset.text.splitlines()[1]


def test_the_pinned_model_is_that_of_mteb() -> None:
    mteb = pytest.importorskip("mteb", reason="needs the extra 'mteb'")
    (pinned,) = (presets()[name].artifact for name in MODELS if "revision" in presets()[name].artifact)
    assert mteb.get_model_meta(pinned["repo_id"]).revision == pinned["revision"]
