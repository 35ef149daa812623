"""The reader of tokens against loops over texts, tokens and layers; and the heads behind it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ilse.core.errors import UserError
from trainer.heads import HEADS, Exits, TokenHead, TokenOptions, build_head, head_config
from trainer.heads.fronts.token_head import TokenReader
from trainer.rows.ragged import Tokens, each_max, each_sum, joined

LAYERS, DIM, OUT = 4, 6, 3
POOLS = ("max+mean", "max", "mean", "attention")


def some_tokens(*lengths: int, layers: int = LAYERS, seed: int = 0) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    return Tokens(torch.randn(sum(lengths), layers, DIM, generator=generator), torch.tensor(lengths))


def head_of(name: str = "bottleneck", tokens: Any = None, layers: int = LAYERS, **options: Any) -> TokenHead:
    torch.manual_seed(0)
    head = build_head(name, options, layers=layers, dim=DIM, out=OUT, tokens={"rank": 5} if tokens is None else tokens)
    assert isinstance(head, TokenHead)
    return head


def slow(reader: TokenReader, tokens: Tokens) -> Tensor:
    """The same by a loop over texts, layers and tokens."""
    weight, bias, options = reader.map.weight, reader.map.bias, reader.options
    texts, start = [], 0
    for length in tokens.lengths.tolist():
        rows = []
        for layer in range(len(weight)):
            own = [weight[layer] @ tokens.values[start + t, layer] + bias[layer] for t in range(length)]
            mapped = [{"relu": torch.relu, "none": lambda h: h}[options.activation](h) for h in own]
            if options.pool == "attention":
                assert reader.queries is not None
                parts = []
                for query in reader.queries[layer]:
                    scores = torch.stack([h @ query / options.rank**0.5 for h in mapped]).softmax(0)
                    parts.append(sum(s * h for s, h in zip(scores, mapped, strict=True)))
                rows.append(torch.cat(parts))
                continue
            largest, mean = torch.stack(mapped).max(0).values, torch.stack(mapped).sum(0) / length
            rows.append(torch.cat({"max+mean": [largest, mean], "max": [largest], "mean": [mean]}[options.pool]))
        texts.append(torch.stack(rows))
        start += length
    return torch.stack(texts)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("activation", ["relu", "none"])
def test_the_reader_is_its_slow_twin(pool: str, activation: str) -> None:
    torch.manual_seed(0)
    options = TokenOptions.model_validate({"rank": 5, "pool": pool, "queries": 3, "activation": activation})
    reader, tokens = TokenReader(LAYERS, DIM, options), some_tokens(3, 1, 7, 2)
    found, wanted = reader(tokens), slow(reader, tokens)
    assert found.shape == (4, LAYERS, options.width)
    torch.testing.assert_close(found, wanted)
    for ours, theirs in zip(gradients(reader, found), gradients(reader, wanted), strict=True):
        torch.testing.assert_close(ours, theirs)


def gradients(reader: TokenReader, rows: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((rows * torch.arange(rows.shape[-1])).sum(), list(reader.parameters()))


@pytest.mark.parametrize("pool", POOLS)
def test_gradients_are_those_of_differences(pool: str) -> None:
    torch.manual_seed(0)
    options = TokenOptions.model_validate({"rank": 3, "pool": pool, "queries": 2})
    reader, tokens = TokenReader(2, DIM, options).double(), some_tokens(3, 1, 4, layers=2)
    names = [name for name, _ in reader.named_parameters()]

    def rows(*values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=True))
        mapped = torch.einsum("tlw,lrw->tlr", tokens.values.double(), given["map.weight"]) + given["map.bias"]
        mapped = mapped.relu()
        if pool == "attention":
            scores = (mapped[:, :, None] * given["queries"]).sum(-1) * options.rank**-0.5
            weights = torch.cat([part.softmax(0) for part in scores.split(tokens.lengths.tolist())])
            return each_sum(weights[..., None] * mapped[:, :, None], tokens.lengths)
        return torch.cat([each_max(mapped, tokens.lengths), each_sum(mapped, tokens.lengths)], dim=-1)

    assert torch.autograd.gradcheck(rows, tuple(p.detach().requires_grad_() for p in reader.parameters()))


@pytest.mark.parametrize("pool", POOLS)
def test_pooling_does_not_depend_on_the_company(pool: str) -> None:
    """To the last bit, given the same mapped tokens: only the product before may block its sums in another way."""
    torch.manual_seed(0)
    reader = TokenReader(LAYERS, DIM, TokenOptions.model_validate({"rank": 5, "pool": pool}))
    texts = [some_tokens(length, seed=length) for length in (3, 1, 17, 2, 64)]
    mapped = [Tokens(reader.map(text.values), text.lengths) for text in texts]
    reader.map = torch.nn.Identity()  # type: ignore[assignment]
    alone = torch.cat([reader(text) for text in mapped])
    assert torch.equal(reader(joined(mapped)), alone)
    assert torch.equal(reader(joined(mapped[::-1])), alone.flip(0))


@pytest.mark.parametrize("name", HEADS)
def test_answers_do_not_depend_on_the_company(name: str) -> None:
    head = head_of(name).eval()
    texts = [some_tokens(length, seed=length) for length in (3, 1, 17, 2)]
    with torch.no_grad():
        torch.testing.assert_close(head(joined(texts)), torch.cat([head(text) for text in texts]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_is_built_again_from_its_config(name: str) -> None:
    head, tokens = head_of(name).eval(), some_tokens(3, 1)
    again = build_head(**head_config(head)).eval()
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(tokens), head(tokens))
    assert head_config(again) == head_config(head)
    assert again.layers_read == head.layers_read


def test_one_map_for_each_layer_that_is_read() -> None:
    kept = {"rank": 5, "layers": [0, 2, -1]}
    assert head_of("mean", kept, layers=6).layers_read == (0, 2, 5)
    assert head_of("last", kept, layers=6).layers_read == (5,)
    assert head_of("layer", kept, layers=6, layer=2).layers_read == (2,)
    concat = head_of("concat", kept, layers=6, rows=[0, -1])
    assert concat.layers_read == (0, 5)
    assert concat.reader.map.weight.shape == (2, 5, DIM)


@pytest.mark.parametrize(
    ("name", "options"), [("layer", {"layer": 1}), ("concat", {"rows": 2}), ("exits", {"layers": [1]})]
)
def test_a_layer_without_tokens_is_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="layers whose token states are read: 0, 2, 5"):
        build_head(name, options, layers=6, dim=DIM, out=OUT, tokens={"layers": [0, 2, -1]})


def test_a_layer_is_named_once() -> None:
    with pytest.raises(UserError, match="each once"):
        head_of("mean", {"layers": [0, -6]}, layers=6)


def test_the_best_layer_is_kept_with_its_part_of_the_reader() -> None:
    probes = head_of("best", {"rank": 5, "layers": [0, 2, 5]}, layers=6).eval()
    tokens = some_tokens(3, 1, layers=3)
    kept = probes.settle([1, 0, 2])
    assert probes.candidates == 3
    assert kept.layers_read == (2,)
    assert head_config(kept)["options"] == {"layer": 2}
    torch.testing.assert_close(kept(tokens.of_layers([1])), probes(tokens)[:, 1])
    again = build_head(**head_config(kept)).eval()
    again.load_state_dict(kept.state_dict())
    torch.testing.assert_close(again(tokens.of_layers([1])), probes(tokens)[:, 1])


def test_pairs_compare_what_is_made_of_two_texts() -> None:
    torch.manual_seed(0)
    for name in ("bottleneck", "best"):
        head = build_head(name, layers=LAYERS, dim=DIM, out=OUT, pair_width=4, tokens={"rank": 5}).eval()
        assert head(some_tokens(3, 1, 2, 5)).shape[0] == 2
        kept = head.settle([2, 0, 1, 3])
        assert kept(some_tokens(3, 1, 2, 5).of_layers(list(kept.layers_read))).shape == (2, OUT)


def test_weights_are_of_the_caches_layers() -> None:
    tokens = {"layers": [1, 3]}
    weights = head_of("weighted", tokens, layers=5).layer_weights()
    assert weights is not None
    assert weights.tolist() == [0, 0.5, 0, 0.5, 0]
    by_input = head_of("attention", tokens, layers=5).eval().input_weights(some_tokens(3, 1, layers=2))
    assert by_input is not None
    assert by_input.shape == (2, 5)
    torch.testing.assert_close(by_input.sum(1), torch.ones(2))
    assert by_input[:, [0, 2, 4]].abs().max() == 0


def test_exits_are_calibrated_on_what_the_reader_gives() -> None:
    head = head_of("exits").eval()
    assert isinstance(head.inner, Exits)
    tokens = some_tokens(3, 1, 2)
    assert head.calibrate([(tokens, torch.tensor([0, 1, 2]))])
    assert float(head.inner.threshold) <= 1


def test_pooled_rows_are_refused() -> None:
    with pytest.raises(UserError, match="the states of tokens, which it was trained on"):
        head_of()(torch.zeros(2, LAYERS, DIM))
    with pytest.raises(UserError, match=f"{LAYERS} layers of {DIM} values"):
        head_of()(Tokens(torch.zeros(2, LAYERS, DIM + 1), torch.tensor([2])))


def test_attention_weights_sum_to_one() -> None:
    reader = TokenReader(LAYERS, DIM, TokenOptions(rank=5, pool="attention", queries=2))
    tokens = some_tokens(3, 1, 7)
    torch.testing.assert_close(each_sum(reader.attention(tokens), tokens.lengths), torch.ones(3, LAYERS, 2))
