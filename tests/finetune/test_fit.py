"""Training: it learns, it changes what it should and nothing else, and a seed says all."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from torch.nn.functional import cross_entropy

from ilse.core.errors import UserError
from ilse.finetune.adapter import Classifier, adapted
from ilse.finetune.batches import count, in_order, shuffled
from ilse.finetune.config import LoraParams
from ilse.finetune.examples import Split
from ilse.finetune.fit import Fit, Work, fit, predict, rate
from pipeline.capture.tokens import Tokens
from pipeline.model.load import FrozenModel
from tests.finetune.conftest import TELLING, examples, quick
from trainer.objectives import MultiClass

Frozen = Callable[..., FrozenModel]
TRAIN, VALIDATION = range(160), range(1000, 1060)


def trained(model: Classifier, frozen: FrozenModel, params: LoraParams, seed: int = 0) -> Fit:
    splits = examples(frozen, TRAIN), examples(frozen, VALIDATION)
    return fit(model, *splits, MultiClass(TELLING), params, seed, pad=1)


def bytes_of(weights: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: weight.detach().clone().view(torch.uint8).numpy().tobytes() for name, weight in weights.items()}


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_separable_task_is_learned(frozen: Frozen, name: str) -> None:
    model = frozen(name)
    with adapted(model, quick(), len(TELLING), seed=0) as classifier:
        result = trained(classifier, model, quick())
        assert result.curve[-1].train_loss < 0.7 * result.curve[0].train_loss
        assert result.best.val_score > 0.8
        assert result.best == max(result.curve, key=lambda epoch: (epoch.val_score, -epoch.val_loss))


def test_the_classifier_is_left_in_its_best_state(frozen: Frozen) -> None:
    """Validation with the labels exchanged: the better it is trained, the worse the score."""
    model, params = frozen("llama"), quick(epochs=4, learning_rate=0.003)
    right = examples(model, VALIDATION)
    validation = Split(right.tokens, 1 - right.y)
    with adapted(model, params, len(TELLING), seed=0) as classifier:
        result = fit(classifier, examples(model, TRAIN), validation, MultiClass(TELLING), params, 0, pad=1)
        logits = predict(classifier, validation.tokens, 1, Work())
    assert result.best.val_score > result.curve[-1].val_score
    assert float((logits.argmax(-1) == validation.y).double().mean()) == pytest.approx(result.best.val_score)
    assert float(cross_entropy(logits, validation.y)) == pytest.approx(result.best.val_loss)


@pytest.mark.parametrize("compute_type", ["float32", "bfloat16"])
def test_only_additions_and_classifier_change(frozen: Frozen, compute_type: str) -> None:
    model, params = frozen("llama", compute_type), quick(epochs=1)
    before = bytes_of(dict(model.model.state_dict()))
    with adapted(model, params, len(TELLING), seed=0) as classifier:
        start, free = bytes_of(dict(classifier.state_dict())), set(classifier.trained())
        assert all(weight.dtype == torch.float32 for weight in classifier.trained().values())
        trained(classifier, model, params)
        end = bytes_of(dict(classifier.state_dict()))
    assert {name for name in start if start[name] != end[name]} == free
    assert all(".lora_" in name or name in ("head.weight", "head.bias") for name in free)
    assert bytes_of(dict(model.model.state_dict())) == before
    assert not any(weight.requires_grad for weight in model.model.parameters())


def test_the_model_is_afterwards_what_it_was(frozen: Frozen) -> None:
    model = frozen("gpt2")
    kinds = [type(module) for module in model.model.modules()]
    with suppress(ZeroDivisionError), adapted(model, quick(), 2, seed=0) as classifier:
        classifier.train()
        assert [type(module) for module in model.model.modules()] != kinds
        raise ZeroDivisionError
    assert [type(module) for module in model.model.modules()] == kinds
    assert not any(module.training for module in model.model.modules())


def test_a_seed_gives_the_same_result_again_and_another_one_another(frozen: Frozen) -> None:
    model, params = frozen("gpt2"), quick(epochs=2, dropout=0.2)
    found = []
    for seed in (0, 0, 1):
        with adapted(model, params, len(TELLING), seed) as classifier:
            trained(classifier, model, params, seed)
            found.append(bytes_of(classifier.trained()))
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_a_loss_that_is_not_finite_ends_the_run(frozen: Frozen) -> None:
    model, params = frozen("llama"), quick(epochs=1)
    with adapted(model, params, len(TELLING), seed=0) as classifier:
        torch.nn.init.constant_(classifier.head.weight, math.inf)
        with pytest.raises(UserError, match=r"training loss of lora(.|\n)*lower lora.learning_rate \(0.01\)"):
            trained(classifier, model, params)


def test_work_is_counted_in_tokens_with_padding(frozen: Frozen) -> None:
    model, params = frozen("llama"), quick(epochs=2, batch_size=160)
    train, validation = examples(model, TRAIN), examples(model, VALIDATION)
    longest = max(map(len, train.tokens.ids))
    with adapted(model, params, len(TELLING), seed=0) as classifier:
        work = fit(classifier, train, validation, MultiClass(TELLING), params, 0, 1).work
    assert work.trained == 2 * 160 * longest  # one batch an epoch, and lengths up to 16 are their own width
    assert work.predicted == 2 * 60 * max(map(len, validation.tokens.ids))
    assert work.flops(10) == 10 * (2 * work.trained + work.predicted)


def test_the_rate_rises_and_falls_in_straight_lines() -> None:
    assert [rate(0.25, 8)(step) for step in range(8)] == pytest.approx([0.5, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert [rate(0.0, 2)(step) for step in range(2)] == [1, 0.5]


def tokens_of(lengths: list[int]) -> Tokens:
    ids = [[i + 5] * length for i, length in enumerate(lengths)]
    return Tokens(ids, [[True] * length for length in lengths], [False] * len(lengths))


def test_every_text_comes_once_with_its_own_tokens_and_little_padding() -> None:
    lengths = [1 + 7 * i % 23 for i in range(300)]
    tokens, generator = tokens_of(lengths), torch.Generator().manual_seed(0)
    epochs = [list(shuffled(tokens, 16, 0, generator)) for _ in range(2)]
    assert epochs[0][0].positions.tolist() != epochs[1][0].positions.tolist()
    for batches in (*epochs, list(in_order(tokens, 16, 0))):
        assert len(batches) == count(tokens, 16) == 19
        assert sorted(i for batch in batches for i in batch.positions.tolist()) == list(range(300))
        assert sum(batch.ids.numel() for batch in batches) < 1.2 * sum(lengths)
        for batch in batches:
            for row, position in enumerate(batch.positions.tolist()):
                assert batch.ids[row][batch.mask[row].bool()].tolist() == tokens.ids[position]
