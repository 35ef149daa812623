"""Heads that read tokens on new texts: the answers that the cache gives, in any company, from the artifact alone."""

from __future__ import annotations

import csv
import io
import json
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from ilse.cli import main
from ilse.core.errors import UserError
from ilse.predict import Predictor, TextPipeline
from pipeline import store
from pipeline.capture.reader import BatchRows
from pipeline.model.architecture import find_blocks
from tests.predict.conftest import Project
from tests.predict.test_predictor import compare
from trainer.artifacts.artifact import BASIS_VERSION, CONFIG, TOKENS_VERSION, WEIGHTS, load_head
from trainer.data.task import open_task
from trainer.rows.ragged import Tokens

Build = Callable[..., Project]
RANKED: dict[str, Any] = {"rank": 8}
KINDS: dict[str, Any] = {
    "whole": True,
    "rank": RANKED,
    "rank of two layers in bfloat16": {"rank": 8, "storage_type": "bfloat16", "layers": [1, -1]},
    "whole states of two layers": {"layers": [0, 2], "storage_type": "float32"},
}
HEADS = ("weighted", "cayley", "exits", "gated", "best")
LONG = "the film wins a new law the cup war art the film wins a new law the cup war art"


def predictor_of(made: Project, head: str = "weighted", **tokens: Any) -> Predictor:
    return made.predictor(head, **options_of(head, **tokens))


def options_of(head: str, **tokens: Any) -> dict[str, Any]:
    return {head: {"tokens": {"rank": 6, **tokens}}}


def probabilities(predictor: Predictor, texts: list[str]) -> np.ndarray[Any, Any]:
    return np.array([list(answer.probabilities.values()) for answer in predictor.predictions(texts)])


def seen(predictor: Predictor, texts: list[str]) -> list[np.ndarray[Any, Any]]:
    """The tokens that the head is shown of each text."""
    found: dict[str, np.ndarray[Any, Any]] = {}

    def make(tokens: Tokens) -> torch.Tensor:
        shown.extend(text.numpy() for text in tokens.values.split(tokens.lengths.tolist()))
        return torch.zeros(len(tokens), len(predictor.trained.head.layers_read), 1)

    for text in texts:
        shown: list[np.ndarray[Any, Any]] = []
        predictor.capture.rows_of_tokens([text], [text], 1, make)
        (found[text],) = shown
    return [found[text] for text in texts]


@pytest.mark.parametrize("model", ["llama", "bert"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_gets_the_answer_that_it_gets_through_the_cache(project: Build, model: str, kind: str) -> None:
    made = project(model=model, token_states=KINDS[kind])
    compare(made, predictor_of(made), "weighted")


@pytest.mark.parametrize("model", ["llama", "bert"])
def test_so_it_is_for_texts_that_are_read_in_windows(project: Build, model: str) -> None:
    made = project(model=model, token_states=RANKED, windows={"tokens": 6, "stride": 2})
    counts = store.open_cache(made.cache).token_counts()
    assert counts.max() > 6
    compare(made, predictor_of(made), "weighted")


@pytest.mark.parametrize("head", HEADS)
def test_so_it_is_for_every_head(project: Build, head: str) -> None:
    made = project(token_states=RANKED, poolings=["mean", "last"])
    predictor = predictor_of(made, head)
    table, texts = made.predicted(head), made.texts()
    found = probabilities(predictor, [texts[text_id] for text_id in table["text_id"]])
    np.testing.assert_allclose(found, table["probabilities"].to_numpy(), atol=1e-3)
    vectors = predictor.embed(list(texts.values()))
    assert vectors.shape == (len(texts), predictor.width)


@pytest.mark.parametrize("pool", ["max", "mean", "attention"])
def test_so_it_is_for_every_pool(project: Build, pool: str) -> None:
    made = project(token_states=RANKED, poolings=["mean", "last"])
    compare(made, predictor_of(made, pool=pool), "weighted")


def test_so_it_is_for_pairs(project: Build) -> None:
    for kind, column in (("pairs with a label", "label"), ("pairs with a score", "score")):
        made = project(kind, token_states=RANKED)
        predictor, table, texts = predictor_of(made), made.predicted("weighted"), made.texts()
        found = predictor.predictions([(texts[a], texts[b]) for a, b in table.select("text_id", "pair_text_id").rows()])
        answers = [p.probability if column == "label" else p.score for p in found]
        wanted = table["probability" if column == "label" else "prediction"]
        np.testing.assert_allclose(answers, wanted, atol=1e-3)
        assert predictor.embed(list(texts.values())).shape == (len(texts), 6)


@pytest.mark.parametrize("model", ["llama", "bert"])
@pytest.mark.parametrize("tokens", [{"storage_type": "int8"}, {"rank": 8, "storage_type": "int8"}])
def test_of_int8_the_steps_are_a_shards_own(project: Build, model: str, tokens: dict[str, Any]) -> None:
    """A new text has no shard: its states are those before rounding, at most half a step from what a shard holds.

    Rounded in the steps of its shard they are the cache's, and so is the answer; unrounded, it differs by 0.002.
    """
    made = project(model=model, token_states=tokens)
    compare(made, predictor_of(made), "weighted", 5e-3)
    rounded_as_the_shard_holds_it(made, 127)


@pytest.mark.parametrize("tokens", [{"storage_type": "int4"}, {"rank": 7, "storage_type": "int4"}])
def test_of_int4_too_and_what_lies_beyond_its_levels_is_cut(project: Build, tokens: dict[str, Any]) -> None:
    rounded_as_the_shard_holds_it(project(token_states=tokens), 7)


def rounded_as_the_shard_holds_it(made: Any, levels: int) -> None:
    """What the predictor makes of the examples' texts is the cache's once it is rounded to so many levels."""
    predictor, cache = predictor_of(made), store.open_cache(made.cache)
    task = open_task(cache, made.folder / "examples.parquet")
    places, texts = {text_id: place for place, text_id in enumerate(cache.text_ids())}, made.texts()
    ids = task.unlabelled_ids()["text_id"].to_list()
    exact = []
    for text_id, found in zip(ids, seen(predictor, [texts[text_id] for text_id in ids]), strict=True):
        shard = cache.shard_tokens(places[text_id] // cache.header.shard_rows)
        assert shard.scales is not None
        kept = cache.token_states(places[text_id])
        assert (np.abs(found.clip(-levels * shard.scales, levels * shard.scales) - kept) <= shard.scales * 0.5001).all()
        rounded = np.rint(found / shard.scales).clip(-levels, levels).astype(np.float32) * shard.scales
        exact.append(rounded == kept)
        with torch.inference_mode():
            asked = [predictor.trained(Tokens(torch.from_numpy(x), torch.tensor([len(x)]))) for x in (rounded, kept)]
        np.testing.assert_allclose(asked[0].softmax(-1), asked[1].softmax(-1), atol=1e-3)
    assert np.concatenate(exact).mean() > 0.999


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_rounded_as_the_cache_rounds(project: Build, kind: str) -> None:
    """Nearly all values are the cache's to the bit."""
    made = project(token_states=KINDS[kind])
    predictor, cache = predictor_of(made), store.open_cache(made.cache)
    texts = list(made.texts().values())[:40]
    found = np.concatenate(seen(predictor, texts))
    kept = np.concatenate([cache.token_states(place) for place in range(len(texts))])
    exact = "float32" in str(KINDS[kind])  # whose last bits differ by the batch
    assert exact or (found == kept).mean() > 0.99
    np.testing.assert_allclose(found, kept, rtol=1e-2, atol=1e-5)


def test_any_company_order_and_number_of_threads_gives_the_same(project: Build) -> None:
    made = project(token_states={"rank": 8, "storage_type": "float32"}, storage_type="float32")
    head = made.trained("weighted", **options_of("weighted"))
    texts = [*made.texts().values(), LONG, "the"]
    alone = None
    for batch_tokens, threads, capture in ((64, 1, "hooks"), (4096, 2, "hooks"), (64, 1, "hidden_states")):
        predictor = Predictor.load(
            head, made.model, device="cpu", threads=threads, batch_tokens=batch_tokens, capture=capture
        )
        if alone is None:
            alone = np.concatenate([probabilities(predictor, [text]) for text in texts])
        np.testing.assert_allclose(probabilities(predictor, texts), alone, atol=1e-5)
        np.testing.assert_allclose(probabilities(predictor, texts[::-1])[::-1], alone, atol=1e-5)
        np.testing.assert_allclose(probabilities(predictor, texts * 3)[: len(texts)], alone, atol=1e-5)
    assert np.ptp(alone, axis=0).max() > 0.05


def test_threads_that_share_a_predictor_get_the_serial_answers(project: Build) -> None:
    made = project(token_states=RANKED)
    predictor, texts = predictor_of(made), list(made.texts().values())
    serial = [predictor.predictions([text])[0] for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: predictor.predictions([text])[0], texts)) == serial
    again = pickle.loads(pickle.dumps(predictor))
    assert [again.predictions([text])[0] for text in texts[:5]] == serial[:5]


def test_a_longer_text_than_any_in_training_is_answered(project: Build) -> None:
    made = project(token_states=RANKED, max_tokens=64)
    predictor = predictor_of(made)
    counts = store.open_cache(made.cache).token_counts()
    (long,) = seen(predictor, [f"{LONG} {LONG}"])
    assert len(long) > 2 * counts.max()
    beside, alone = predictor.predictions([f"{LONG} {LONG}", "the film"])[1], predictor.predictions(["the film"])[0]
    assert beside.label == alone.label
    # Products of other sizes are summed in another order on some processors: the last bit of float32 may differ.
    assert beside.probabilities == pytest.approx(alone.probabilities, rel=1e-6)


def test_a_text_without_tokens_is_refused_by_its_number(project: Build) -> None:
    predictor = predictor_of(project(token_states=RANKED))
    with pytest.raises(UserError, match=r"text 2\n +expected: at least one token\n(.|\n)*leave it out"):
        predictor.predictions(["the film", "the cup", " "])
    assert predictor.predictions([]) == []
    assert predictor.answers([], []) == []
    assert predictor.embed([]).shape == (0, predictor.width)


def test_a_state_that_the_type_cannot_hold_is_refused_by_its_text(project: Build) -> None:
    made = project(token_states=RANKED)
    predictor = predictor_of(made)
    assert predictor.capture._projection is not None
    predictor.capture._projection._directions[2] *= 1e6
    expected = r"layer 'block 2', text text 0, dimension \d\n(.|\n)*float16 can hold(.|\n)*token_states.storage_type to"
    with pytest.raises(UserError, match=expected):
        predictor.predictions(["the film", "the cup"])


def test_only_the_blocks_that_the_head_needs_are_run(project: Build, tmp_path: Path) -> None:
    made = project(token_states=RANKED)
    own = shutil.copytree(made.model, tmp_path / "model")  # which nobody else holds
    head = made.trained("weighted", **options_of("weighted", layers=[0, 1]))
    predictor = Predictor.load(head, own, device="cpu", threads=1)
    blocks = find_blocks(predictor.capture.frozen.model)
    assert [all(weight.is_meta for weight in block.parameters()) for block in blocks] == [False, True, True]
    compare(made, predictor, "weighted")


def test_the_states_of_one_batch_are_in_memory_at_a_time(project: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    made = project(token_states=RANKED)
    predictor, largest = predictor_of(made), []
    reader = predictor.capture._reader

    def counted(*asked: Any) -> Any:
        for positions, found in type(reader).read_all(reader, *asked):
            assert isinstance(found, BatchRows)
            largest.append(sum(map(len, found.tokens or [])))
            yield positions, found

    monkeypatch.setattr(reader, "read_all", counted)
    predictor.predictions(list(made.texts().values()))
    assert len(largest) > 5
    assert max(largest) <= predictor.capture.compute.batch_tokens


def test_vectors_are_those_of_the_cached_tokens(project: Build) -> None:
    made = project(token_states=RANKED)
    predictor, cache, texts = predictor_of(made, "bottleneck"), store.open_cache(made.cache), made.texts()
    kept = [torch.from_numpy(cache.token_states(place)) for place in range(cache.header.texts)]
    tokens = Tokens(torch.cat(kept), torch.tensor([len(text) for text in kept]))
    with torch.inference_mode():
        expected = predictor.trained.embed(tokens)
    np.testing.assert_allclose(predictor.embed([*texts.values()]), expected.numpy(), rtol=5e-3, atol=5e-3)


def test_the_command_and_the_pipeline_give_the_same(project: Build, tmp_path: Path) -> None:
    made = project(token_states=RANKED)
    predictor, texts = predictor_of(made), list(made.texts().values())
    expected = predictor.predictions(texts)
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    head = made.trained("weighted", **options_of("weighted"))
    given = ["predict", head, "--model", made.model, "--input", tmp_path / "texts.txt"]
    found = CliRunner().invoke(main, [str(part) for part in given])
    assert found.exit_code == 0, found.output
    rows = list(csv.DictReader(io.StringIO(found.stdout)))
    told = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(told, [p.probability for p in expected], atol=1e-3)
    for answers in (rows, TextPipeline(predictor)(texts)):
        assert [answer["label"] for answer in answers] == [p.label for p in expected]


def test_pooled_exits_leave_early_over_a_cache_with_some_token_layers_too(project: Build) -> None:
    made = project(token_states={"layers": [1, 2]})
    predictor = made.predictor("exits")
    assert predictor.leaving is not None
    compare(made, predictor, "exits")


def test_another_model_is_refused(project: Build, tiny_model: Callable[[str], Path]) -> None:
    made = project(token_states=RANKED)
    head = made.trained("weighted", **options_of("weighted"))
    with pytest.raises(UserError, match=r"model .*gpt2\n +expected: the model that made the cache(.|\n)*llama"):
        Predictor.load(head, tiny_model("gpt2"))


@pytest.fixture
def ranked(project: Build, tmp_path: Path) -> tuple[Project, Path]:
    """A project, and a copy of its head that carries a basis."""
    made = project(token_states=RANKED)
    return made, Path(shutil.copytree(made.trained("weighted", **options_of("weighted")), tmp_path / "head"))


def test_the_artifact_carries_the_basis_and_needs_no_cache(ranked: tuple[Project, Path]) -> None:
    made, head = ranked
    assert json.loads((head / CONFIG).read_text())["format_version"] == BASIS_VERSION
    assert load_head(head).basis == store.open_cache(made.cache).basis()


def change(head: Path, version: int | None = None, **tensors: torch.Tensor | None) -> None:
    """Rewrites an artifact: another version, and some tensors replaced, or without those given as None."""
    config, held = json.loads((head / CONFIG).read_text()), load_file(head / WEIGHTS)
    new = {f"basis.{name}": value for name, value in tensors.items()}
    save_file({name: value for name, value in (held | new).items() if value is not None}, head / WEIGHTS)
    (head / CONFIG).write_text(json.dumps(config if version is None else config | {"format_version": version}))


PARTS = dict.fromkeys(("mean", "scale", "directions", "share"))


def test_another_basis_is_refused(ranked: tuple[Project, Path]) -> None:
    _, head = ranked
    held = load_file(head / WEIGHTS)
    change(head, mean=held["basis.mean"] + 1)
    with pytest.raises(UserError, match=r"the basis of its capture's token states, with SHA-256 [0-9a-f]{16}"):
        load_head(head)
    change(head, mean=torch.full_like(held["basis.mean"], torch.nan))
    with pytest.raises(UserError, match=r"head .*\n +expected: finite values, and spreads above 0"):
        load_head(head)
    for wrong in (held["basis.mean"][:1], held["basis.mean"].half(), None):
        change(head, mean=wrong)
        with pytest.raises(UserError, match=r"tensors, among them basis\.mean"):
            load_head(head)


def test_a_head_of_an_earlier_release_is_read_and_says_what_it_lacks(ranked: tuple[Project, Path]) -> None:
    made, head = ranked
    change(head, TOKENS_VERSION, **PARTS)
    assert load_head(head).basis is None
    with pytest.raises(UserError, match=r"carries the basis(.|\n)*format version 5(.|\n)*train the head again"):
        Predictor.load(head, made.model)
    change(head, BASIS_VERSION)
    with pytest.raises(UserError, match=r"among them basis\."):
        load_head(head)


def test_a_basis_where_none_belongs_is_refused(project: Build, ranked: tuple[Project, Path], tmp_path: Path) -> None:
    _, head = ranked
    change(head, TOKENS_VERSION)
    with pytest.raises(UserError, match=r"no tensor basis\."):
        load_head(head)
    whole = project(token_states=True).trained("weighted", **options_of("weighted"))
    copy = Path(shutil.copytree(whole, tmp_path / "whole"))
    assert json.loads((copy / CONFIG).read_text())["format_version"] == TOKENS_VERSION
    change(copy, BASIS_VERSION)
    with pytest.raises(UserError, match="a capture that names a basis, in format version 6"):
        load_head(copy)
