"""Examples of tokens: in memory, streamed and of pairs, against a loop over texts; and fits on them that were cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trainer.fitting.progress
from ilse.core.errors import UserError
from ilse.core.files.table_files import read_csv
from pipeline.store import TokenSpec, open_cache
from tests.trainer.conftest import DIM, LABELS, LAYERS, Made, of_labels
from tests.trainer.token_task import MAX_TOKENS, write_token_task, write_tokens
from trainer.artifacts.artifact import load_head
from trainer.config import Recipe, TrainParams
from trainer.data.inputs import Inputs
from trainer.data.poolings import TOKENS
from trainer.data.task import Task, open_task
from trainer.fitting.fit import Fit, fit
from trainer.fitting.losses import validate
from trainer.fitting.progress import Progress, State
from trainer.heads import build_head
from trainer.rows.in_memory import Examples
from trainer.rows.ragged import Tokens
from trainer.rows.token_rows import TokenRows, pieces
from trainer.rows.token_shelf import lengths_of
from trainer.rows.token_stream import StreamedTokens, largest_shard
from trainer.stages.evaluate import evaluate
from trainer.stages.train import train
from trainer.treatment import Standardise, TreatmentOptions

EVERY = tuple(range(len(LAYERS)))


@pytest.fixture
def token_task(tmp_path: Path) -> Made:
    return write_token_task(tmp_path)


def task_of(made: Made) -> Task:
    return open_task(open_cache(made.cache), made.examples)


def in_memory(made: Made, split: str = "train", layers: tuple[int, ...] = EVERY) -> TokenRows:
    rows = task_of(made).training_split(split, layers, TOKENS)
    assert isinstance(rows, TokenRows)
    return rows


def streamed(made: Made, split: str = "train", blocks: int = 2, layers: tuple[int, ...] = EVERY) -> StreamedTokens:
    """A split whose blocks have `blocks` shards."""
    task = task_of(made)
    budget = (2 * blocks + 1) * largest_shard(task.cache) * len(layers) * DIM * 4
    rows = task.streamed_split(split, layers, TOKENS, memory_budget=budget)
    assert isinstance(rows, StreamedTokens)
    assert rows.block_shards == blocks
    return rows


def told(made: Made, ids: list[str], layers: tuple[int, ...] = EVERY) -> list[Any]:
    """The tokens of texts, one by one as they were written."""
    return [made.values[text][:, list(layers)] for text in ids]


def one_by_one(x: Tokens) -> list[Any]:
    return [part.numpy() for part in x.values.split(x.lengths.tolist())]


def assert_same(found: list[Any], wanted: list[Any]) -> None:
    assert [len(one) for one in found] == [len(one) for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("way", [in_memory, streamed])
@pytest.mark.parametrize("layers", [EVERY, (2,), (0, 3)])
def test_chunks_are_the_tokens_of_all_examples(
    token_task: Made, way: Callable[..., Examples], layers: tuple[int, ...]
) -> None:
    rows = way(token_task, layers=layers)
    ids = [rows.text_ids[place] for place in rows.order().tolist()]
    found, y = [], []
    for x, targets in rows.chunks(7):
        assert len(targets) <= 7
        found += one_by_one(x)
        y += targets.tolist()
    assert_same(found, told(token_task, ids, layers))
    assert y == rows.y[rows.order()].tolist()


@pytest.mark.parametrize("way", [in_memory, streamed])
@pytest.mark.parametrize("size", [16, 50, 500])
def test_an_epoch_shows_every_example_once(token_task: Made, way: Callable[..., Examples], size: int) -> None:
    rows = way(token_task)
    batches = rows.shuffled(size, 3)
    wanted = sorted(zip(map(len, told(token_task, rows.text_ids)), rows.y.tolist(), strict=True))
    orders = []
    for _ in range(2):
        seen: list[tuple[int, int]] = []
        sums = []
        for x, y in batches:
            assert len(x) == len(y) <= size
            seen += zip(x.lengths.tolist(), y.tolist(), strict=True)
            sums.append(float(x.values.sum()))
        assert sorted(seen) == wanted
        orders.append(sums)
    assert size > len(rows.y) or orders[0] != orders[1]
    again = [float(x.values.sum()) for x, _ in way(token_task).shuffled(size, 3)]
    assert again == orders[0]


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32"])
def test_tokens_are_held_as_stored_and_widened(tmp_path: Path, kind: str) -> None:
    made = write_token_task(tmp_path, storage_type=kind)
    cache, rows = open_cache(made.cache), in_memory(made)
    assert rows.shelf.values.dtype == getattr(torch, kind)
    places = {text: place for place, text in enumerate(cache.text_ids())}
    (x, _), *_ = rows.chunks(1000)
    assert x.values.dtype == torch.float32
    assert_same(one_by_one(x), [cache.token_states(places[text]) for text in rows.text_ids])


@pytest.mark.parametrize("kind", ["float16", "int8", "int4"])
def test_layers_that_a_cache_keeps_are_read(tmp_path: Path, quick: Callable[..., TrainParams], kind: str) -> None:
    kept = (1, 2)
    made = write_token_task(tmp_path, token_states=TokenSpec(tuple(LAYERS[layer] for layer in kept), None, kind))
    cache, rows = open_cache(made.cache), in_memory(made, layers=kept)
    assert rows.shelf.values.dtype == getattr(torch, "int8" if kind == "int4" else kind)
    places = {text: place for place, text in enumerate(cache.text_ids())}
    wanted = {text: cache.token_states(places[text]) for text in rows.text_ids}
    (x, _), *_ = rows.chunks(1000)
    assert_same(one_by_one(x), [wanted[text] for text in rows.text_ids])
    by_blocks = task_of(made).streamed_split("train", kept, TOKENS, memory_budget=20_000)
    found = [one for x, _ in by_blocks.chunks(1000) for one in one_by_one(x)]
    assert_same(found, [wanted[by_blocks.text_ids[place]] for place in by_blocks.order().tolist()])
    params = quick(seeds=1, options={"best": {"tokens": {"rank": 4}}})
    train(params, "best", made.cache, made.examples, tmp_path / "models", tmp_path / "results")
    loaded = load_head(tmp_path / "models" / "best" / "seed-0")
    assert loaded.head.layers_read[0] in kept
    evaluate(["best"], made.cache, made.examples, tmp_path / "models", tmp_path / "results")
    layers = read_csv(tmp_path / "results" / "layers.csv")
    assert (layers["layer"].to_list(), layers["name"].to_list()) == ([1, 2], [LAYERS[layer] for layer in kept])
    last = quick(seeds=1, options={"last": {"tokens": {}}})
    with pytest.raises(UserError, match="layers whose token states are read: 1, 2"):
        train(last, "last", made.cache, made.examples, tmp_path / "models", tmp_path / "results")
    named = quick(seeds=1, options={"mean": {"tokens": {"layers": [0, 1]}}})
    with pytest.raises(UserError, match="layers whose token states the cache keeps: 1, 2"):
        train(named, "mean", made.cache, made.examples, tmp_path / "models", tmp_path / "results")


@pytest.mark.parametrize("way", [in_memory, streamed])
def test_statistics_are_over_tokens(token_task: Made, way: Callable[..., Any]) -> None:
    params = TrainParams.model_validate({"memory_budget": None if way is in_memory else streamed_budget(token_task)})
    treatment, train_rows, validation = Inputs(task_of(token_task), params, TreatmentOptions(), EVERY, TOKENS).of_seed(
        0
    )
    every = torch.from_numpy(np.concatenate(told(token_task, train_rows.text_ids)))
    assert isinstance(train_rows, TokenRows if way is in_memory else StreamedTokens)
    wanted = Standardise(len(LAYERS), DIM).fit(every)
    torch.testing.assert_close(treatment.standardise.mean, wanted.mean)
    torch.testing.assert_close(treatment.standardise.scale, wanted.scale)
    (x, _), *_ = validation.chunks(1)
    (raw,) = told(token_task, [validation.text_ids[int(validation.order()[0])]])
    torch.testing.assert_close(x.values, treatment(torch.from_numpy(raw)))


def streamed_budget(made: Made) -> float:
    """GB for blocks of two shards."""
    return 5 * largest_shard(open_cache(made.cache)) * len(LAYERS) * DIM * 4 / 1e9


def test_pairs_have_both_texts_one_after_the_other(tmp_path: Path) -> None:
    made = write_token_task(tmp_path, pairs=True)
    rows = in_memory(made)
    pairs = made.table.filter(made.table["split"] == "train").select("text_id", "pair_text_id").rows()
    (x, y), *_ = rows.chunks(1000)
    assert len(x) == 2 * len(y)
    assert_same(one_by_one(x), told(made, [text for pair in pairs for text in pair]))
    x, y = rows.batch(torch.tensor([5, 2]))
    assert_same(one_by_one(x), told(made, [*pairs[5], *pairs[2]]))


def test_long_texts_make_small_pieces() -> None:
    lengths = torch.tensor([3, 3, 3, 9, 1, 1, 1, 20])
    found = [(piece.start, piece.stop) for piece in pieces(lengths, 2, 8)]
    assert found == [(0, 2), (2, 3), (3, 4), (4, 6), (6, 7), (7, 8)]


def test_some_examples_stay_on_the_same_shelf(token_task: Made) -> None:
    for rows in (in_memory(token_task), streamed(token_task)):
        taken = rows.take(torch.tensor([4, 1]))
        (x, y), *_ = taken.chunks(5)
        assert_same(one_by_one(x), told(token_task, [rows.text_ids[4], rows.text_ids[1]]))
        assert y.tolist() == rows.y[[4, 1]].tolist()


def test_validation_by_streaming_equals_memory(token_task: Made) -> None:
    torch.manual_seed(0)
    head = build_head("bottleneck", layers=len(LAYERS), dim=DIM, out=len(LABELS), tokens={"rank": 4})
    found = [validate(head, of_labels(), rows) for rows in (in_memory(token_task), streamed(token_task))]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


def test_a_budget_below_single_shards_is_refused(token_task: Made) -> None:
    with pytest.raises(UserError, match=r"at least .* 3 shards"):
        task_of(token_task).streamed_split("train", EVERY, TOKENS, memory_budget=1000)


def test_balanced_sampling_wants_memory(token_task: Made) -> None:
    assert len(in_memory(token_task).shuffled(16, 0, balanced=True)) == 8
    with pytest.raises(UserError, match="where token states do not fit in memory"):
        streamed(token_task).shuffled(16, 0, balanced=True)


def test_a_text_without_tokens_is_refused(tmp_path: Path) -> None:
    ids = [f"{i:032x}" for i in range(3)]
    texts = [np.ones((n, len(LAYERS), DIM), np.float32) for n in (2, 0, 1)]
    write_tokens(tmp_path / "cache.zarr", ids, texts)
    cache = open_cache(tmp_path / "cache.zarr")
    assert lengths_of(cache, np.array([0, 2])).tolist() == [2, 1]
    with pytest.raises(UserError, match=f"text {ids[1]}"):
        lengths_of(cache, np.array([0, 1, 2]))


class Killed(BaseException):
    """What ends a process here."""


@pytest.mark.parametrize("way", [in_memory, streamed])
@pytest.mark.parametrize("name", ["bottleneck", "best"])
def test_a_resumed_fit_equals_an_uninterrupted_one(
    token_task: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[..., Examples], name: str
) -> None:
    monkeypatch.setattr(trainer.fitting.progress, "SAVE_SECONDS", 0.0)

    def fitted(progress: Progress | None = None) -> Fit:
        torch.manual_seed(3)
        shape: dict[str, Any] = {"layers": len(LAYERS), "dim": DIM, "out": len(LABELS)}
        head = build_head(name, tokens={"rank": 4, "dropout": 0.2}, **shape)
        recipe = Recipe.model_validate({"epochs": 4, "batch_size": 16, "learning_rate": 0.02, "folds": None})
        return fit(head, way(token_task), way(token_task, "validation"), of_labels(), recipe, 3, "cpu", progress)

    whole = fitted()
    offer = Progress.offer

    def killing(self: Progress, state: State, finished: bool) -> None:
        offer(self, state, finished)
        if state.facts["epochs_done"] == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "offer", killing)
        with pytest.raises(Killed):
            fitted(Progress(tmp_path / "fit", "key"))
    resumed = fitted(Progress(tmp_path / "fit", "key"))
    assert resumed.epochs_before == 2
    assert [epoch.val_loss for epoch in resumed.curve] == [epoch.val_loss for epoch in whole.curve]
    for key, value in whole.head.state_dict().items():
        assert torch.equal(resumed.head.state_dict()[key], value)


@pytest.mark.parametrize("pairs", [False, True])
def test_the_stage_trains_by_streaming_or_on_pairs(
    tmp_path: Path, quick: Callable[..., TrainParams], pairs: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    made = write_token_task(tmp_path, pairs=pairs)
    budget = {} if pairs else {"memory_budget": streamed_budget(made)}
    params = quick(seeds=1, options={"bottleneck": {"tokens": {"rank": 4}}}, **budget)
    train(params, "bottleneck", made.cache, made.examples, tmp_path / "models", tmp_path / "results")
    assert ("GB of token states" in capsys.readouterr().err) != pairs
    loaded = load_head(tmp_path / "models" / "bottleneck" / "seed-0")
    rows = task_of(made).unlabelled(loaded.head.layers_read, TOKENS)
    assert sum(len(loaded(x)) for x, _ in rows.chunks(16)) == 40
    assert isinstance(rows, TokenRows)
    assert int(rows.shelf.lengths.max()) <= MAX_TOKENS
