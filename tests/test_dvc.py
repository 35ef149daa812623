"""The stages under DVC as its users work with it: a real repository, real `dvc` commands, a tiny model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import polars as pl
import pytest
import yaml

ROOT = Path(__file__).parent.parent
pytest.importorskip("dvc", reason="needs the extra 'dvc'")
pytest.importorskip("transformers", reason="needs the extra 'extract'")

from ilse.warm import LARGE, PROGRAMS, warm_programs  # noqa: E402
from tests.pipeline.conftest import sentence, tiny_model  # noqa: E402, F401
from tests.pipeline.extractions import files_of  # noqa: E402
from tests.s3 import bucket  # noqa: E402
from tests.trainer.conftest import write_task  # noqa: E402
from tests.without import ONLY_TO_EXTRACT, predictions_without, site_without  # noqa: E402

PARAMS = {
    "prepare": {"path": "news.csv", "splits": {"train": 0.5, "validation": 0.25, "test": 0.25}},
    "extract": {
        "poolings": ["mean"],
        "compute_type": "float32",
        "max_tokens": 16,
        "shard_rows": 32,
        "threads": 1,
        "cluster": {"kind": "synchronous"},
    },
    "train": {
        "heads": ["last", "best"],
        "seeds": 1,
        "objective": "auto",
        "embedding": 256,
        "learning_rates": None,
        "shots": None,
        "share": None,
        "caches": None,
        "joined_width": None,
        "device": "cpu",
        "pooling": "mean",
        "recipe": {"epochs": 2},
        "options": {"last": {}, "best": {}},
    },
    "controls": {
        "names": ["majority"],
        "seeds": 1,
        "grid": [0.1, 1.0],
        "caches": {"untrained": "data/controls/untrained.zarr"},
        "baseline": None,
        "others": [],
    },
    "lora": {"run": []},
}
ONE_HEAD = {
    "train": {**PARAMS["train"], "heads": ["last"]},
    "controls": {**PARAMS["controls"], "names": [], "caches": {}},
    "control_caches": {},
}


INSTALLED = Path(sys.executable).parent
"""Where the console scripts lie."""


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same programs, which start at once; a colleague without some packages starts those that are installed."""
    dvc = ("dvc.cli.parser", "dvc.repo", "dvc.repo.experiments", "dvc.stage")
    folder, programs = tmp_path_factory.mktemp("warm"), {**PROGRAMS, "dvc": "dvc.cli"}
    with warm_programs(folder, programs, (*LARGE, *dvc), wait=True) as found:
        yield found or INSTALLED


class Project:
    """A git and DVC repository with the project's own stages and code."""

    def __init__(self, folder: Path, hidden: Sequence[str] = (), programs: Path = INSTALLED) -> None:
        self.folder, self.programs = folder, programs
        hiding = [site_without(hidden, folder)] if hidden else []
        self.sources = os.pathsep.join(str(path) for path in (*hiding, folder))

    def done(self, *command: str) -> subprocess.CompletedProcess[str]:
        """The command when it has ended. Python keeps what it compiles, as mostly."""
        path = os.pathsep.join([str(self.programs), str(INSTALLED), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "PYTHONPATH": self.sources, "DVC_NO_ANALYTICS": "1"}
        for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"):
            environment.pop(name, None)
        program = shutil.which(command[0], path=path)
        assert program
        return subprocess.run((program, *command[1:]), cwd=self.folder, env=environment, capture_output=True, text=True)

    def run(self, *command: str) -> str:
        """What the command printed; it must succeed."""
        result = self.done(*command)
        assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
        return result.stdout + result.stderr

    def set(self, section: str, key: str, value: object) -> None:
        """Changes one parameter in the file, as a person would."""
        path = self.folder / "params.yaml"
        document = yaml.safe_load(path.read_text())
        document[section][key] = value
        path.write_text(yaml.safe_dump(document))

    def commit(self, message: str) -> None:
        """Commits everything that git does not ignore."""
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", message)


def write_texts(path: Path, count: int) -> None:
    lines = [f'"{sentence(i)} {" ".join(str(i))}",{"even" if i % 2 == 0 else "odd"}' for i in range(count)]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")


def new_project(folder: Path, model: Path, programs: Path = INSTALLED, **sections: object) -> Project:
    """A repository with the stages, the sources and these sections of the parameter file."""
    for package in ("ilse", "pipeline", "trainer"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    fetch = {"model": {"kind": "path", "path": str(model)}}
    (folder / "params.yaml").write_text(yaml.safe_dump({**PARAMS, "fetch": fetch, **sections}))
    project = Project(folder, programs=programs)
    project.run("git", "init", "-q")
    project.run("dvc", "init", "-q")
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots")
    return project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path], warm: Path) -> Project:  # noqa: F811
    folder = tmp_path_factory.mktemp("project")
    write_texts(folder / "news.csv", 120)
    extract = {**PARAMS["extract"], "model": {"path": "data/raw/model"}}
    caches = {"untrained": {**extract, "model": {"path": "data/raw/model", "untrained": 0}}}
    return new_project(folder, tiny_model("llama"), warm, extract=extract, control_caches=caches)


@pytest.mark.slow
def test_the_stages_under_dvc(project: Project) -> None:
    """One story, because each step starts from the state that the step before left."""
    first = project.run("dvc", "repro")
    assert "Running stage 'extract'" in first
    assert (project.folder / "results" / "report.html").is_file()
    project.commit("first result")
    assert project.run("git", "status", "--porcelain") == "", "DVC's outputs are ignored by git"

    assert list((project.folder / "pipeline" / "store").glob("__pycache__/*.pyc"))
    assert "Data and pipelines are up to date" in project.run("dvc", "repro"), "compiled files are no change"

    runs = (project.folder / "results" / "runs.csv").read_text()
    assert "\nmajority,0," in runs
    assert "\nuntrained,0," in runs

    project.set("train", "options", {"last": {}, "best": {"layer": 1}})
    project.set("controls", "caches", {})
    one = project.run("dvc", "repro")
    assert "Running stage 'train@best'" in one
    assert "Running stage 'train@last'" not in one
    assert "Running stage 'control@majority'" not in one
    assert "untrained" not in (project.folder / "results" / "leaderboard.csv").read_text()

    project.commit("a layer named")
    again = project.run("dvc", "exp", "run", "-S", "train.seeds=2", "-n", "two")
    assert "Running stage 'train@last'" in again
    assert "Running stage 'extract'" not in again
    assert "Running stage 'prepare'" not in again
    shown = project.run("dvc", "exp", "show", "--csv")
    assert "two" in shown
    runs = (project.folder / "results" / "runs.csv").read_text().strip().split("\n")
    assert len(runs) == 1 + 2 * 2 + 1

    difference = json.loads(project.run("dvc", "metrics", "diff", "--json"))
    assert list(difference) == ["results/scores.json"]
    assert difference["results/scores.json"]["seeds"] == {"old": 1, "new": 2, "diff": 1}
    project.run("dvc", "plots", "show", "--out", "plots")
    assert "val_score" in (project.folder / "plots" / "index.html").read_text()

    project.set("train", "seeds", 1)
    restored = project.run("dvc", "repro", "train@last")
    assert "Running stage" not in restored, "the run-cache gives the earlier result back"

    write_texts(project.folder / "news.csv", 130)
    changed = project.run("dvc", "repro", "train@last")
    assert "Running stage 'extract'" in changed
    assert "Running stage 'train@last'" in changed
    figures = json.loads((project.folder / "data" / "extract.json").read_text())
    assert (figures["texts"], figures["texts_computed"], figures["texts_reused"]) == (130, 10, 120)

    for limit, runs in ((8, True), (16, False)):
        project.set("extract", "max_tokens", limit)
        said = project.run("dvc", "repro", "extract")
        assert ("Running stage 'extract'" in said) == runs, "the run-cache gives an earlier extraction back"


FROM_THE_CACHE = ("dvc", "repro", "--pull", "--downstream", "train", "control", "control_on")
"""What README and `dvc.yaml` tell those who have no model."""
SHARD_ROWS = 256
ROW_BYTES = 4 * 32 * 4
"""Of a text: the tiny model's layers × its width × float32."""


def write_files(folder: Path, first: int, last: int) -> None:
    """Texts as files, by label: in the order of their names, new ones come into the middle."""
    for i in range(first, last):
        place = folder / ("even" if i % 2 == 0 else "odd")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:04}.txt").write_text(f"{sentence(i)} {' '.join(str(i))}")


def bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.slow
def test_two_versions_of_a_data_set(tmp_path: Path, tiny_model: Callable[[str], Path], warm: Path) -> None:  # noqa: F811
    """One story too: 600 texts, 200 more, back again, and a colleague who pulls them and has no model."""
    here, remote, there = tmp_path / "here", tmp_path / "remote", tmp_path / "there"
    write_files(here / "news", 0, 600)
    model = shutil.copytree(tiny_model("llama"), tmp_path / "model")
    extract = {**PARAMS["extract"], "model": {"path": str(model)}}
    extract |= {"shard_rows": SHARD_ROWS, "storage_type": "float32"}
    prepare = {**PARAMS["prepare"], "path": "news", "format": "folder"}
    project = new_project(here, model, warm, prepare=prepare, extract=extract, **ONE_HEAD, fetch={})
    project.run("dvc", "remote", "add", "-d", "disk", str(remote))
    project.run("dvc", "repro", "extract")
    project.commit("v1")
    project.run("git", "tag", "v1")
    project.run("dvc", "push", "-q")
    first, old = files_of(here / "data" / "cache.zarr"), pl.read_parquet(here / "data" / "examples.parquet")
    pushed = bytes_in(remote)

    write_files(here / "news", 600, 800)
    project.run("dvc", "repro", "extract")
    figures = json.loads((here / "data" / "extract.json").read_text())
    assert (figures["texts_computed"], figures["texts_reused"]) == (200, 600)
    splits = old.join(pl.read_parquet(here / "data" / "examples.parquet"), on="text_id", how="left")
    assert splits["split"].equals(splits["split_right"]), "no old example changes its split"
    project.commit("v2")
    project.run("git", "tag", "v2")
    project.run("dvc", "push", "-q", "extract")
    assert bytes_in(remote) - pushed <= 200 * ROW_BYTES + 2 * SHARD_ROWS * ROW_BYTES
    project.run("dvc", "push", "-q")
    second = files_of(here / "data" / "cache.zarr")

    project.run("git", "checkout", "-q", "v1")
    project.run("dvc", "checkout", "--allow-missing")
    assert files_of(here / "data" / "cache.zarr") == first
    project.run("git", "checkout", "-q", "v2")
    project.run("dvc", "checkout", "--allow-missing")
    assert files_of(here / "data" / "cache.zarr") == second

    model.rename(tmp_path / "elsewhere")
    project.run("git", "clone", "-q", str(here), str(there))
    colleague = Project(there, ONLY_TO_EXTRACT)
    colleague.run(*FROM_THE_CACHE)
    assert "\nlast," in (there / "results" / "runs.csv").read_text()
    assert (there / "results" / "report.html").is_file()

    tables = {name: (there / "data" / name).read_bytes() for name in ("texts.parquet", "examples.parquet")}
    for words, stage in ((("extract",), "identify"), (("--force", "report"), "identify"), (("prepare",), "prepare")):
        if stage == "prepare":
            shutil.rmtree(there / "news")
        ended = colleague.done("dvc", "repro", *words)
        assert ended.returncode
        assert f"failed to reproduce '{stage}'" in ended.stderr
        assert files_of(there / "data" / "cache.zarr") == second
        assert {name: (there / "data" / name).read_bytes() for name in tables} == tables
    assert colleague.done("dvc", "repro", "--force", "--single-item", "extract").returncode
    colleague.run("dvc", "checkout", "data/cache.zarr")
    assert files_of(there / "data" / "cache.zarr") == second, "who insists has it back from DVC's own store"


@pytest.mark.parametrize("page", ["README.md", "dvc.yaml", "docs/versioning.md", "pipeline/templates/dvc.yaml"])
def test_the_command_for_those_without_the_model_is_the_one_that_is_told(page: str) -> None:
    assert " ".join(FROM_THE_CACHE) in (ROOT / page).read_text(encoding="utf-8")


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for package in ("dvc_s3", "moto"):
        pytest.importorskip(package, reason="needs the extra 'test'")
    for found in bucket(monkeypatch, "ours"):
        yield f"{found}/dvc"


@pytest.mark.slow
def test_a_cache_pulled_from_a_bucket(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: Path) -> None:
    """A clone that knows the bucket by the repository alone; files stand where the stages would have written them."""
    here, there = tmp_path / "here", tmp_path / "there"
    project = new_project(here, here, warm, extract={"model": {"path": "params.yaml"}}, **ONE_HEAD)
    made = write_task(here / "data")
    for name in ("news.csv", "data/texts.parquet", "data/prepare.json", "data/model.json", "data/extract.json"):
        (here / name).write_text("{}")
    project.run("dvc", "commit", "-q", "-f", "prepare", "extract")
    project.run("dvc", "remote", "add", "-d", "bucket", url)
    project.run("dvc", "remote", "modify", "bucket", "endpointurl", os.environ["AWS_ENDPOINT_URL"])
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    project.commit("a cache")
    project.run("dvc", "push", "-q", "prepare", "extract")

    project.run("git", "clone", "-q", str(here), str(there))
    pulled = there / "data" / "cache.zarr", there / "data" / "examples.parquet"
    assert not any(path.exists() for path in pulled)
    Project(there, ONLY_TO_EXTRACT).run("dvc", "pull", "-q", *(str(path.relative_to(there)) for path in pulled))
    data = {"pulled": pulled, "original": (made.cache, made.examples)}
    predictions = predictions_without(ONLY_TO_EXTRACT, there, data)
    assert predictions["pulled"]
    assert predictions["pulled"] == predictions["original"]


def test_what_dvc_says_of_a_bucket_stands_in_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials, and without the package."""
    pytest.importorskip("dvc_s3", reason="needs the extra 'dvc-s3'")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    project = Project(tmp_path)
    project.run("dvc", "init", "-q", "--no-scm")
    project.run("dvc", "remote", "add", "-q", "-d", "bucket", "s3://ours/dvc")
    (tmp_path / "table.csv").write_text("text,label\n")
    project.run("dvc", "add", "-q", "table.csv")
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    for hidden in ((), ("dvc_s3",)):
        ended = Project(tmp_path, hidden).done("dvc", "push")
        said = [line for line in ended.stderr.splitlines() if line.startswith("ERROR: ")]
        assert ended.returncode
        assert said
        assert f"```text\n{said[0]}\n```" in page
