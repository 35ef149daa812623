"""Answers about two texts: against a loop over examples, its gradient, and candidates that are kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ilse.core.errors import UserError
from trainer.heads import HEADS, EncoderHead, Head, LayerProbes, PairHead, SingleLayer, build_head, head_config

LAYERS, DIM, WIDTH, OUT = 4, 6, 5, 3
VECTORS = [name for name, kind in HEADS.items() if not kind.classifies]
OWN = ["weighted", "bottleneck", "attention", "dwatt", "mlp", "set", "fc", "cayley"]
"""Heads whose encoder has something to train."""


def pair_head(name: str, pair_width: int = WIDTH, **options: Any) -> PairHead:
    torch.manual_seed(0)
    head = build_head(name, options, layers=LAYERS, dim=DIM, out=OUT, pair_width=pair_width)
    assert isinstance(head, PairHead)
    return head.eval()


def texts(examples: int) -> Tensor:
    return torch.randn(2 * examples, LAYERS, DIM, generator=torch.Generator().manual_seed(1))


def obvious(vectors: Tensor, weight: Tensor, bias: Tensor) -> list[list[float]]:
    """[u, v, |u - v|, u · v] W + b, a number at a time."""
    answers = []
    for u, v in zip(vectors[::2].tolist(), vectors[1::2].tolist(), strict=True):
        pairs = list(zip(u, v, strict=True))
        features = u + v + [abs(a - b) for a, b in pairs] + [a * b for a, b in pairs]
        rows = zip(weight.tolist(), bias.tolist(), strict=True)
        answers.append([sum(w * f for w, f in zip(row, features, strict=True)) + b for row, b in rows])
    return answers


@pytest.mark.parametrize("name", VECTORS)
def test_an_answer_is_a_linear_map_of_both_vectors(name: str) -> None:
    head, x = pair_head(name), texts(4)
    vectors, answers = head.vectors(x), head(x)
    if head.candidates == 1:
        vectors, answers = vectors[:, None], answers[:, None]
    for k in range(head.candidates):
        expected = obvious(vectors[:, k], head.readout.weight[k], head.readout.bias[k])
        torch.testing.assert_close(answers[:, k], torch.tensor(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", VECTORS)
def test_gradients(name: str) -> None:
    head = pair_head(name).double()
    x = texts(2).double().requires_grad_()
    assert torch.autograd.gradcheck(head, x)


@pytest.mark.parametrize("name", VECTORS)
def test_its_configuration_rebuilds_it(name: str) -> None:
    head = pair_head(name)
    same = build_head(**head_config(head))
    same.load_state_dict(head.state_dict())
    torch.testing.assert_close(same.eval()(texts(3)), head(texts(3)))


@pytest.mark.parametrize("best", [0, 2, 3])
def test_the_best_layers_vectors_keep_their_readout(best: int) -> None:
    head, x = pair_head("best"), texts(3)
    assert isinstance(head.vectors, LayerProbes)
    ranked = [best, *(k for k in range(LAYERS) if k != best)]
    kept = head.settle(ranked)
    assert isinstance(kept, PairHead)
    assert isinstance(kept.vectors, SingleLayer)
    assert kept.layers_read == (best,)
    torch.testing.assert_close(kept(x[:, [best]]), head(x)[:, best])
    again = build_head(**head_config(kept))
    again.load_state_dict(kept.state_dict())
    torch.testing.assert_close(again(x), kept(x))


def test_supervised_states_go_through_the_same_readout() -> None:
    head, x = pair_head("cayley", supervision=0.5, blocks=2, dropout=0.0).train(), texts(3)
    outputs = head.supervised(x)
    of_texts = head.vectors.supervised(x)
    assert outputs.terms is not None
    assert of_texts.terms is not None
    for k in range(of_texts.terms.shape[1]):
        expected = obvious(of_texts.terms[:, k], head.readout.weight[0], head.readout.bias[0])
        torch.testing.assert_close(outputs.terms[:, k], torch.tensor(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.weights, of_texts.weights)


@pytest.mark.parametrize("name", OWN)
def test_the_encoders_own_vectors_are_compared(name: str) -> None:
    """Without a width of its own, as embedding and in a pair."""
    head = build_head(name, layers=LAYERS, dim=DIM, out=0).eval()
    assert isinstance(head, EncoderHead)
    torch.testing.assert_close(head(texts(2)), head.encode(texts(2)))
    of_pair = pair_head(name, pair_width=0)
    assert of_pair.width == head.encoder.width
    assert of_pair(texts(2)).shape == (2, OUT)


@pytest.mark.parametrize("name", [name for name in HEADS if name not in OWN])
@pytest.mark.parametrize("way", [{"out": 0}, {"out": OUT, "pair_width": 0}])
def test_heads_without_a_vector_of_their_own_say_so(name: str, way: dict[str, int]) -> None:
    with pytest.raises(UserError, match=rf"head '{name}'(.|\n)*set train.embedding to a width"):
        build_head(name, layers=LAYERS, dim=DIM, **way)


def test_deep_supervision_of_an_embedding_has_its_width() -> None:
    head: Head = build_head("cayley", {"supervision": 0.5}, layers=LAYERS, dim=DIM, out=0).train()
    outputs = head.supervised(texts(2))
    assert outputs.terms is not None
    assert outputs.terms.shape[2] == outputs.logits.shape[1]
