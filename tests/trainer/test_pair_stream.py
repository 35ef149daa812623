"""Pairs that stay in the cache: the examples and answers of those in memory, each once an epoch, within a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ilse.core.errors import UserError
from pipeline.store import TokenSpec, open_cache
from tests.trainer.conftest import LAYERS, Made
from tests.trainer.token_task import write_token_task
from trainer.artifacts.artifact import load_head
from trainer.config import TrainParams
from trainer.data.inputs import Inputs
from trainer.data.poolings import TOKENS, Poolings
from trainer.data.task import InMemory, Task, open_task
from trainer.rows.in_memory import Examples, told_of_all
from trainer.rows.pair_stream import StreamedPairs, grouped, most_needed
from trainer.rows.ragged import Tokens
from trainer.rows.token_stream import largest_shard
from trainer.stages.train import train
from trainer.treatment import TreatmentOptions

LAYERS_READ = (0, 3)
BOTH: list[Poolings] = [("mean", "last"), TOKENS]
KINDS: dict[str, dict[str, Any]] = {
    "float32": {"storage_type": "float32"},
    "float16": {"storage_type": "float16"},
    "int8": {"storage_type": "int8", "token_states": TokenSpec(tuple(LAYERS), None, "int8")},
}


@pytest.fixture
def pairs(tmp_path: Path) -> Made:
    return made(tmp_path)


def made(folder: Path, kind: str = "float32") -> Made:
    return write_token_task(folder, pairs=True, poolings=("mean", "last"), **KINDS[kind])


def task_of(made: Made) -> Task:
    return open_task(open_cache(made.cache), made.examples)


def in_memory(made: Made, poolings: Poolings, split: str = "train") -> InMemory:
    return task_of(made).training_split(split, LAYERS_READ, poolings)


def least_budget(made: Made, poolings: Poolings) -> int:
    """What the error about too small a budget names."""
    with pytest.raises(UserError, match=r"train.memory_budget(.|\n)*7 shards of") as error:
        task_of(made).streamed_split("train", LAYERS_READ, poolings, memory_budget=1000)
    return int(float(error.value.expected.split()[2]) * 1e9 * 1.01)


def streamed(made: Made, poolings: Poolings, times: float = 1.0, split: str = "train") -> StreamedPairs:
    """A split within so many times the least budget."""
    budget = int(times * least_budget(made, poolings))
    rows = task_of(made).streamed_split(split, LAYERS_READ, poolings, memory_budget=budget)
    assert isinstance(rows, StreamedPairs)
    return rows


def one_by_one(x: Tokens | torch.Tensor) -> list[bytes]:
    """Each text's values."""
    parts = x.values.split(x.lengths.tolist()) if isinstance(x, Tokens) else x
    return [part.numpy().tobytes() for part in parts]


def examples(batches: Any) -> list[tuple[bytes, bytes, int]]:
    """Both texts and the target of every example."""
    found = []
    for x, y in batches:
        texts = one_by_one(x)
        assert len(texts) == 2 * len(y)
        found += list(zip(texts[::2], texts[1::2], y.tolist(), strict=True))
    return found


@pytest.mark.parametrize("poolings", BOTH)
@pytest.mark.parametrize("kind", KINDS)
def test_chunks_are_the_pairs_in_memory(tmp_path: Path, kind: str, poolings: Poolings) -> None:
    pairs = made(tmp_path, kind)
    wanted = examples(in_memory(pairs, poolings).chunks(1000))
    for times in (1, 3):
        rows = streamed(pairs, poolings, times)
        for ahead in (False, True)[: 3 - times]:
            chunks = list(replace(rows, ahead=ahead).chunks(7))
            assert all(len(y) <= 7 for _, y in chunks)
            assert examples(chunks) == [wanted[place] for place in rows.order().tolist()]
    assert examples(rows.take(torch.tensor([5, 2])).chunks(9)) == [wanted[5], wanted[2]]
    assert rows.take(torch.tensor([5, 2])).text_ids == [rows.text_ids[5], rows.text_ids[2]]


@pytest.mark.parametrize("poolings", BOTH)
@pytest.mark.parametrize("size", [7, 500])
def test_an_epoch_shows_every_pair_once_in_full_batches(pairs: Made, size: int, poolings: Poolings) -> None:
    wanted, rows = sorted(examples(in_memory(pairs, poolings).chunks(1000))), streamed(pairs, poolings)
    assert len(rows.shards()) > 3 * rows.block_shards
    batches = rows.shuffled(size, 3)
    first, second = list(batches), list(batches)
    for epoch in (first, second):
        assert len(epoch) == len(batches)
        assert {len(y) for _, y in epoch[:-1]} <= {size}
        assert sorted(examples(epoch)) == wanted
    assert examples(first) != examples(second)
    assert examples(replace(rows, ahead=True).shuffled(size, 3)) == examples(first)


@pytest.mark.parametrize("poolings", BOTH)
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_and_what_is_read_beside_them_fit_the_budget(tmp_path: Path, kind: str, poolings: Poolings) -> None:
    pairs = made(tmp_path, kind)
    least, cache = least_budget(pairs, poolings), open_cache(pairs.cache)
    width = cache.token_width if poolings == TOKENS else 2 * cache.dim
    for times in (1, 2, 5):
        rows = streamed(pairs, poolings, times)
        room, whole = rows.room(rows.block_shards), range(0, len(rows.shards()), rows.block_shards)
        taken = room.values.nbytes
        for start in whole:
            block = rows.read(rows.shards()[start : start + rows.block_shards], room)
            held = block.shelf.values if poolings == TOKENS else block.x  # type: ignore[union-attr]
            assert held.data_ptr() == room.values.data_ptr()
            assert held.nbytes <= room.values.nbytes
            if poolings == TOKENS and block.shelf.scales is not None:  # type: ignore[union-attr]
                taken = max(taken, room.values.nbytes + block.shelf.scales.nbytes)  # type: ignore[union-attr]
        shard = largest_shard(cache) if poolings == TOKENS else cache.header.shard_rows
        assert 2 * taken + 3 * shard * len(LAYERS_READ) * width * room.values.itemsize <= times * least


@pytest.mark.parametrize("poolings", BOTH)
def test_statistics_and_treatment_are_those_in_memory(pairs: Made, poolings: Poolings) -> None:
    found = []
    for budget in (None, least_budget(pairs, poolings) / 1e9):
        params = TrainParams.model_validate({"memory_budget": budget})
        inputs = Inputs(task_of(pairs), params, TreatmentOptions(layer_norm=True), LAYERS_READ, poolings)
        treatment, rows, validation = inputs.of_seed(0)
        assert isinstance(rows, StreamedPairs) == (budget is not None)
        found.append((treatment.standardise, by_place(rows), by_place(validation)))
    (one, *of_one), (other, *of_other) = found
    torch.testing.assert_close(one.mean, other.mean)
    torch.testing.assert_close(one.scale, other.scale)
    for mine, theirs in zip(of_one, of_other, strict=True):
        torch.testing.assert_close(mine, theirs)


def by_place(rows: Examples) -> list[torch.Tensor]:
    """The values of each example's texts, in the examples' order."""
    found: dict[int, torch.Tensor] = {}
    places = iter(rows.order().tolist())
    for x, y in rows.chunks(8):
        texts = list(x.values.split(x.lengths.tolist()) if isinstance(x, Tokens) else x.unsqueeze(1))
        found |= {next(places): torch.cat(texts[2 * i : 2 * i + 2]) for i in range(len(y))}
    return [found[place] for place in range(len(found))]


@pytest.mark.parametrize("head", ["mean", "bottleneck"])
def test_a_head_is_trained_and_answers_as_in_memory(
    pairs: Made, tmp_path: Path, head: str, quick: Callable[..., TrainParams], capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"bottleneck": {"tokens": {"rank": 4}}}
    budget = 1.2 * least_budget(pairs, TOKENS if head == "bottleneck" else "mean") * len(LAYERS) / 2 / 1e9
    params = quick(seeds=1, options=options, memory_budget=budget)
    train(params, head, pairs.cache, pairs.examples, tmp_path / "models", tmp_path / "results")
    assert "they are read from the cache every epoch" in capsys.readouterr().err
    trained = load_head(tmp_path / "models" / head / "seed-0")
    poolings = trained.facts.pooling
    assert poolings == (TOKENS if head == "bottleneck" else "mean")
    layers, told = trained.head.layers_read, []
    for rows in (
        task_of(pairs).training_split("train", layers, poolings),
        task_of(pairs).streamed_split("train", layers, poolings, memory_budget=int(1e9 * budget)),
    ):
        told.append(told_of_all(rows, lambda x: trained.objective.predict(trained(x))))
    torch.testing.assert_close(told[0], told[1], rtol=0, atol=1e-6)


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_groups_are_of_one_shard_and_within_the_limit(data: st.DataObject) -> None:
    texts, rows = data.draw(st.integers(2, 30)), data.draw(st.integers(1, 8))
    sizes = np.array(data.draw(st.lists(st.integers(1, 9), min_size=texts, max_size=texts)))
    one = st.tuples(st.integers(0, texts - 1), st.integers(0, texts - 1))
    places = np.array(data.draw(st.lists(one, min_size=1, max_size=40)))
    limit = data.draw(st.integers(18, 60))
    numbers = grouped(places, sizes, rows, limit)
    groups = [places[numbers == number] for number in range(numbers.max() + 1)]
    assert sum(map(len, groups)) == len(places)
    assert all(len(group) for group in groups)
    for group in groups:
        assert len({int(max(pair)) // rows for pair in group}) == 1
    needs = [sum(int(sizes[text]) for text in {*group.ravel().tolist()}) for group in groups]
    assert max(needs) <= limit
    assert most_needed(numbers, places, sizes) == max(needs)
    whole = grouped(places, sizes, rows, 9 * texts)
    assert whole.max() + 1 == len({int(max(pair)) // rows for pair in places}), "nothing is cut that fits"
