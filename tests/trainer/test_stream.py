"""Rows that stay in the cache: the same examples as in memory, every one once an epoch, within a budget."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trainer.stages.train
from ilse.core.errors import UserError
from pipeline.store import Location, open_cache
from pipeline.store.layout import shard_file
from tests.trainer.conftest import DIM, LAYERS, Made, of_labels, write_task
from trainer.artifacts.artifact import load_head
from trainer.config import TrainParams
from trainer.data.memory import memory_budget
from trainer.data.task import open_task
from trainer.fitting.fit import fit
from trainer.fitting.losses import validate
from trainer.heads import build_head
from trainer.rows.stream import StreamedRows, shards_in
from trainer.stages.train import train

SHARD = len(LAYERS) * (16 * DIM + 1) * 4
"""Bytes of a shard of the made-up cache: float32, and a checksum a layer."""


def streamed(made: Made, split: str = "train", blocks: int = 2) -> StreamedRows:
    """A split whose blocks have `blocks` shards."""
    task = open_task(open_cache(made.cache), made.examples)
    budget = (2 * blocks + 1) * SHARD
    return task.streamed_split(split, tuple(range(len(LAYERS))), memory_budget=budget)


def by_row(x: torch.Tensor, y: torch.Tensor) -> list[tuple[list[float], int]]:
    return sorted((row.flatten().tolist(), int(label)) for row, label in zip(x, y, strict=True))


def test_chunks_are_all_examples(made: Made) -> None:
    rows = open_task(open_cache(made.cache), made.examples).training_split("train")
    parts = list(streamed(made).chunks(7))
    assert all(len(y) <= 7 for _, y in parts)
    assert by_row(torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])) == by_row(rows.x, rows.y)


@given(batch_size=st.integers(1, 120), blocks=st.integers(1, 14), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_epoch_shows_every_example_once_in_full_batches(made: Made, batch_size: int, blocks: int, seed: int) -> None:
    source = streamed(made, blocks=blocks)
    assert source.block_shards == blocks
    rows = open_task(open_cache(made.cache), made.examples).training_split("train")
    expected = by_row(rows.x, rows.y)
    batches = source.shuffled(batch_size, seed)
    epochs = [list(batches), list(batches)]
    for epoch in epochs:
        assert len(epoch) == len(batches)
        sizes = [len(y) for _, y in epoch]
        assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
        assert by_row(torch.cat([x for x, _ in epoch]), torch.cat([y for _, y in epoch])) == expected
    for ahead in (False, True):
        again = list(replace(source, ahead=ahead).shuffled(batch_size, seed))
        assert all(torch.equal(one, other) for (one, _), (other, _) in zip(epochs[0], again, strict=True))
    if len(expected) > batch_size > 5:
        assert not torch.equal(epochs[0][0][0], epochs[1][0][0]), "another epoch has another order"


def test_a_block_holds_shards_that_change_from_epoch_to_epoch(made: Made) -> None:
    source = streamed(made, blocks=2)
    batches = source.shuffled(4, seed=0)
    shards = {
        tuple(row.flatten().tolist()): shard
        for shard in source.shards()
        for row in source.read([shard]).batch(slice(None))[0]
    }
    epochs = [[shards[tuple(row.flatten().tolist())] for x, _ in batches for row in x] for _ in range(3)]
    assert len({frozenset(seen[:20]) for seen in epochs}) == 3
    assert all(len(set(seen[:8])) > 1 for seen in epochs), "a block's rows come mixed"


@pytest.mark.parametrize(("ahead", "rooms"), [(False, 1), (True, 2)])
def test_blocks_are_of_much_the_same_size_and_their_memory_is_kept_until_the_end(
    made: Made, ahead: bool, rooms: int
) -> None:
    source = replace(streamed(made, blocks=9), ahead=ahead)
    batches = source.shuffled(16, seed=0)
    for _ in range(2):
        list(batches)
        sizes = [len(room.values) for room in batches._rooms]
        assert sizes == [-(-len(source.shards()) // 2)] * rooms  # and not nine and the rest
    batches.close()
    assert not batches._rooms


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no such hint")
@pytest.mark.parametrize("layers", [(0, 1, 2, 3), (2, 0)])
def test_what_is_read_next_is_announced(made: Made, layers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    source = replace(streamed(made, blocks=1), layers=layers)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _file, start, length, _advice: asked.append((start, length)))
    list(source.shuffled(4, seed=0))
    size = SHARD // len(LAYERS)
    each = [(0, SHARD)] if len(layers) == len(LAYERS) else [(2 * size, size), (0, size)]
    assert asked == each * (len(source.shards()) - 1)


@pytest.mark.parametrize("layers", [(0, 1, 2, 3), (2, 0)])
def test_an_object_store_is_read_ahead_and_gives_the_same_batches(made: Made, layers: tuple[int, ...]) -> None:
    pytest.importorskip("obstore", reason="needs the extra 'remote'")
    local, remote = Location(made.cache), Location(f"memory://{made.cache}")
    for name, _ in local.list():
        remote.put(name, local.get(name))
    one, other = (
        open_task(open_cache(place), made.examples).streamed_split("train", layers, memory_budget=9 * SHARD)
        for place in (local, remote)
    )
    assert (one.ahead, other.ahead) == (False, True)
    for (x, y), (x_far, y_far) in zip(one.shuffled(16, seed=0), other.shuffled(16, seed=0), strict=True):
        assert torch.equal(x, x_far)
        assert torch.equal(y, y_far)


def test_what_goes_wrong_while_reading_ahead_is_told(made: Made) -> None:
    source = replace(streamed(made, blocks=1), ahead=True)
    (made.cache / shard_file("mean", source.shards()[-1])).unlink()
    with pytest.raises(UserError, match="a chunk that is missing"):
        list(source.shuffled(4, seed=0))


def test_training_and_validation_by_streaming_are_as_good(made: Made) -> None:
    task = open_task(open_cache(made.cache), made.examples)
    own = {"epochs": 10, "batch_size": 16, "learning_rate": 0.02, "optimizer": "adamw", "folds": None}
    recipe = TrainParams.model_validate({"recipe": own}).recipe
    scale = 10.0 ** torch.arange(len(LAYERS))[:, None]
    found = []
    for source in ("memory", "stream"):
        torch.manual_seed(0)
        head = build_head("best", layers=len(LAYERS), dim=DIM, out=3)
        if source == "memory":
            parts = [task.training_split(split) for split in ("train", "validation")]
            parts = [type(p)(p.x / scale, p.y, p.text_ids) for p in parts]
        else:
            parts = [streamed(made, split).treated(lambda x: x / scale) for split in ("train", "validation")]
            loss, accuracy = validate(head, of_labels(), parts[1])
            rows = task.training_split("validation")
            expected = validate(head, of_labels(), type(rows)(rows.x / scale, rows.y, rows.text_ids))
            torch.testing.assert_close((loss, accuracy), expected)
        found.append(fit(head, *parts, of_labels(), recipe, 0, "cpu"))
    assert found[1].best.val_score == pytest.approx(found[0].best.val_score, abs=0.1)
    assert found[1].head.layers_read == found[0].head.layers_read


@pytest.mark.parametrize("changes", [{}, {"recipe": {"pca": 4, "whiten": True}}, {"shots": 4}])
def test_the_stage_streams_what_does_not_fit(
    tmp_path: Path, quick: Callable[..., TrainParams], changes: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    made = write_task(tmp_path)
    for budget, place in ((1.0, "memory"), (4 * SHARD / 1e9, "stream")):
        params = quick(memory_budget=budget, seeds=1, **changes)
        train(params, "weighted", made.cache, made.examples, tmp_path / place, tmp_path / "results")
        assert ("read from the cache every epoch" in capfd.readouterr().err) == (place == "stream")
    memory, stream = (load_head(tmp_path / place / "weighted" / "seed-0") for place in ("memory", "stream"))
    x = open_task(open_cache(made.cache), made.examples).training_split("train").x
    torch.testing.assert_close(stream.treatment(x), memory.treatment(x), rtol=1e-3, atol=1e-3)
    assert stream.facts.val_score == pytest.approx(memory.facts.val_score, abs=0.25)


def test_balanced_sampling_wants_memory(made: Made) -> None:
    with pytest.raises(UserError, match=r"imbalance(.|\n)*'weights' or 'none' where rows do not fit in memory"):
        streamed(made).shuffled(8, 0, balanced=True)


def test_a_budget_below_single_shards_is_refused(made: Made, quick: Callable[..., TrainParams]) -> None:
    with pytest.raises(UserError, match=r"train.memory_budget(.|\n)*3 shards(.|\n)*raise it"):
        shards_in(3 * SHARD - 1, open_cache(made.cache), range(len(LAYERS)), "mean")
    assert shards_in(3 * SHARD, open_cache(made.cache), range(len(LAYERS)), "mean") == 1
    folder = made.cache.parent
    with pytest.raises(UserError, match=r"train.memory_budget"):
        train(quick(memory_budget=1e-6), "mean", made.cache, made.examples, folder / "models", folder / "results")
    assert not (folder / "models").exists()


def test_without_a_budget_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Free:
        available = 8_000

    monkeypatch.setattr(trainer.data.memory.psutil, "virtual_memory", lambda: Free)
    monkeypatch.setattr(trainer.data.memory, "container_free", lambda: None)
    assert memory_budget(None) == 4_000
    monkeypatch.setattr(trainer.data.memory, "container_free", lambda: 1_000)
    assert memory_budget(None) == 500
    assert memory_budget(0.5) == 500_000_000
