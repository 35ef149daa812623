"""Captured rows against Hugging Face's own hidden states, architecture by architecture."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from transformers import AutoModel, LlamaModel
from transformers.modeling_outputs import BaseModelOutput

from ilse.core.errors import UserError
from pipeline.capture.batching import Batch, Spans, batches
from pipeline.capture.reader import Reader, Request
from pipeline.capture.tokens import Tokens
from pipeline.capture.ways import ANY_LENGTH, Way, Zone
from pipeline.config import ModelParams
from pipeline.model.architecture import find_blocks, model_inputs, text_part
from pipeline.model.load import MODELS, Compute, FrozenModel, load_model
from tests.pipeline.conftest import TINY

ARCHITECTURES = list(TINY)
METHODS = ["hooks", "hidden_states"]
ENCODERS = {"bert", "roberta", "modernbert", "t5"}
PACKING = ["llama", "qwen3", "gemma2", "gemma3_text", "gpt_neox", "gpt2", "mistral"]
ALL = (0, 1, 2, 3)
Tiny = Callable[[str], Path]


def load(folder: Path, compute_type: str = "float32", compiled: bool = False) -> FrozenModel:
    return load_model(ModelParams(path=folder), Compute(compute_type, "cpu", 1, 1024, compiled, "hooks"))


def padded(rows: list[list[int]], side: str) -> Batch:
    width = max(map(len, rows)) + 3
    ids, content = torch.ones(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.bool)
    starts, lengths = [], []
    for i, row in enumerate(rows):
        start = 0 if side == "right" else width - len(row)
        place = slice(start, start + len(row))
        ids[i, place], content[i, place] = torch.tensor(row), True
        starts.append(i * width + start)
        lengths.append(len(row))
    return Batch(torch.arange(len(rows)), Spans(torch.tensor(starts), torch.tensor(lengths)), ids, content)


def packed(rows: list[list[int]]) -> Batch:
    """All rows in one batch, several of them in each of its own."""
    tokens = Tokens(rows, [[True] * len(row) for row in rows], [False] * len(rows))
    (batch,) = batches(tokens, 64 * len(rows), 1, [Zone(ANY_LENGTH, Way.PACKED)])
    assert batch.packed
    return batch


def some_rows(count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 20, (count,), generator=generator).tolist()
    return [torch.randint(2, 64, (length,), generator=generator).tolist() for length in lengths]


def hugging_face(folder: Path, rows: list[list[int]]) -> list[Tensor]:
    """Hidden states [tokens, layers, dim] of each text alone, from transformers' own model: no padding, no hooks."""
    model = text_part(AutoModel.from_pretrained(folder).eval())
    with torch.no_grad():
        states = [model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states for row in rows]
    return [torch.stack([layer[0] for layer in layers], dim=1) for layers in states]


@contextmanager
def block_calls(frozen: FrozenModel) -> Iterator[list[int]]:
    """Which blocks ran their forward pass, in order."""
    calls: list[int] = []
    blocks = list(find_blocks(frozen.model))
    for i, block in enumerate(blocks):
        block.forward = lambda *args, i=i, plain=block.forward, **kwargs: (calls.append(i), plain(*args, **kwargs))[1]
    try:
        yield calls
    finally:
        for block in blocks:
            del block.forward


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 12])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_captured_states_are_hugging_face_s_hidden_states(
    tiny_model: Tiny, name: str, side: str, size: int, method: str
) -> None:
    frozen, rows = load(tiny_model(name)), some_rows(size)
    reader = Reader(frozen, Request(ALL, ("mean", "last"), token_states=True), method)
    found = reader.read(padded(rows, side))
    expected = hugging_face(tiny_model(name), rows)
    assert found.pooled["mean"].shape == (size, 4, 32)
    assert found.tokens is not None
    for i in range(size):
        torch.testing.assert_close(found.tokens[i], expected[i], rtol=0, atol=1e-5)
        torch.testing.assert_close(found.pooled["mean"][i], expected[i].mean(0), rtol=0, atol=1e-5)
        torch.testing.assert_close(found.pooled["last"][i], expected[i][-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_batched_states_are_the_batch_s_hidden_states_to_the_bit(tiny_model: Tiny, name: str) -> None:
    frozen, batch = load(tiny_model(name)), padded(some_rows(6), "left")
    found = Reader(frozen, Request(ALL, ("mean",), token_states=True)).read(batch).tokens
    with torch.inference_mode():
        states = frozen.model(
            **model_inputs(frozen.model, batch.ids, batch.mask), output_hidden_states=True
        ).hidden_states
    assert found is not None
    assert torch.equal(torch.cat(found), torch.stack([state[batch.mask.bool()] for state in states], dim=1))


@pytest.mark.parametrize("name", sorted({*ARCHITECTURES} - {"bert", "roberta"}))
def test_the_last_row_has_passed_the_final_norm(tiny_model: Tiny, name: str) -> None:
    frozen = load(tiny_model(name))
    seen: list[Tensor] = []
    find_blocks(frozen.model)[-1].register_forward_hook(
        lambda _m, _a, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    last = Reader(frozen, Request((3,), ("first",))).read(padded([[5, 6, 7]], "right")).pooled["first"][0, 0]
    assert not torch.allclose(last, seen[-1][0, 0], atol=1e-3)


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text"])
def test_row_0_is_the_embedding_after_gemma_s_scaling(tiny_model: Tiny, name: str) -> None:
    frozen = load(tiny_model(name))
    row = Reader(frozen, Request((0,), ("first",))).read(padded([[5]], "right")).pooled["first"][0, 0]
    torch.testing.assert_close(row, frozen.model.embed_tokens.weight[5] * 32**0.5, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_only_what_sees_later_tokens_needs_the_mask(tiny_model: Tiny, name: str) -> None:
    reader = Reader(load(tiny_model(name)), Request(ALL, ("mean",)))
    assert reader.needs_mask == (name in ENCODERS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PACKING)
def test_texts_packed_into_one_row_are_as_if_alone(tiny_model: Tiny, name: str, method: str) -> None:
    rows = some_rows(40)
    reader = Reader(load(tiny_model(name)), Request(ALL, ("mean", "last"), token_states=True), method)
    assert reader.packs
    batch = packed(rows)
    found = reader.read(batch)
    expected = hugging_face(tiny_model(name), rows)
    assert found.tokens is not None
    assert sorted(batch.positions.tolist()) == list(range(40))
    for i, position in enumerate(batch.positions.tolist()):
        torch.testing.assert_close(found.tokens[i], expected[position], rtol=0, atol=1e-5)
        torch.testing.assert_close(found.pooled["mean"][i], expected[position].mean(0), rtol=0, atol=1e-5)
        torch.testing.assert_close(found.pooled["last"][i], expected[position][-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", sorted({*ARCHITECTURES} - {*PACKING}))
def test_a_model_that_would_mix_packed_texts_packs_none(tiny_model: Tiny, name: str) -> None:
    assert not Reader(load(tiny_model(name)), Request(ALL, ("mean",))).packs


@pytest.mark.parametrize("name", PACKING)
def test_packing_is_proven_and_not_believed(tiny_model: Tiny, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transformers that does not part the texts of a row would leak one into the next."""
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None)
    assert not Reader(load(tiny_model(name)), Request(ALL, ("mean",))).packs


@pytest.mark.parametrize("compute_type", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rounding_is_not_taken_for_a_misread_architecture(tiny_model: Tiny, name: str, compute_type: str) -> None:
    reader = Reader(load(tiny_model(name), compute_type), Request(ALL, ("mean",)))
    assert reader.needs_mask == (name in ENCODERS)
    assert reader.packs == (name in PACKING)
    assert reader.read(padded(some_rows(3), "right")).pooled["mean"].isfinite().all()


@pytest.mark.parametrize(("layers", "run"), [((0,), 0), ((1,), 1), ((2, 0), 2), ((3,), 3)])
def test_the_last_needed_layer_is_the_last_one_run(tiny_model: Tiny, layers: tuple[int, ...], run: int) -> None:
    frozen, rows = load(tiny_model("llama")), some_rows(4)
    reader = Reader(frozen, Request(layers, ("mean",)))
    with block_calls(frozen) as calls:
        found = reader.read(padded(rows, "right")).pooled["mean"]
    assert calls == list(range(run))
    for i, expected in enumerate(hugging_face(tiny_model("llama"), rows)):
        torch.testing.assert_close(found[i], expected[:, list(layers)].mean(0), rtol=0, atol=1e-5)


def test_mamba_s_first_row_leaves_the_first_block(tiny_model: Tiny) -> None:
    frozen = load(tiny_model("mamba"))
    assert frozen.facts.layers == ("block 1", "block 2", "block 3", "final")
    reader = Reader(frozen, Request((0,), ("mean",)))
    with block_calls(frozen) as calls:
        reader.read(padded(some_rows(2), "right"))
    assert calls == [0]


def test_blocks_behind_are_dropped_and_come_back_for_a_later_request(tiny_model: Tiny) -> None:
    frozen, batch = load(tiny_model("qwen3")), padded(some_rows(3), "right")
    whole = Reader(frozen, Request(ALL, ("mean",))).read(batch).pooled["mean"]
    part = Reader(frozen, Request((1,), ("mean",))).read(batch).pooled["mean"]
    dropped = [next(block.parameters()).is_meta for block in find_blocks(frozen.model)]
    assert dropped == [False, True, True]
    again = Reader(frozen, Request(ALL, ("mean",))).read(batch).pooled["mean"]
    assert torch.equal(part, whole[:, [1]])
    assert torch.equal(again, whole)


def test_weights_that_a_kept_block_shares_are_not_dropped(tiny_model: Tiny) -> None:
    frozen = load(tiny_model("llama"))
    blocks = find_blocks(frozen.model)
    blocks[2].mlp = blocks[0].mlp
    frozen = FrozenModel(frozen.model, frozen.tokenizer, frozen.facts, frozen.witness, frozen.again)
    Reader(frozen, Request((1,), ("mean",))).read(padded(some_rows(2), "right"))
    assert not blocks[0].mlp.up_proj.weight.is_meta
    MODELS.forget()  # the model is not what its folder says any more


def test_layers_come_in_the_order_asked_for(tiny_model: Tiny) -> None:
    frozen, batch = load(tiny_model("llama")), padded(some_rows(3), "right")
    upward = Reader(frozen, Request((0, 3), ("max",))).read(batch).pooled["max"]
    downward = Reader(frozen, Request((3, 0), ("max",))).read(batch).pooled["max"]
    assert torch.equal(upward, downward.flip(1))


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_whatever_stands_in_the_padding_changes_nothing(tiny_model: Tiny, name: str) -> None:
    reader = Reader(load(tiny_model(name)), Request(ALL, ("mean", "max", "last")))
    batch = padded(some_rows(5), "right")
    garbage = torch.where(batch.mask.bool(), batch.ids, torch.arange(batch.ids.shape[1]) + 20)
    other = Batch(batch.positions, batch.spans, garbage, batch.content)
    for found, expected in zip(reader.read(other).pooled.values(), reader.read(batch).pooled.values(), strict=True):
        assert torch.equal(found, expected)


def test_a_model_that_hooks_misread_is_refused_by_name(tiny_model: Tiny) -> None:
    frozen = load(tiny_model("llama"))
    texts = tuple(replace(text, states=1.05 * text.states) for text in frozen.witness.texts)
    moved = replace(frozen, witness=replace(frozen.witness, texts=texts))
    with pytest.raises(UserError, match=r"model architecture 'llama'(.|\n)*output_hidden_states(.|\n)*hidden_states"):
        Reader(moved, Request(ALL, ("mean",)))


class Spiral(LlamaModel):
    """A made-up architecture without a list of blocks: three named ones, each run after the other."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.one, self.two, self.three = (nn.Linear(32, 32) for _ in range(3))
        self.layers = nn.ModuleList()

    def forward(self, input_ids: Tensor, output_hidden_states: bool = False, **_: Any) -> Any:
        states = [self.embed_tokens(input_ids)]
        for block in (self.one, self.two, self.three):
            states.append(torch.tanh(block(states[-1])))
        return BaseModelOutput(last_hidden_state=states[-1], hidden_states=tuple(states))


@pytest.fixture
def unknown(tmp_path: Path, tiny_model: Tiny, monkeypatch: pytest.MonkeyPatch) -> FrozenModel:
    """What `load_model` makes of a model of that architecture."""
    config = TINY["llama"]()
    config.model_type = "spiral"
    torch.manual_seed(0)
    monkeypatch.setattr(AutoModel, "from_pretrained", lambda *_args, **_kwargs: (Spiral(config), {"missing_keys": []}))
    MODELS.forget()
    frozen = load(tiny_model("llama"))
    MODELS.forget()
    return frozen


def test_an_unknown_architecture_is_refused_by_name_and_told_the_way(unknown: FrozenModel) -> None:
    with pytest.raises(UserError, match=r"'spiral'(.|\n)*0 lists of 3 blocks(.|\n)*extract.capture to hidden_states"):
        Reader(unknown, Request(ALL, ("mean",)))


def test_an_unknown_architecture_is_read_the_slow_way(unknown: FrozenModel) -> None:
    rows = some_rows(5)
    found = Reader(unknown, Request(ALL, ("mean",)), "hidden_states").read(padded(rows, "right")).pooled["mean"]
    for i, row in enumerate(rows):
        with torch.no_grad():
            states = unknown.model(torch.tensor([row])).hidden_states
        torch.testing.assert_close(found[i], torch.stack([s[0].mean(0) for s in states]), rtol=0, atol=1e-5)


def test_a_compute_type_that_overflows_is_named(tiny_model: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_model("gemma3_text")
    plain = AutoModel.from_pretrained

    def huge(*args: Any, **kwargs: Any) -> Any:
        model, loading = plain(*args, **kwargs)
        model.embed_tokens.weight.mul_(1e7)
        return model, loading

    monkeypatch.setattr(AutoModel, "from_pretrained", torch.no_grad()(huge))
    MODELS.forget()
    with pytest.raises(UserError, match=r"'gemma3_text', layer 0(.|\n)*float16(.|\n)*set extract.compute_type"):
        load(folder, "float16")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["llama", *(pytest.param(n, marks=pytest.mark.exhaustive) for n in ("gemma2", "bert"))]
)
def test_compiled_blocks_give_the_same_rows_in_whatever_order_batches_come(tiny_model: Tiny, name: str) -> None:
    rows = some_rows(12)
    batches = [padded(rows[:7], "right"), padded(rows[7:11], "right"), padded(rows[11:], "right")]
    found = []
    for order in ([0, 1, 2], [2, 1, 0]):
        torch.compiler.reset()
        MODELS.forget()
        reader = Reader(load(tiny_model(name), compiled=True), Request(ALL, ("mean",)))
        read = {i: reader.read(batches[i]).pooled["mean"] for i in order}
        found.append(torch.cat([read[i] for i in range(3)]))
    assert torch.equal(*found)
    expected = torch.stack([states.mean(0) for states in hugging_face(tiny_model(name), rows)])
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_blocks_are_compiled_however_many_models_a_process_has_compiled(
    tiny_model: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch counts the graphs of a piece of code whatever is made of them, so no code is made here."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    made, batch = [], padded(some_rows(7), "right")
    for _ in range(4):  # three graphs each, where PyTorch stops at eight of one piece of code
        MODELS.forget()
        before = counters["stats"]["unique_graphs"]
        Reader(load(tiny_model("llama"), compiled=True), Request(ALL, ("mean",))).read(batch)
        made.append(counters["stats"]["unique_graphs"] - before)
    assert made[0] > 0
    assert made == made[:1] * 4
