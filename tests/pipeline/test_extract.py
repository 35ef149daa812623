"""The stage as a whole on a tiny model: the same bytes whatever runs it, and whatever kills it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import pipeline.stages.extract as stage
from ilse.core.errors import UserError
from pipeline import store
from pipeline.capture.reader import Reader
from pipeline.capture.tokens import tokenise
from pipeline.config import ExtractParams
from pipeline.model.load import load_model
from pipeline.stages.extract import compute_of, extract, request_of
from pipeline.work.scratch import Scratch
from pipeline.work.settings import keep_settings
from pipeline.work.shard import prepare_worker
from tests.pipeline.conftest import build_tokenizer, sentence
from tests.pipeline.extractions import TEXTS, files_of, params_for, read_all, run, slowed_down


def test_the_cache_holds_each_text_as_if_computed_alone(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path
) -> None:
    texts = [f"{sentence(i)} {' '.join(str(i))}" for i in range(TEXTS)]
    params = params_for(llama, storage_type="float32")
    figures = run(params, texts_table(TEXTS), tmp_path)
    cache = store.open_cache(tmp_path / "cache.zarr")
    frozen = load_model(params.model, compute_of(params))
    reader = Reader(frozen, request_of(params, frozen.facts))
    tokens = tokenise(build_tokenizer(), texts, cache.text_ids(), "{text}", 10)
    for row in range(TEXTS):
        (batch,) = reader.batches(tokens.take([row]), 64)
        alone = reader.read(batch).pooled["mean"]
        np.testing.assert_allclose(cache.read(slice(row, row + 1)), alone.numpy(), atol=1e-5)
    assert cache.token_counts().tolist() == [len(ids) for ids in tokens.ids]
    assert cache.truncated().tolist() == tokens.truncated
    assert 0 < sum(tokens.truncated) < TEXTS
    assert figures["texts_truncated"] == sum(tokens.truncated)
    assert figures["tokens"] == sum(len(ids) for ids in tokens.ids)
    assert (figures["texts"], figures["texts_computed"], figures["layers"]) == (TEXTS, TEXTS, 4)


def test_dask_workers_write_the_same_bytes(llama: Path, texts_table: Callable[..., Path], tmp_path: Path) -> None:
    texts = texts_table(TEXTS)
    run(params_for(llama), texts, tmp_path / "serial")
    run(params_for(llama, cluster={"kind": "local", "workers": 2}), texts, tmp_path / "dask")
    assert files_of(tmp_path / "serial" / "cache.zarr") == files_of(tmp_path / "dask" / "cache.zarr")


def test_nothing_is_left_in_the_scratch_folder(llama: Path, texts_table: Callable[..., Path], tmp_path: Path) -> None:
    run(params_for(llama), texts_table(TEXTS), tmp_path)
    left = {path.name for path in (tmp_path / "scratch").iterdir()}
    assert left - {"lock", "holder.json"} == {"previous"}


class Stop(Exception):
    """Stands for a crash in the middle of the work."""


def run_until(monkeypatch: pytest.MonkeyPatch, shards: int, params: ExtractParams, texts: Path, folder: Path) -> None:
    """A run that crashes after some shards."""
    original, done = stage.compute_shards, []

    def compute(job: Any, some: tuple[int, ...]) -> Any:
        left = some[: shards - len(done)]
        done.extend(left)
        finished = original(job, left)
        if left != some:
            raise Stop
        return finished

    with monkeypatch.context() as patch:
        patch.setattr(stage, "compute_shards", compute)
        with pytest.raises(Stop):
            run(params, texts, folder)


def test_a_rerun_computes_the_missing_shards_only(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = texts_table(TEXTS)
    run(params_for(llama), texts, tmp_path / "whole")
    run_until(monkeypatch, 3, params_for(llama), texts, tmp_path / "broken")
    assert not (tmp_path / "broken" / "cache.zarr").exists()
    figures = run(params_for(llama), texts, tmp_path / "broken")
    assert figures["texts_computed"] == TEXTS - 3 * 8
    assert files_of(tmp_path / "whole" / "cache.zarr") == files_of(tmp_path / "broken" / "cache.zarr")


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "half-written record"])
def test_a_damaged_shard_is_computed_again(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    texts = texts_table(TEXTS)
    run(params_for(llama), texts, tmp_path / "whole")
    run_until(monkeypatch, 3, params_for(llama), texts, tmp_path / "broken")
    (work,) = (tmp_path / "broken" / "scratch").glob("*-*")
    shard, record = work / "cache.zarr/pooled/mean/c/1/0/0", work / "records/1.json"
    content = bytearray(shard.read_bytes())
    if damage == "truncate":
        shard.write_bytes(content[:100])
    elif damage == "flip":
        content[50] ^= 4
        shard.write_bytes(content)
    elif damage == "remove":
        shard.unlink()
    else:
        record.rename(record.with_suffix(".9.tmp"))
        shard.with_name("0.abc.partial").write_bytes(b"half a shard")
    figures = run(params_for(llama), texts, tmp_path / "broken")
    assert figures["texts_computed"] == TEXTS - 2 * 8
    assert files_of(tmp_path / "whole" / "cache.zarr") == files_of(tmp_path / "broken" / "cache.zarr")


@pytest.mark.parametrize("left", ["a record that is empty", "records of a cache that has moved away"])
def test_what_an_unlucky_moment_leaves_behind_is_no_obstacle(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    texts = texts_table(TEXTS)
    run(params_for(llama), texts, tmp_path / "whole")
    run_until(monkeypatch, 3, params_for(llama), texts, tmp_path / "broken")
    (work,) = (tmp_path / "broken" / "scratch").glob("*-*")
    if left == "a record that is empty":
        (work / "records" / "1.json").write_bytes(b"")
    else:
        shutil.rmtree(work / "cache.zarr")
    figures = run(params_for(llama), texts, tmp_path / "broken")
    assert figures["texts_computed"] == (TEXTS - 16 if "empty" in left else TEXTS)
    assert files_of(tmp_path / "whole" / "cache.zarr") == files_of(tmp_path / "broken" / "cache.zarr")


def test_work_on_other_texts_or_settings_is_not_mistaken_for_this(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_until(monkeypatch, 3, params_for(llama), texts_table(TEXTS), tmp_path)
    # All in the folder that the work is in: elsewhere there would be none to be mistaken.
    assert run(params_for(llama), texts_table(TEXTS - 1), tmp_path)["texts_computed"] == TEXTS - 1
    for other in (
        {"template": "news {text}"},
        {"max_tokens": 5},
        {"storage_type": "float32"},
        {"poolings": ["last"]},
        {"compute_type": "bfloat16"},
    ):
        assert run(params_for(llama, **other), texts_table(TEXTS), tmp_path)["texts_computed"] == TEXTS
    assert run(params_for(llama), texts_table(TEXTS), tmp_path)["texts_computed"] == TEXTS - 24


OTHERWISE = {
    "batch_tokens": ({"batch_tokens": 16}, "batch_tokens 64 (now 16)"),
    "threads": ({"threads": 2}, "threads 1 (now 2)"),
    "capture": ({"capture": "hidden_states"}, "capture hooks (now hidden_states)"),
    "a release of torch": ({}, "torch 0.1 (now "),
}


@pytest.mark.parametrize("way", OTHERWISE)
def test_finished_shards_stay_when_the_rest_is_computed_in_another_way(
    llama: Path,
    texts_table: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    way: str,
) -> None:
    """As the message about memory advises; what is kept is said to be of another kind, once, where it is."""
    texts, (changes, said) = texts_table(TEXTS), OTHERWISE[way]
    run(params_for(llama), texts, tmp_path / "whole")
    with monkeypatch.context() as patch:
        if "torch" in way:
            old = lambda *given: replace(prepare_worker(*given), versions={"torch": "0.1"})  # noqa: E731
            patch.setattr(stage, "prepare_worker", old)
        run_until(monkeypatch, 3, params_for(llama), texts, tmp_path)
    (records,) = tmp_path.glob("scratch/*-*/records")
    kept = [json.loads(file.read_text())["files"] for file in sorted(records.iterdir())]
    capsys.readouterr()
    assert run(params_for(llama, **changes), texts, tmp_path)["texts_computed"] == TEXTS - 3 * 8
    assert len(kept) == 3
    for file, digest in chain.from_iterable(files.items() for files in kept):
        assert hashlib.sha256((tmp_path / "cache.zarr" / file).read_bytes()).hexdigest() == digest
    np.testing.assert_allclose(read_all(tmp_path / "cache.zarr"), read_all(tmp_path / "whole/cache.zarr"), atol=1e-3)
    notes = [line for line in capsys.readouterr().err.splitlines() if "last digits" in line]
    assert [said in note for note in notes] == [True]


def test_a_folder_of_other_things_is_not_replaced(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path
) -> None:
    """The finished cache takes the folder's place: `--out data` once removed the texts and all beside them."""
    texts, params = texts_table(TEXTS), params_for(llama)
    data = tmp_path / "data"
    data.mkdir()
    extract(params, texts, data, tmp_path / "scratch")  # an empty one holds nothing to lose
    extract(params_for(llama, template="news {text}"), texts, data, tmp_path / "scratch")  # nor does another cache
    for file in ("zarr.json", "SHA256SUMS"):
        (data / file).unlink()
    extract(params, texts, data, tmp_path / "scratch")  # nor one that is damaged
    shutil.rmtree(data)
    data.mkdir()
    (data / "mine.csv").write_text("mine")
    with pytest.raises(UserError, match=r"destination .*data(.|\n)*mine.csv(.|\n)*--out"):
        extract(params, texts, data, tmp_path / "scratch")
    assert [file.name for file in data.iterdir()] == ["mine.csv"]


def test_settings_of_shards_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    scratch = Scratch(store.Location(tmp_path / "cache.zarr"), store.Location(tmp_path))
    assert keep_settings(scratch, {"threads": 1, "device": "cpu"}, 0) == []
    assert keep_settings(scratch, {"threads": 2, "device": "cuda"}, 3) == ["device cpu (now cuda)", "threads 1 (now 2)"]
    assert keep_settings(scratch, {"threads": 1, "device": "cpu"}, 3) == ["device cuda (now cpu)", "threads 2 (now 1)"]
    assert keep_settings(scratch, {"threads": 1, "device": "cpu"}, 0) == []
    assert keep_settings(scratch, {"threads": 1, "device": "cpu"}, 3) == []


def test_chosen_layers_and_poolings_are_those_of_the_whole(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path
) -> None:
    poolings = ["mean", "mean_without_first", "last", "max"]
    texts = texts_table(TEXTS)
    run(params_for(llama, poolings=poolings), texts, tmp_path / "all")
    run(params_for(llama, poolings=poolings, layers=["0..1", 2]), texts, tmp_path / "some")
    whole, part = (store.open_cache(tmp_path / name / "cache.zarr") for name in ("all", "some"))
    assert part.layers == whole.layers[:3]
    for pooling in poolings:
        np.testing.assert_array_equal(
            part.read(slice(0, TEXTS), pooling=pooling), whole.read(slice(0, TEXTS), range(3), pooling)
        )
    assert not np.array_equal(whole.read(slice(0, TEXTS)), whole.read(slice(0, TEXTS), pooling="last"))


def test_token_states_are_kept_text_by_text(llama: Path, texts_table: Callable[..., Path], tmp_path: Path) -> None:
    params = params_for(llama, token_states=True, storage_type="float32")
    run(params, texts_table(TEXTS), tmp_path)
    cache = store.open_cache(tmp_path / "cache.zarr")
    for text in (0, 7, 8, TEXTS - 1):
        states = cache.token_states(text)
        assert len(states) == cache.token_counts()[text]
        np.testing.assert_allclose(states.mean(0), cache.read(slice(text, text + 1))[0], atol=1e-5)
    old = cache.token_states(7)
    assert run(params, texts_table(TEXTS + 4), tmp_path)["texts_computed"] == 4
    np.testing.assert_array_equal(store.open_cache(tmp_path / "cache.zarr").token_states(7), old)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["synchronous", "local"])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    """kill -9 of the real command at three moments: after the first shard, midway, and shortly before the end."""
    texts, count = texts_table(240), 30
    document = {"extract": params_for(llama, cluster={"kind": kind}).model_dump(mode="json")}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "ilse.cli", "extract", "--params", "params.yaml", "--texts", str(texts)]
    command += ["--scratch", "scratch", "--figures", "extract.json", "--out"]
    run(params_for(llama), texts, tmp_path)
    kept = []
    for moment in (1, count // 2, count - 3):
        done = kill_when(
            lambda: len(list(tmp_path.glob("scratch/*/records/*.json"))), moment, [*command, "killed.zarr"], tmp_path
        )
        assert not (tmp_path / "killed.zarr").exists()
        kept.append(done)
    assert kept == sorted(kept)
    last = subprocess.run([*command, "killed.zarr"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert f"{kept[-1]} of {count} shards are there from an earlier run" in last.stderr
    assert files_of(tmp_path / "killed.zarr") == files_of(tmp_path / "cache.zarr")


def kill_when(progress: Callable[[], int], moment: int, command: list[str], folder: Path) -> int:
    """Kills the command once `progress` reaches `moment`, and returns the progress that is left on disk."""
    # A worker that sleeps a little between shards: a tiny model would be done before it can be killed.
    slow = {**os.environ, "PYTHONPATH": str(slowed_down(folder))}
    process = subprocess.Popen(command, cwd=folder, env=slow, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while progress() < moment and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # Dask's workers notice that their parent is gone
    return progress()


def test_two_extractions_at_once_are_refused(llama: Path, texts_table: Callable[..., Path], tmp_path: Path) -> None:
    from filelock import FileLock

    (tmp_path / "scratch").mkdir()
    with FileLock(tmp_path / "scratch" / "lock"), pytest.raises(UserError, match="one run at a time"):
        run(params_for(llama), texts_table(8), tmp_path)


def test_missing_and_empty_texts(llama: Path, tmp_path: Path) -> None:
    import polars as pl

    with pytest.raises(UserError, match=r"texts(.|\n)*no such file(.|\n)*ilse prepare"):
        run(params_for(llama), tmp_path / "none.parquet", tmp_path)
    pl.DataFrame({"text_id": [], "text": []}, schema={"text_id": pl.String, "text": pl.String}).write_parquet(
        tmp_path / "empty.parquet"
    )
    with pytest.raises(UserError, match="an empty table"):
        run(params_for(llama), tmp_path / "empty.parquet", tmp_path)


def test_a_missing_or_unreadable_model(texts_table: Callable[..., Path], tmp_path: Path) -> None:
    texts = texts_table(8)
    with pytest.raises(UserError, match=r"model .*nowhere(.|\n)*nothing there"):
        run(params_for(tmp_path / "nowhere"), texts, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="transformers can load"):
        run(params_for(tmp_path / "empty"), texts, tmp_path)


def test_an_error_reads_the_same_when_it_comes_from_a_dask_worker(
    texts_table: Callable[..., Path], tmp_path: Path
) -> None:
    said = []
    for kind in ("synchronous", "local"):
        with pytest.raises(UserError) as caught:
            run(params_for(tmp_path / "nowhere", cluster={"kind": kind}), texts_table(8), tmp_path)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_weights_that_are_a_pickle_are_not_loaded(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(llama, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        run(params_for(folder), texts_table(8), tmp_path)


def test_a_full_disk_is_said_before_the_work(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(UserError, match=r"disk of(.|\n)*GB free for 7 shards"):
        run(params_for(llama), texts_table(TEXTS), tmp_path)


def test_texts_are_cut_at_the_model_s_window(llama: Path, texts_table: Callable[..., Path], tmp_path: Path) -> None:
    figures = run(params_for(llama, max_tokens=1000), texts_table(1, ["film " * 100]), tmp_path)
    assert (figures["tokens"], figures["texts_truncated"]) == (64, 1)


def test_an_overflow_in_float16_names_layer_and_text(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "huge"
    shutil.copytree(llama, folder)
    state = load_file(folder / "model.safetensors")
    state["layers.0.mlp.down_proj.weight"] *= 1e9
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"layer 'block 1', text [0-9a-f]{32}(.|\n)*storage_type to bfloat16"):
        run(params_for(folder), texts_table(TEXTS), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {}}, "either 'path'"),
        ({"model": {"hub": "a/b"}}, "'revision' with 'hub'"),
        ({"model": {"hub": "a/b", "revision": "main"}}, "pattern"),
        ({"template": "no place"}, "place for"),
        ({"shard_rows": 0}, "greater than or equal to 1"),
    ],
)
def test_parameters_are_checked(change: dict[str, Any], message: str) -> None:
    from ilse.core.params import validate

    with pytest.raises(UserError, match=message):
        validate("extract", ExtractParams, {"model": {"path": "x"}, **change})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 160 kB, on which the activations fit and the files around them do not."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk can only be mounted by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_loses_nothing(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path, small_disk: Path
) -> None:
    texts = texts_table(240)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"extract": params_for(llama).model_dump(mode="json")}))
    command = [sys.executable, "-m", "ilse.cli", "extract", "--params", "params.yaml", "--texts", str(texts)]
    command += ["--scratch", str(small_disk / "scratch"), "--out", str(small_disk / "cache.zarr")]
    full = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert full.returncode == 2, full.stderr
    assert "No space left on device" in full.stderr
    assert "run the same command again" in full.stderr
    assert "Traceback" not in full.stderr
    assert not (small_disk / "cache.zarr").exists()
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    again = subprocess.run([*command, "--figures", "again.json"], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "shards are there from an earlier run" in again.stderr
    run(params_for(llama), texts, tmp_path / "whole")
    assert files_of(small_disk / "cache.zarr") == files_of(tmp_path / "whole" / "cache.zarr")
