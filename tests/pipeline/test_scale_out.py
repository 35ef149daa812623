"""A whole extraction on a real Dask cluster, to a disk and to a real S3 server; training reads it from there."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from pipeline import store
from pipeline.config import ExtractParams
from pipeline.stages.plan import plan
from tests.pipeline.extractions import files_of, params_for, run, slowed_down
from tests.pipeline.test_executor import Processes, processes, slurm  # noqa: F401
from tests.s3 import bucket

pytest.importorskip("moto", reason="needs the extra 'test'")
TEXTS = 160

pytestmark = pytest.mark.slow


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for url in bucket(monkeypatch, "caches"):
        yield f"{url}/news/cache.zarr"


def remote_files(url: str) -> dict[str, bytes]:
    location = store.Location(url)
    return {name: location.get(name) for name, _ in sorted(location.list())}


def kill_one_of_two(cluster: Processes, progress: Callable[[], int]) -> threading.Thread:
    """Starts a scheduler with two slowed-down workers, one of which gets SIGKILL once some shards are done."""
    slow = {"PYTHONPATH": f"{slowed_down(cluster._folder)}{os.pathsep}{Path(__file__).parent.parent.parent}"}
    cluster.scheduler()
    victim, _ = cluster.worker(**slow), cluster.worker(**slow)

    def kill() -> None:
        while progress() < 4:
            time.sleep(0.01)
        victim.kill()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "gpu-cluster.md"


def as_the_guide_says(kind: str, changes: dict[str, str]) -> tuple[list[list[str]], dict[str, Any]]:
    """The `dask` commands and the section `extract` of the guide's part on one kind of cluster, with other addresses.

    As there, `threads` is left to the workers.
    """
    page = GUIDE.read_text(encoding="utf-8")
    for before, after in changes.items():
        assert before in page
        page = page.replace(before, after)
    blocks = re.findall(r"```(sh|yaml)\n(.*?)```", page, re.DOTALL)
    sections = [yaml.safe_load(text)["extract"] for language, text in blocks if language == "yaml"]
    (section,) = [section for section in sections if section["cluster"]["kind"] == kind]
    lines = [line for language, text in blocks if language == "sh" for line in text.splitlines()]
    commands = [re.fullmatch(r"(?:\w+=\S+ )*dask (.*)", line) for line in lines]  # behind environment variables
    return [shlex.split(command[1], comments=True) for command in commands if command], section


def left_to_workers(model: Path, section: dict[str, Any]) -> ExtractParams:
    values = {"model": {"path": str(model)}, "compute_type": "float32", "shard_rows": 8}
    return ExtractParams.model_validate({**values, **section})


def test_a_scheduler_s_address_works_as_the_guide_says(
    tiny_model: Callable[[str], Path],
    texts_table: Callable[..., Path],
    tmp_path: Path,
    processes: Processes,  # noqa: F811
) -> None:
    address = {"tcp://10.0.0.1:8786": processes.address, "--port 8786": f"--port {processes.port}"}
    (scheduler, worker), section = as_the_guide_says("address", address)
    processes.start(*scheduler, "--no-dashboard")
    processes.start(*worker, "--no-dashboard")
    params, texts = left_to_workers(tiny_model("llama"), section), texts_table(TEXTS)
    assert params.threads == 0
    forecast = plan(params, texts)
    assert forecast.calibration.threads >= 1
    assert run(params, texts, tmp_path / "there")["texts_computed"] == TEXTS
    here = params.model_copy(update={"cluster": params_for(Path()).cluster, "threads": forecast.calibration.threads})
    run(here, texts, tmp_path / "here")
    assert files_of(tmp_path / "there" / "cache.zarr") == files_of(tmp_path / "here" / "cache.zarr")


def test_slurm_works_as_the_guide_says(
    tiny_model: Callable[[str], Path],
    texts_table: Callable[..., Path],
    tmp_path: Path,
    slurm: Path,  # noqa: F811
) -> None:
    """As far as a stand-in for its two commands goes: one job in the place of eight, at the loopback interface."""
    _, section = as_the_guide_says("slurm", {"workers: 8": "workers: 1", "queue: gpu": "interface: lo"})
    params, texts = left_to_workers(tiny_model("llama"), section), texts_table(TEXTS)
    figures = run(params, texts, tmp_path / "slurm")
    assert (figures["texts_computed"], len(list(slurm.glob("job-*")))) == (TEXTS, 1)
    assert "--gres=gpu:1" in next(slurm.glob("job-*")).read_text()


def test_a_worker_killed_midway_leaves_the_same_bytes(
    tiny_model: Callable[[str], Path],
    texts_table: Callable[..., Path],
    tmp_path: Path,
    processes: Processes,  # noqa: F811
) -> None:
    llama, texts = tiny_model("llama"), texts_table(TEXTS)
    run(params_for(llama), texts, tmp_path / "serial")
    killer = kill_one_of_two(processes, lambda: len(list((tmp_path / "dask" / "scratch").glob("*/records/*.json"))))
    cluster = {"kind": "address", "address": processes.address}
    figures = run(params_for(llama, cluster=cluster), texts, tmp_path / "dask")
    assert not killer.is_alive(), "the worker was killed while the run went on"
    assert figures["texts_computed"] <= TEXTS
    assert files_of(tmp_path / "dask" / "cache.zarr") == files_of(tmp_path / "serial" / "cache.zarr")


def test_a_cache_in_an_object_store_is_the_same_and_trains_a_head(
    tiny_model: Callable[[str], Path],
    texts_table: Callable[..., Path],
    tmp_path: Path,
    processes: Processes,  # noqa: F811
    s3: str,
) -> None:
    llama, texts = tiny_model("llama"), texts_table(TEXTS)
    run(params_for(llama), texts, tmp_path / "serial")
    killer = kill_one_of_two(
        processes, lambda: sum(1 for _ in store.Location("s3://caches").list("news/cache.zarr.unfinished"))
    )
    params = params_for(llama, cluster={"kind": "address", "address": processes.address})
    others = {"controls": {"names": []}, "lora": {}}
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump({"extract": params.model_dump(mode="json"), "train": TRAIN, **others})
    )
    said = command(tmp_path, "extract", "--texts", str(texts), "--out", s3)
    assert not killer.is_alive(), "the worker was killed while the run went on"
    assert remote_files(s3) == files_of(tmp_path / "serial" / "cache.zarr")
    assert "a-secret" not in said
    assert "every byte as it was written" in command(tmp_path, "verify", s3, params=False)

    examples(texts, tmp_path / "examples.parquet")
    tables = ("--examples", "examples.parquet")
    command(tmp_path, "train", "last", "--cache", s3, *tables)
    assert "last" in command(tmp_path, "evaluate", "--cache", s3, *tables)

    # The finished cache is not overwritten by another one, and is left alone by the same one.
    assert "nothing to compute" in command(tmp_path, "extract", "--texts", str(texts), "--out", s3)
    other = texts_table(TEXTS + 8)
    assert "name another URL with --out" in command(tmp_path, "extract", "--texts", str(other), "--out", s3, code=2)


TRAIN = {
    "heads": ["last"],
    "seeds": 1,
    "device": "cpu",
    "pooling": "mean",
    "recipe": {"epochs": 2},
    "options": {"last": {}},
}


def examples(texts: Path, out: Path) -> None:
    """A task over the texts: odd or even by their checksum."""
    table = pl.read_parquet(texts)
    odd = [int(hashlib.sha256(text.encode()).hexdigest(), 16) % 2 for text in table["text"]]
    split = [("train", "validation", "test")[i % 3] for i in range(len(table))]
    label = [("even", "odd")[i] for i in odd]
    table.select("text_id").with_columns(
        source_row=pl.int_range(pl.len()), label=pl.Series(label), label_index=pl.Series(odd), split=pl.Series(split)
    ).write_parquet(out)


def command(folder: Path, name: str, *arguments: str, code: int = 0, params: bool = True) -> str:
    """What a subcommand of the real command line said."""
    line = [sys.executable, "-m", "ilse.cli", name, *arguments, *(["--params", "params.yaml"] if params else [])]
    result = subprocess.run(line, cwd=folder, capture_output=True, text=True)
    assert result.returncode == code, result.stderr
    return result.stdout + result.stderr
