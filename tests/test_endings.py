"""How commands end that can't go on: on a full disk, by a signal, beside another one. Real disks and real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

for package in ("transformers", "peft", "lightning", "onnxscript"):
    pytest.importorskip(package, reason="needs the extras 'predict', 'lora' and 'export'")

import yaml  # noqa: E402

from ilse.core.errors import UserError  # noqa: E402
from tests.ending import tree  # noqa: E402
from tests.pipeline.conftest import tiny_model  # noqa: E402, F401
from tests.predict.conftest import source  # noqa: E402
from tests.test_cli import AT_A_TERMINAL  # noqa: E402
from trainer.fitting.progress import unfinished  # noqa: E402

ROOT = Path(__file__).parent.parent
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
"""Mounts in it are seen by nobody else, and end with it; no root is needed where the system allows any."""
STAGES = [["prepare"], ["extract"], ["train"], ["control"], ["lora"], ["analyse"], ["evaluate"], ["report"]]
HEAD = "models/last/seed-0"
WRITING: list[tuple[int, list[str]]] = [
    (4096, ["prepare"]),
    (0, ["train", "last"]),
    (0, ["control", "majority"]),
    (0, ["tune", "last"]),
    (16384, ["lora"]),
    (0, ["analyse"]),
    (16384, ["evaluate"]),
    (16384, ["report"]),
    (8192, ["report", "--out", "tiny.html", "--figures", "pictures"]),
    (16384, ["subset", "data/cache.zarr", "small.zarr", "--layers", "0,1"]),
    (0, ["predict", HEAD, "--input", "news.csv", "--out", "out.parquet"]),
    (8192, ["export", HEAD, "--to", "torch", "--out", "exported"]),
    (0, ["export", HEAD, "--to", "onnx", "--out", "exported"]),
    (16384, ["export", HEAD, "--to", "sentence-transformer", "--out", "exported"]),
]
"""Commands, and the bytes that are free when they begin."""


@dataclass(frozen=True)
class Ended:
    arguments: list[str]
    code: int
    said: str
    changed: list[str]


class Commands:
    """Runs commands where `tests.ending` runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def __call__(self, *arguments: str) -> Ended:
        self.tell(json.dumps(arguments))
        return Ended(*json.loads(self.heard()))

    def heard(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip()


def a_small_disk_can_be_had(place: Path) -> bool:
    tried = subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", str(place)], capture_output=True, check=False)
    return tried.returncode == 0


@contextmanager
def commands(project: Path, disk: Path | None, size: str = "16m") -> Iterator[Commands]:
    where = [str(project), str(disk or ""), size]
    command = [*(NAMESPACE if disk else []), sys.executable, "-m", "tests.ending", *where]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        ilse = Commands(process)
        assert ilse.heard() == "ready"
        yield ilse
        assert process.stdin is not None
        process.stdin.close()


@dataclass(frozen=True)
class Project:
    """Where every stage has run: on a disk that no other process sees, if one can be had, and a copy."""

    ilse: Commands
    on_a_small_disk: bool
    folder: Path


@pytest.fixture(scope="module")
def made(
    tiny_model: Callable[[str], Path],  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("project")
    source().write_csv(folder / "news.csv")
    params: dict[str, Any] = {
        "prepare": {"path": "news.csv"},
        "extract": {
            "model": {"path": str(tiny_model("llama"))}, "compute_type": "float32", "max_tokens": 10,
            "batch_tokens": 64, "shard_rows": 64, "threads": 1, "cluster": {"kind": "synchronous"},
        },
        "train": {"heads": ["last", "mean"], "seeds": 1, "device": "cpu", "embedding": 6,
                  "recipe": {"epochs": 1, "compute_type": "float32", "optimizer": "adamw", "folds": None}},
        "controls": {"names": ["majority"], "seeds": 1},
        "lora": {"seeds": 1, "epochs": 1, "compute_type": "float32", "run": ["lora"]},
        "tune": {"trials": 2, "seeds": 1, "storage": "sqlite:///data/tune.db"},
    }  # fmt: skip
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    disk = tmp_path_factory.mktemp("disk")
    small = a_small_disk_can_be_had(disk)
    with commands(folder, disk if small else None) as ilse:
        for stage in STAGES:
            ended = ilse(*stage)
            assert ended.code == 0, ended
        ilse.tell("copy")
        assert ilse.heard() == "copied"
        yield Project(ilse, small, folder)


@pytest.fixture
def project(made: Project) -> Path:
    return made.folder


@pytest.mark.slow
def test_a_full_disk_is_one_message_and_leaves_all_as_it_was(made: Project) -> None:
    if not made.on_a_small_disk:
        pytest.skip("no disk can be mounted here, not even for one process")
    ilse = made.ilse
    for left, arguments in WRITING:
        ilse.tell(f"fill {left}")
        ended = ilse(*arguments)
        ilse.tell("free")
        assert ended.code == 2, ended
        assert ended.said.count("error: writing ") == 1, ended
        assert "No space left on device" in ended.said
        assert "Traceback" not in ended.said
        assert set(ended.changed) <= {"data/tune.db", "data/tune.db.lock"}, ended
    assert ilse("evaluate").code == 0


MANY = 100_000
"""Epochs: a training that does not end by itself."""


def started(project: Path, *arguments: str) -> subprocess.Popen[str]:
    code = f"{AT_A_TERMINAL}\nfrom ilse.cli import main\nmain({arguments!r}, prog_name='ilse')"
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def wait_for(found: Callable[[], object], process: subprocess.Popen[str]) -> None:
    while not found():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.fixture
def endless(project: Path) -> Iterator[Path]:
    """The project, with a training that does not end by itself."""
    params = project / "params.yaml"
    before = params.read_text()
    changed = yaml.safe_load(before)
    changed["train"]["recipe"]["epochs"] = MANY
    params.write_text(yaml.safe_dump(changed))
    yield project
    params.write_text(before)


@pytest.mark.slow
def test_a_training_that_is_ended_leaves_its_old_head_and_nothing_half_made(endless: Path) -> None:
    models = endless / "models"
    before = tree(models / "last")
    with started(endless, "train", "last") as process:
        wait_for(lambda: list(models.glob(".last.*.partial")), process)
        with pytest.raises(UserError, match=f"process {process.pid}, since"), unfinished(models, "last"):
            pytest.fail("two train one head")
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "ended by SIGTERM" in said
    assert "Traceback" not in said
    assert not list(models.glob(".*.partial"))
    assert tree(models / "last") == before


@pytest.mark.slow
def test_an_extraction_that_is_ended_takes_its_workers_along(project: Path, tmp_path: Path) -> None:
    import psutil

    params = yaml.safe_load((project / "params.yaml").read_text())
    params["extract"]["cluster"] = {"kind": "local", "workers": 1}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    texts = str(project / "data" / "texts.parquet")
    with started(tmp_path, "extract", "--texts", texts) as process:
        wait_for(lambda: len(psutil.Process(process.pid).children(recursive=True)) > 1, process)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGHUP)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + signal.SIGHUP, said
    assert "ended by SIGHUP" in said
    assert "Traceback" not in said
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert not (tmp_path / "data" / "cache.zarr").exists()
