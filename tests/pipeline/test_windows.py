"""Texts that are read window by window, against a plain loop that reads each window alone."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

import pipeline.stages.extract as stage
from ilse.core.errors import UserError
from ilse.core.params import validate
from pipeline import store
from pipeline.capture.batching import batches
from pipeline.capture.early_exit import LeavingReader
from pipeline.capture.joining import BatchRows, Joiner
from pipeline.capture.pooling import JOINS, Pooler
from pipeline.capture.pooling import POOLINGS as POOLED
from pipeline.capture.reader import Reader, Request
from pipeline.capture.tokens import Tokens, tokenise
from pipeline.capture.ways import ANY_LENGTH, Way, Zone
from pipeline.capture.windows import in_windows, tokens_read, unbroken
from pipeline.config import ExtractParams, ModelParams
from pipeline.model.architecture import text_part
from pipeline.model.load import load_model
from pipeline.stages.inspect import describe
from pipeline.stages.plan import plan
from pipeline.work import bases
from tests.pipeline.conftest import WORDS, build_tokenizer
from tests.pipeline.extractions import files_of, params_for, run

Table = Callable[..., Path]
BEGIN, END = "8", "9"
"""What a tokenizer puts around a text: words of its vocabulary that no text has."""


def text_of(words: int, seed: int) -> str:
    digest = hashlib.sha256(str(seed).encode()).digest()
    return " ".join(WORDS[(digest[i % 32] + i * (1 + digest[0])) % len(WORDS)] for i in range(words))


LENGTHS = [1, 3, 9, 10, 11, 12, 13, 20, 21, 30, 47, 60, 95, 5, 8, 150, 2, 28, 29, 33]
TEXTS = [text_of(words, seed) for seed, words in enumerate(LENGTHS)]


@pytest.fixture
def model(tiny_model: Callable[[str], Path], tmp_path: Path) -> Callable[[str, bool], Path]:
    """The tiny model of a name, with a tokenizer that puts special tokens around texts, or none."""

    def build(name: str, special: bool) -> Path:
        folder = tmp_path / f"{name}-{special}"
        if not folder.exists():
            folder.mkdir()
            for file in tiny_model(name).iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
            tokenizer = build_tokenizer()
            if special:
                ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (BEGIN, END)]
                single = f"{BEGIN} $A {END}"
                tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
                    single=single, special_tokens=ids
                )
            tokenizer.save_pretrained(folder)
        return folder

    return build


def slow_states(folder: Path, text: str, tokens: int, stride: int, special: bool) -> tuple[Tensor, list[bool]]:
    """States [tokens, layers, dim] of a text, each window run alone; and which of them are content.

    Of its content, each token has the state of the first window that holds it.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reading = text_part(AutoModel.from_pretrained(folder).eval())
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    before, behind = ([tokenizer.convert_tokens_to_ids(token)] if special else [] for token in (BEGIN, END))
    room = tokens - len(before) - len(behind)
    content: dict[int, Tensor] = {}
    lead: list[Tensor] = []
    for start in itertools.count(0, stride):
        window = [*before, *ids[start : start + room], *behind]
        with torch.no_grad():
            layers = reading(input_ids=torch.tensor([window]), output_hidden_states=True).hidden_states
        states = list(torch.stack([layer[0] for layer in layers], dim=1))
        lead = lead or states[: len(before)]
        for place in range(start, min(start + room, len(ids))):
            content.setdefault(place, states[len(before) + place - start])
        if start + room >= len(ids):
            trail = states[len(window) - len(behind) :]
            break
    assert list(content) == list(range(len(ids)))
    kinds = [False] * len(lead) + [True] * len(ids) + [False] * len(trail)
    return torch.stack([*lead, *content.values(), *trail]), kinds


def pooled(states: Tensor, content: list[bool]) -> dict[str, Tensor]:
    """Every pooling of one sequence of states, spelled out."""
    own = states[torch.tensor(content)]
    return {
        "mean": states.mean(0),
        "mean_without_first": states[1:].mean(0) if len(states) > 1 else states[0],
        "first": states[0],
        "last": states[-1],
        "max": states.max(0).values,
        "mean_content": own.mean(0),
        "first_content": own[0],
        "last_content": own[-1],
        "max_content": own.max(0).values,
    }


WAYS = [
    ("llama", False, 12, None),
    ("llama", False, 12, 7),
    ("llama", True, 12, None),
    ("llama", True, 12, 4),
    ("bert", True, 12, None),
    ("bert", True, 12, 4),
    ("bert", False, 16, 16),
    ("roberta", True, 20, 9),
    ("gpt2", True, 3, 1),  # a token of the text a window
]


@pytest.mark.parametrize("token_states", [True, {"layers": [0, -1], "rank": 8}])
@pytest.mark.parametrize(("name", "special", "tokens", "stride"), WAYS)
def test_rows_are_those_of_windows_that_are_read_alone(
    model: Callable[[str, bool], Path],
    texts_table: Table,
    tmp_path: Path,
    name: str,
    special: bool,
    tokens: int,
    stride: int | None,
    token_states: Any,
) -> None:
    folder = model(name, special)
    windows = {"tokens": tokens, "stride": stride}
    params = params_for(
        folder, max_tokens=None, windows=windows, poolings=list(store.POOLINGS), token_states=token_states,
        storage_type="float32",
    )  # fmt: skip
    figures = run(params, texts_table(len(TEXTS), TEXTS), tmp_path)
    cache, room = store.open_cache(tmp_path / "cache.zarr"), tokens - 2 * special
    assert cache.header.capture.windows == store.WindowSpec(tokens, stride or room)
    assert cache.header.capture.max_tokens is None
    assert cache.token_counts().tolist() == [length + 2 * special for length in LENGTHS]
    assert not cache.truncated().any()
    assert (figures["texts_truncated"], figures["tokens"]) == (0, sum(LENGTHS) + 2 * special * len(LENGTHS))
    assert figures["texts_in_windows"] == sum(length > room for length in LENGTHS)
    rows = {pooling: cache.read(slice(0, len(TEXTS)), pooling=pooling) for pooling in store.POOLINGS}
    basis = cache.basis()
    for i, text in enumerate(TEXTS):
        states, content = slow_states(folder, text, tokens, stride or room, special)
        for pooling, expected in pooled(states, content).items():
            np.testing.assert_allclose(rows[pooling][i], expected.numpy(), atol=1e-5, err_msg=f"{pooling} of text {i}")
        whole, found = states.numpy(), cache.token_states(i)
        if basis is None:
            np.testing.assert_allclose(found, whole, atol=1e-5)
        else:
            np.testing.assert_allclose(found, basis.project(whole[:, [0, 3]]), atol=5e-5)


def test_texts_that_fit_into_a_window_have_the_same_bytes(llama: Path, texts_table: Table, tmp_path: Path) -> None:
    texts, token_states = texts_table(50), {"layers": [0, -1], "rank": 4}
    plain = params_for(llama, max_tokens=40, token_states=token_states)
    run(plain, texts, tmp_path / "plain")
    run(params_for(llama, max_tokens=None, windows={"tokens": 40}, token_states=token_states), texts, tmp_path / "cut")
    before, after = (files_of(tmp_path / name / "cache.zarr") for name in ("plain", "cut"))
    own = {name for name in before if before[name] != after[name]}
    assert before.keys() == after.keys()
    assert {name.split("/")[0] for name in own} == {"zarr.json", "SHA256SUMS", "binding"}  # what names the capture


def test_without_windows_nothing_is_said_of_them(llama: Path, texts_table: Table, tmp_path: Path) -> None:
    """Caches of earlier releases have no such entry, and their fingerprints are made without it."""
    run(params_for(llama), texts_table(8), tmp_path)
    attributes = json.loads((tmp_path / "cache.zarr" / "zarr.json").read_text())["attributes"]["ilse_cache"]
    assert "windows" not in attributes["capture"]
    assert "windows" not in store.open_cache(tmp_path / "cache.zarr").header.capture.document()
    capture = store.CaptureSpec({"sha256": "00"}, "11", ("embedding",), 4, 16, "{text}", "float32", "float16")
    assert capture.fingerprint == "fbb0a1ede44314991086e15a1a4d7efa26972a519ef26a856dc0b5130d156220"


def params_in_windows(model: Path, **changes: Any) -> ExtractParams:
    return params_for(model, **{"max_tokens": None, "windows": {"tokens": 12, "stride": 8}, **changes})


def test_workers_and_interruptions_give_the_same_bytes(
    llama: Path, texts_table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, choice = texts_table(len(TEXTS), TEXTS), {"rank": 8, "storage_type": "int8"}
    params = params_in_windows(llama, token_states=choice)
    run(params, texts, tmp_path / "serial")
    expected = files_of(tmp_path / "serial" / "cache.zarr")
    run(params_in_windows(llama, token_states=choice, cluster={"kind": "local"}), texts, tmp_path / "dask")
    assert files_of(tmp_path / "dask" / "cache.zarr") == expected
    original = stage.compute_shards
    with monkeypatch.context() as patch:
        patch.setattr(stage, "compute_shards", lambda job, some: [*original(job, some[:1]), *([][1])])
        with pytest.raises(IndexError):
            run(params, texts, tmp_path / "broken")
    assert run(params, texts, tmp_path / "broken")["texts_computed"] == len(TEXTS) - 8
    assert files_of(tmp_path / "broken" / "cache.zarr") == expected


def test_only_a_cache_of_the_same_windows_lends_its_rows(llama: Path, texts_table: Table, tmp_path: Path) -> None:
    run(params_in_windows(llama, token_states=True), texts_table(12, TEXTS[:12]), tmp_path / "donor")
    donors, texts = [str(tmp_path / "donor" / "cache.zarr")], texts_table(len(TEXTS), TEXTS)
    same = params_in_windows(llama, token_states=True, donors=donors)
    assert run(same, texts, tmp_path / "same")["texts_computed"] == len(TEXTS) - 12
    rows, states = [], []
    run(params_in_windows(llama, token_states=True), texts, tmp_path / "afresh")
    for name in ("same", "afresh"):
        cache = store.open_cache(tmp_path / name / "cache.zarr")
        rows.append(cache.read(slice(0, len(TEXTS))))
        states.append(np.concatenate([cache.token_states(i) for i in range(len(TEXTS))]))
    np.testing.assert_allclose(*rows, atol=2e-3)
    np.testing.assert_allclose(*states, atol=2e-3)
    other = params_in_windows(llama, windows={"tokens": 12}, token_states=True, donors=donors)
    assert run(other, texts, tmp_path / "other")["texts_computed"] == len(TEXTS)
    # Said or not, windows without overlap are the same capture.
    spelled = params_in_windows(llama, windows={"tokens": 12, "stride": 12}, token_states=True)
    assert run(spelled, texts, tmp_path / "other")["texts_computed"] == 0


def test_a_limit_cuts_the_whole_text_and_is_counted(llama: Path, texts_table: Table, tmp_path: Path) -> None:
    figures = run(params_in_windows(llama, max_tokens=30), texts_table(len(TEXTS), TEXTS), tmp_path)
    cache = store.open_cache(tmp_path / "cache.zarr")
    assert cache.token_counts().tolist() == [min(length, 30) for length in LENGTHS]
    assert cache.truncated().tolist() == [length > 30 for length in LENGTHS]
    assert figures["texts_truncated"] == sum(length > 30 for length in LENGTHS)


def test_a_cache_says_how_long_texts_were_read(llama: Path, texts_table: Table, tmp_path: Path) -> None:
    for limit, said in ((None, ""), (1000, "cut at 1,000 tokens and ")):
        run(params_in_windows(llama, max_tokens=limit), texts_table(8, TEXTS[:8]), tmp_path)
        assert f"'{{text}}', {said}read in windows of 12 tokens, 8 tokens apart\n" in describe(tmp_path / "cache.zarr")


def test_a_basis_is_made_of_the_beginnings_of_very_long_texts(
    llama: Path, texts_table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A book's states would not be held by memory."""
    read: list[int] = []
    original = bases.make_basis

    def noting(reader: Reader, tokens: Tokens, *more: Any) -> store.Basis:
        read.extend(len(ids) for ids in tokens.ids)
        return original(reader, tokens, *more)

    monkeypatch.setattr(bases, "make_basis", noting)
    monkeypatch.setattr(bases, "SAMPLE_TOKENS", 40)
    run(params_in_windows(llama, token_states={"rank": 4}), texts_table(len(TEXTS), TEXTS), tmp_path)
    assert sorted(read) == sorted(min(length, 40) for length in LENGTHS)
    assert store.open_cache(tmp_path / "cache.zarr").token_counts().tolist() == LENGTHS


def test_a_window_is_no_longer_than_the_model_s(llama: Path, texts_table: Table, tmp_path: Path) -> None:
    run(params_in_windows(llama, windows={"tokens": 1000}), texts_table(1, [text_of(150, 0)]), tmp_path)
    capture = store.open_cache(tmp_path / "cache.zarr").header.capture
    assert capture.windows == store.WindowSpec(64, 64)


def test_the_plan_counts_what_the_windows_read(llama: Path, texts_table: Table) -> None:
    forecast = plan(params_in_windows(llama, windows={"tokens": 12, "stride": 6}), texts_table(len(TEXTS), TEXTS))
    long = [length for length in LENGTHS if length > 12]
    windows = [1 + -(-(length - 12) // 6) for length in long]
    read = sum(LENGTHS) + sum(6 * (count - 1) for count in windows)
    assert forecast.work.tokens == sum(LENGTHS)
    assert forecast.tokens_read == forecast.document()["tokens_read"] == read
    assert forecast.calibration.longest == 12
    assert f"the model reads {read:,} in {len(LENGTHS) - len(long) + sum(windows):,} windows" in forecast.lines()[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"windows": {"tokens": 12, "stride": 13}}, "'stride' of at most 'tokens'"),
        ({"windows": {"tokens": 0}}, "greater than or equal to 1"),
        ({"windows": {"stride": 4}}, "Field required"),
        ({"windows": {"tokens": 12, "step": 4}}, "unknown key 'step'"),
        ({"windows": {"tokens": 12}, "max_tokens": 12}, "limits the whole text"),
    ],
)
def test_parameters_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate("extract", ExtractParams, {"model": {"path": "x"}, **change})


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        (
            {"tokens": 12, "stride": 11},
            r"extract.windows.stride(.|\n)*at most the 10 tokens(.|\n)*set it to 10 or less",
        ),
        ({"tokens": 2}, r"extract.windows.tokens(.|\n)*more than the 2 special tokens"),
        ({"tokens": 100, "stride": 90}, r"at most the 62 tokens(.|\n)*64 tokens holds, the window of llama"),
    ],
)
def test_windows_that_would_lose_tokens_are_refused(
    model: Callable[[str, bool], Path], texts_table: Table, tmp_path: Path, windows: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(params_in_windows(model("llama", True), windows=windows), texts_table(8), tmp_path)


def test_a_tokenizer_that_hides_its_special_tokens_is_refused() -> None:
    class Hiding:
        pad_token_type_id = 0

        def num_special_tokens_to_add(self) -> int:
            return 1

        def __call__(self, texts: list[str], **_: Any) -> dict[str, Any]:
            return {"input_ids": [[3] * 20], "special_tokens_mask": [[0] * 20]}

    assert tokenise(Hiding(), ["x"], ["a"], "{text}", None).ids == [[3] * 20]
    with pytest.raises(
        UserError, match=r"text a, in windows of 8 tokens(.|\n)*expected: 1 special(.|\n)*found: +0 special"
    ):
        tokenise(Hiding(), ["x"], ["a"], "{text}", None, windows=store.WindowSpec(8, 4))


def test_no_text_leaves_on_the_way_that_is_read_in_windows(llama: Path) -> None:
    frozen = load_model(ModelParams(path=llama), stage.compute_of(params_for(llama)))
    leaving = LeavingReader(frozen, Reader(frozen, Request((0, 1), ("mean",))))
    tokens = tokenise(frozen.tokenizer, TEXTS, TEXTS, "{text}", None, windows=store.WindowSpec(12, 8))
    with pytest.raises(ValueError, match="read in windows"):
        leaving.read_all(tokens, 64, lambda _place, texts, _rows: torch.ones(len(texts), dtype=torch.bool))
    seen = []
    leaving.read_all(tokens.take([0, 1, 2]), 64, lambda _place, texts, _rows: (seen.append(len(texts)), texts < 0)[1])
    assert sum(seen) == 3


def made_up(lengths: list[tuple[int, int, int]], windows: store.WindowSpec) -> Tokens:
    """Texts of so many special tokens, tokens and special tokens, every id of which is another one."""
    ids, content, count = [], [], itertools.count()
    for before, own, behind in lengths:
        ids.append([next(count) for _ in range(before + own + behind)])
        content.append([False] * before + [True] * own + [False] * behind)
    return Tokens(ids, content, [False] * len(ids), windows=windows)


SHAPES = st.tuples(st.integers(0, 2), st.integers(0, 40), st.integers(0, 2)).filter(any)


@given(lengths=st.lists(SHAPES, min_size=1, max_size=6), tokens=st.integers(5, 20), data=st.data())
def test_the_parts_of_the_windows_are_the_text_once(
    lengths: list[tuple[int, int, int]], tokens: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, tokens - 4))
    texts = made_up(lengths, store.WindowSpec(tokens, stride))
    read = in_windows(texts)
    assert all(len(ids) <= tokens for ids in read.ids)
    assert tokens_read(texts) == sum(map(len, read.ids))
    assert sum(unbroken(texts)) == sum(map(len, texts.ids))
    if read.parts is None:
        assert read.ids == texts.ids
        assert all(len(ids) <= tokens for ids in texts.ids)
        return
    joined: list[list[int]] = [[] for _ in lengths]
    for ids, content, part in zip(read.ids, read.content, read.parts, strict=True):
        assert part.begins == (not joined[part.text])
        joined[part.text] += ids[part.start : part.stop]
        assert part.ends == (len(joined[part.text]) == len(texts.ids[part.text]))
        whole = dict(zip(texts.ids[part.text], texts.content[part.text], strict=True))
        assert content == [whole[token] for token in ids]
        assert part.stop > part.start
    assert joined == texts.ids
    assert in_windows(read).ids == read.ids


@given(
    lengths=st.lists(SHAPES, min_size=1, max_size=5),
    tokens=st.integers(5, 12),
    order=st.randoms(use_true_random=False),
    data=st.data(),
)
def test_rows_are_joined_in_whatever_order_they_come(
    lengths: list[tuple[int, int, int]], tokens: int, order: Any, data: st.DataObject
) -> None:
    """As if the text's states had been pooled in one piece; specials may stand in the middle of a text, too."""
    texts = made_up(lengths, store.WindowSpec(tokens, data.draw(st.integers(1, tokens - 4))))
    for content in texts.content:
        inside = [place for place, real in enumerate(content) if real][1:-1]
        for place in data.draw(st.lists(st.sampled_from(inside), max_size=20)) if inside else []:
            content[place] = False
    states = torch.randn(sum(map(len, texts.ids)), 2, 3, generator=torch.Generator().manual_seed(0))
    read, names = in_windows(texts), store.POOLINGS
    if read.parts is None:
        return
    joiner, found, kept = Joiner(read, names), dict[str, dict[int, Tensor]](), dict[int, Tensor]()
    made = list(batches(read, 30, 0, [Zone(ANY_LENGTH, Way.PACKED)]))
    order.shuffle(made)
    for batch in made:
        pooler = Pooler(batch.counted, batch.content, names, begins=batch.begins)
        layers = [pooler(states[batch.ids][:, :, layer]) for layer in range(2)]
        rows = {name: torch.stack([layer[name] for layer in layers], 1) for name in names}
        every = states[batch.ids].flatten(0, 1)[batch.counted.places].split(batch.counted.lengths.tolist())
        done, rows_of = joiner.add(batch.positions, BatchRows(rows, list(every)))
        for place, text in enumerate(done.tolist()):
            assert rows_of.tokens is not None
            kept[text] = rows_of.tokens[place]
            for name, values in rows_of.pooled.items():
                found.setdefault(name, {})[text] = values[place]
    assert sorted(kept) == list(range(len(lengths)))
    for text, ids in enumerate(texts.ids):
        assert torch.equal(kept[text], states[ids])
        content = texts.content[text] if any(texts.content[text]) else [True] * len(ids)
        for name, expected in pooled(states[ids], content).items():
            torch.testing.assert_close(found[name][text], expected, atol=1e-6, rtol=1e-5)


def test_every_pooling_can_be_joined() -> None:
    assert JOINS.keys() == POOLED.keys()


def test_a_piece_begins_where_nothing_stands_before_a_token() -> None:
    apart, overlapping = store.WindowSpec(10, 10), store.WindowSpec(10, 8)
    assert unbroken(made_up([(0, 25, 0), (0, 7, 0)], apart)) == [10, 10, 5, 7]
    assert unbroken(made_up([(0, 25, 0), (0, 7, 0)], overlapping)) == [25, 7]
    assert unbroken(made_up([(1, 25, 1), (1, 7, 1)], store.WindowSpec(10, 8))) == [27, 9]
