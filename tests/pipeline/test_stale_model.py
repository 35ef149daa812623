"""A model is what its files are now, never what lay under their path when the process last looked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

import pipeline.model.load
import pipeline.stages.extract as stage
from ilse.core.errors import UserError
from pipeline import store
from pipeline.config import ModelParams
from pipeline.model.load import Compute, FrozenModel, load_model
from tests.pipeline.extractions import params_for, read_all, run
from tests.pipeline.test_executor import Processes, processes  # noqa: F401

WEIGHTS = "model.safetensors"


@pytest.fixture
def model(tiny_model: Callable[[str], Path], tmp_path: Path) -> Path:
    """A folder of one's own to write to."""
    return Path(shutil.copytree(tiny_model("llama"), tmp_path / "model"))


def load(folder: Path) -> FrozenModel:
    return load_model(ModelParams(path=folder), Compute("float32", "cpu", 1, 1024, False, "hooks"))


def saved_anew(folder: Path) -> None:
    torch.manual_seed(1)
    AutoModel.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)


def doubled_in_place(folder: Path) -> None:
    """The same file, size and time of the last write: only the system's own time of change tells."""
    file = folder / WEIGHTS
    before = file.stat()
    save_file({name: 2 * value for name, value in load_file(file).items()}, folder / "new", {"format": "pt"})
    with file.open("r+b") as opened:
        opened.write((folder / "new").read_bytes())
    (folder / "new").unlink()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def cut_to_nothing(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, 0)


def with_another_config(folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(file.read_text().replace("1e-06", "1e-03"))


@pytest.mark.parametrize("change", [saved_anew, doubled_in_place, with_another_config])
def test_a_changed_folder_gives_new_rows_under_a_new_name(
    model: Path, texts_table: Callable[..., Path], tmp_path: Path, change: Callable[[Path], None]
) -> None:
    texts, caches = texts_table(20), []
    for name in ("before", "after"):
        held = load(model)  # someone in this process uses it
        run(params_for(model), texts, tmp_path / name)
        caches.append((read_all(tmp_path / name / "cache.zarr"), held.facts.identity))
        change(model)
    (before, old), (after, new) = caches
    assert old != new
    assert store.open_cache(tmp_path / "after" / "cache.zarr").header.capture.model == new
    assert not np.allclose(before, after)


@pytest.mark.parametrize("change", [saved_anew, doubled_in_place, cut_to_nothing, shutil.rmtree])
def test_whoever_holds_a_model_keeps_it_as_it_was(model: Path, change: Callable[[Path], None]) -> None:
    """Its weights are no windows onto the file, which would change with it; a shortened one would end the process."""
    frozen = load(model)
    ids = torch.arange(10)[None]
    before = frozen.model(ids).last_hidden_state
    change(model)
    assert torch.equal(frozen.model(ids).last_hidden_state, before)
    with pytest.raises(UserError, match=r"stay as they are|nothing there"):
        frozen.again()


def test_a_live_worker_notices(
    model: Path,
    texts_table: Callable[..., Path],
    tmp_path: Path,
    processes: Processes,  # noqa: F811
) -> None:
    processes.scheduler()
    processes.worker()
    texts = texts_table(20)
    params = params_for(model, cluster={"kind": "address", "address": processes.address})
    run(params, texts, tmp_path / "before")
    saved_anew(model)
    run(params, texts, tmp_path / "after")
    run(params_for(model), texts, tmp_path / "expected")
    before, after, expected = (read_all(tmp_path / name / "cache.zarr") for name in ("before", "after", "expected"))
    assert np.array_equal(after, expected)
    assert not np.allclose(after, before)
    headers = [store.open_cache(tmp_path / name / "cache.zarr").header for name in ("before", "after", "expected")]
    assert headers[0].capture.model != headers[1].capture.model == headers[2].capture.model


def test_a_model_that_changes_during_a_run_stops_it(
    model: Path, texts_table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = stage.compute_shards

    def after_a_change(job: Any, shards: Any) -> Any:
        saved_anew(model)
        return compute(job, shards)

    monkeypatch.setattr(stage, "compute_shards", after_a_change)
    with pytest.raises(UserError, match=r"files that this run began with(.|\n)*finished shards are kept"):
        run(params_for(model), texts_table(20), tmp_path)
    assert not (tmp_path / "cache.zarr").exists()


def test_a_model_that_changes_while_it_is_read_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = pipeline.model.load._trained

    def and_change(*arguments: Any) -> Any:
        found = read(*arguments)
        saved_anew(model)
        return found

    monkeypatch.setattr(pipeline.model.load, "_trained", and_change)
    with pytest.raises(UserError, match="files that were written meanwhile"):
        load(model)


def test_a_model_is_gone_when_nobody_holds_it(model: Path, texts_table: Callable[..., Path], tmp_path: Path) -> None:
    """Extraction in the caller's process keeps none behind."""
    params = ModelParams(path=model)
    run(params_for(model), texts_table(20), tmp_path)
    compute = Compute("float32", "cpu", 1, 1024, False, "hooks")
    assert pipeline.model.load.in_memory(params, compute) is None
    held = load(model)
    assert load(model) is held is pipeline.model.load.in_memory(params, compute)
