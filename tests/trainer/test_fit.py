"""The training loop against a plain PyTorch one, and which epoch it keeps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import trainer.fitting.fit
import trainer.fitting.losses
from ilse.core.errors import UserError
from tests.trainer.conftest import LAYERS, TELLING, head_of, of_labels, recipe_of
from trainer.config import Recipe
from trainer.fitting.best import BestStates
from trainer.fitting.fit import fit
from trainer.fitting.flat import FlatParameters
from trainer.fitting.losses import validate
from trainer.heads import HEADS, Head, LayerProbes
from trainer.objectives import MultiClass, Objective
from trainer.rows.in_memory import IndexBatches, Rows

MakeRows = Callable[..., Rows]


def accuracy(objective: Objective, logits: Tensor, y: Tensor) -> Tensor:
    return objective.score(objective.answers(logits, y), y)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def plain_fit(head: Head, train: Rows, validation: Rows, recipe: Recipe, seed: int) -> list[dict[str, Any]]:
    """The loop as a textbook has it: the state, loss and accuracy after each epoch."""
    torch.manual_seed(seed)
    shuffling = torch.Generator().manual_seed(seed)
    rates = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[recipe.optimizer]
    optimizer = kind(head.parameters(), **rates, fused=True)
    schedule: Any = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=3)
    shares = train.y.bincount().double() / len(train.y)
    weights = 1 / (len(shares) * shares) if recipe.imbalance == "weights" else None
    if recipe.schedule == "one_cycle":
        steps = recipe.epochs * math.ceil(len(train.y) / recipe.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=recipe.learning_rate, total_steps=steps)
    epochs = []
    for _ in range(recipe.epochs):
        head.train()
        order = torch.randperm(len(train.y), generator=shuffling)
        for start in range(0, len(order), recipe.batch_size):
            batch = order[start : start + recipe.batch_size]
            each = functional.cross_entropy(
                head(train.x[batch]), train.y[batch], label_smoothing=recipe.smoothing, reduction="none"
            )
            loss = (each if weights is None else each * weights[train.y[batch]]).mean()
            optimizer.zero_grad()
            loss.backward()
            if recipe.gradient_clip:
                nn.utils.clip_grad_norm_(head.parameters(), recipe.gradient_clip)
            optimizer.step()
            schedule.step()
        head.eval()
        with torch.no_grad():
            logits = head(validation.x)
            loss = functional.cross_entropy(logits, validation.y)
            accuracy = (logits.argmax(1) == validation.y).double().mean()
        if recipe.schedule == "plateau":
            plateau.step(loss)
        epochs.append(
            {"loss": float(loss), "accuracy": float(accuracy), "state": copy.deepcopy(head.state_dict())}
        )  # fmt: skip
    return epochs


@pytest.mark.parametrize(
    ("name", "options", "changes"),
    [
        ("weighted", {}, {}),
        ("mlp", {"dropout": 0.3, "hidden": 16}, {"gradient_clip": 0.05}),
        ("cayley", {"dropout": 0.1, "hidden": 8}, {"gradient_clip": 0, "weight_decay": 0.5}),
        ("mean", {}, {"schedule": "constant", "label_smoothing": 0, "batch_size": 1000}),
        ("weighted", {}, {"preset": "paper", "epochs": 15, "learning_rate": 0.3}),
        ("mean", {}, {"imbalance": "weights", "label_smoothing": 0.1}),
    ],
)
def test_the_loop_is_the_plain_one(rows: MakeRows, name: str, options: dict[str, Any], changes: dict[str, Any]) -> None:
    recipe = recipe_of(**changes)
    # In float64: AdamW makes steps of full size even from gradients that are rounding alone.
    train, validation = (Rows(part.x.double(), part.y, part.text_ids) for part in (rows(70), rows(40, seed=1)))
    expected = plain_fit(head_of(name, **options).double(), train, validation, recipe, seed=5)
    result = fit(head_of(name, **options).double(), train, validation, of_labels(), recipe, 5, "cpu")

    np.testing.assert_allclose([e.val_loss for e in result.curve], [e["loss"] for e in expected], rtol=1e-8)
    assert [e.val_score for e in result.curve] == [e["accuracy"] for e in expected]
    best = max(expected, key=lambda epoch: (epoch["accuracy"], -epoch["loss"]))
    assert result.best == result.curve[expected.index(best)]
    torch.testing.assert_close(dict(result.head.state_dict()), dict(best["state"]), rtol=1e-8, atol=1e-9)
    assert not result.head.training


def test_a_separable_problem_is_learned_where_it_can_be(rows: MakeRows) -> None:
    accuracy = {}
    for name in ("last", "best", "mlp"):
        head = head_of(name)
        train, validation = (rows(count, seed, head.layers_read) for count, seed in ((200, 0), (80, 1)))
        accuracy[name] = fit(head, train, validation, of_labels(), recipe_of(epochs=12), 0).best.val_score
    assert accuracy["best"] > 0.9
    assert accuracy["mlp"] > 0.9
    assert accuracy["last"] < 0.75


EPOCHS = st.lists(
    st.lists(st.tuples(st.sampled_from([0.0, 0.5, 0.75]), st.sampled_from([0.1, 0.2, 9.0])), min_size=3, max_size=3),
    min_size=1,
    max_size=6,
)


@given(epochs=EPOCHS, candidates=st.sampled_from([1, 3]))
def test_the_best_epoch_has_the_highest_accuracy_then_the_lowest_loss_then_is_the_first(
    epochs: list[list[tuple[float, float]]], candidates: int
) -> None:
    best = BestStates(candidates)
    for number, outcome in enumerate(epochs):
        accuracy, loss = (
            torch.tensor(values, dtype=torch.float64)[:candidates] for values in zip(*outcome, strict=True)
        )
        best.offer(number, accuracy, loss, {"w": torch.full((3, 2), float(number)), "b": torch.full((3,), number)})
    for k in range(candidates):
        right = max(range(len(epochs)), key=lambda e: (epochs[e][k][0], -epochs[e][k][1], -e))
        assert int(best.epoch[k]) == right
        assert (float(best.score[k]), float(best.loss[k])) == epochs[right][k]
        own = slice(None) if candidates == 1 else k
        assert best.state["w"][own].unique().tolist() == [right]
        assert best.state["b"][own].unique().tolist() == [right]


def test_the_returned_head_has_the_weights_of_its_best_epoch(rows: MakeRows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the last epoch's, nor a view of weights that went on moving."""
    states, outcomes = [], iter([0.2, 0.9, 0.9, 0.4])

    def recorded(head: Head, *_given: object) -> tuple[Tensor, Tensor]:
        states.append(copy.deepcopy(head.state_dict()))
        return torch.ones(1).double(), torch.tensor([next(outcomes)]).double()

    monkeypatch.setattr(trainer.fitting.fit, "validate", recorded)
    result = fit(head_of("set", hidden=8), rows(40), rows(10), of_labels(), recipe_of(epochs=4), 0, "cpu")
    assert result.best.epoch == 1
    assert same(result.head.state_dict(), states[1])
    assert not same(states[1], states[2])


@pytest.mark.parametrize("clip", [0, 0.3])
def test_probes_train_as_each_layers_head_does_alone(rows: MakeRows, clip: float) -> None:
    train, validation, recipe = rows(70), rows(40, seed=1), recipe_of(gradient_clip=clip)
    probes = head_of("best")
    assert isinstance(probes, LayerProbes)
    alone = []
    for layer in range(len(LAYERS)):
        one = (Rows(part.x[:, [layer]], part.y, part.text_ids) for part in (train, validation))
        alone.append(fit(copy.deepcopy(probes).probe(layer), *one, of_labels(), recipe, 3, "cpu"))

    result = fit(probes, train, validation, of_labels(), recipe, 3, "cpu")
    assert result.layer_scores == pytest.approx([single.best.val_score for single in alone])
    for layer, single in enumerate(alone):
        kept = probes.probe(layer).state_dict()
        torch.testing.assert_close(dict(kept), dict(single.head.state_dict()), rtol=1e-4, atol=1e-5)
    assert result.head.layers_read == (TELLING,)
    assert result.best.epoch == alone[TELLING].best.epoch
    assert [epoch.val_loss for epoch in result.curve] == pytest.approx([e.val_loss for e in alone[TELLING].curve])
    torch.testing.assert_close(result.head(validation.x[:, [TELLING]]), alone[TELLING].head(validation.x[:, [TELLING]]))


@given(seed=st.integers(0, 1000), largest=st.sampled_from([0.0, 0.01, 1.0, 100.0]))
@settings(max_examples=20, deadline=None)
def test_clipping_is_torchs_for_each_candidate(seed: int, largest: float) -> None:
    torch.manual_seed(seed)
    probes = head_of("best", seed)
    flat = FlatParameters(probes)
    for parameter in probes.parameters():
        scales = torch.rand(len(LAYERS)).view(-1, *[1] * (parameter.ndim - 1))
        parameter.grad = torch.randn(parameter.shape) * scales
    expected = copy.deepcopy([p.grad for p in probes.parameters()])
    for layer in range(len(LAYERS)):
        views = [nn.Parameter(gradient[layer]) for gradient in expected]
        for view in views:
            view.grad = view.data
        if largest:
            nn.utils.clip_grad_norm_(views, largest)
    flat.gather_gradients(len(LAYERS), largest)
    torch.testing.assert_close(flat.vector.grad, torch.cat([gradient.flatten() for gradient in expected]))


@pytest.mark.parametrize("name", HEADS)
def test_a_seed_fixes_every_bit(rows: MakeRows, name: str) -> None:
    def trained(seed: int) -> trainer.fitting.fit.Fit:
        head = head_of(name, seed)
        train, validation = rows(40, 0, head.layers_read), rows(20, 1, head.layers_read)
        return fit(head, train, validation, of_labels(), recipe_of(epochs=2), seed, "cpu")

    first, again, other = trained(1), trained(1), trained(2)
    assert same(first.head.state_dict(), again.head.state_dict())
    assert first.curve == again.curve
    assert first.curve != other.curve


def test_a_head_in_evaluation_mode_is_trained_with_its_dropout(rows: MakeRows) -> None:
    fits = [
        fit(
            head_of("mlp", dropout=0.5).train(mode),
            rows(40),
            rows(20, seed=1),
            of_labels(),
            recipe_of(epochs=2),
            0,
            "cpu",
        )
        for mode in (True, False)
    ]
    assert fits[0].curve == fits[1].curve


def test_training_leaves_its_rows_as_they_are(rows: MakeRows) -> None:
    train, validation = rows(40), rows(20, seed=1)
    before = (train.x.clone(), validation.x.clone())
    fit(head_of("cayley"), train, validation, of_labels(), recipe_of(epochs=1), 0, "cpu")
    assert torch.equal(train.x, before[0])
    assert torch.equal(validation.x, before[1])


@given(rows=st.integers(1, 40), batch_size=st.integers(1, 50))
@settings(deadline=None)
def test_an_epoch_shows_each_row_once_with_its_label(rows: int, batch_size: int) -> None:
    x = torch.arange(rows).float().view(-1, 1, 1)
    batches = IndexBatches(Rows(x, torch.arange(rows), []), batch_size, seed=0)
    epochs = [list(batches), list(batches)]
    for epoch in epochs:
        assert len(epoch) == len(batches)
        assert all(len(y) <= batch_size and torch.equal(values.flatten().long(), y) for values, y in epoch)
        assert sorted(torch.cat([y for _, y in epoch]).tolist()) == list(range(rows))
    if rows > 10:
        assert torch.cat([y for _, y in epochs[0]]).tolist() != torch.cat([y for _, y in epochs[1]]).tolist()


@given(batch=st.integers(1, 6), candidates=st.integers(1, 4), out=st.integers(2, 5), smoothing=st.floats(0, 0.9))
@settings(deadline=None)
def test_losses_and_accuracies_are_the_obvious_loops(batch: int, candidates: int, out: int, smoothing: float) -> None:
    torch.manual_seed(batch * 100 + candidates * 10 + out)
    logits, y = torch.randn(batch, candidates, out), torch.randint(out, (batch,))
    losses, accuracies = [], []
    for k in range(candidates):
        loss, right = 0.0, 0
        for i in range(batch):
            exponentials = [math.exp(float(z)) for z in logits[i, k]]
            logs = [math.log(e / sum(exponentials)) for e in exponentials]
            target = [smoothing / out + (1 - smoothing) * (c == int(y[i])) for c in range(out)]
            loss -= sum(t * log for t, log in zip(target, logs, strict=True))
            right += exponentials.index(max(exponentials)) == int(y[i])
        losses.append(loss / batch)
        accuracies.append(right / batch)
    objective = MultiClass(tuple(map(str, range(out))))
    np.testing.assert_allclose(objective.losses(logits, y, smoothing), losses, rtol=1e-4)
    np.testing.assert_allclose(accuracy(objective, logits, y), accuracies, rtol=1e-6)
    torch.testing.assert_close(objective.losses(logits[:, 0], y, smoothing), objective.losses(logits, y, smoothing)[:1])
    torch.testing.assert_close(accuracy(objective, logits[:, 0], y), accuracy(objective, logits, y)[:1])


@pytest.mark.parametrize("name", ["best", "mlp"])
@pytest.mark.parametrize("count", [1, 7, 8, 20])
def test_validation_is_batched_and_without_dropout(
    rows: MakeRows, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    monkeypatch.setattr(trainer.fitting.losses, "VALIDATION_ROWS", 8)
    options = {"dropout": 0.9} if name == "mlp" else {}
    head, some, seen = head_of(name, **options), rows(count), []
    expected = head.eval()(some.x)
    handle = head.train().register_forward_hook(lambda _head, given, _logits: seen.append(len(given[0])))
    loss, found = validate(head, of_labels(), some)
    handle.remove()
    assert sum(seen) == count
    assert max(seen) <= 8
    assert head.training
    torch.testing.assert_close(loss.float(), of_labels().losses(expected, some.y).detach())
    torch.testing.assert_close(found, accuracy(of_labels(), expected, some.y))


@pytest.mark.parametrize("spoiled", ["training", "validation"])
@pytest.mark.parametrize("name", ["best", "mean"])
def test_a_loss_that_is_not_finite_ends_training(rows: MakeRows, spoiled: str, name: str) -> None:
    train, validation = rows(40), rows(20, seed=1)
    (train if spoiled == "training" else validation).x[3, 2, 0] = float("inf")
    place = r"epoch 0, step \d of 3" if spoiled == "training" else "epoch 0"
    with pytest.raises(UserError, match=rf"{spoiled} loss at {place}\n(.|\n)*(nan|inf)(.|\n)*learning_rate"):
        fit(head_of(name), train, validation, of_labels(), recipe_of(), 0, "cpu")


def test_an_interruption_stays_one(rows: MakeRows, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MultiClass, "losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(head_of("mean"), rows(40), rows(20), of_labels(), recipe_of(), 0, "cpu")


def test_cuda_without_a_device_is_a_users_error(rows: MakeRows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"train.device(.|\n)*set train.device to auto"):
        fit(head_of("mean"), rows(40), rows(20), of_labels(), recipe_of(), 0, "cuda")


TRAINED: dict[str, dict[str, Any]] = {
    **{name: {} for name in HEADS},
    "layer": {"layer": TELLING},
    "concat": {"rows": 2},
    "exits": {"training": "separate"},
    "cayley": {"supervision": 0.5, "hidden": 16},
}


@pytest.mark.parametrize("name", TRAINED)
def test_every_head_learns_in_the_one_loop(name: str, rows: MakeRows) -> None:
    """Above chance (1/3) on rows that it never saw; `last` reads a layer that carries little, `max` mixes in noise."""
    options = {"hidden": 16, **TRAINED[name]} if "hidden" in HEADS[name].options.model_fields else TRAINED[name]
    head = head_of(name, **options)
    train, validation = (
        Rows(part.x[:, list(head.layers_read)], part.y, part.text_ids) for part in (rows(120), rows(60, seed=1))
    )
    result = fit(head, train, validation, of_labels(), recipe_of(epochs=8), seed=0, device="cpu")
    assert result.best.val_score > (0.4 if name in ("last", "max") else 0.6)
    assert (result.layer_scores is not None) == (name == "best")
    kept = result.head
    x = validation.x if name != "best" else validation.x[:, list(kept.layers_read)]
    with torch.no_grad():
        accuracy = float((kept(x).argmax(1) == validation.y).double().mean())
    assert accuracy == pytest.approx(result.best.val_score)


def test_plateau_lowers_the_rate(rows: MakeRows) -> None:
    """In the twin test above too, where it can only be seen in the numbers: here that it happens."""
    seen = []
    original = torch.optim.lr_scheduler.ReduceLROnPlateau.step

    def step(self: Any, loss: float) -> None:
        original(self, loss)
        seen.append(self.optimizer.param_groups[0]["lr"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.lr_scheduler.ReduceLROnPlateau, "step", step)
        fit(
            head_of("mean"),
            rows(70),
            rows(40, seed=1),
            of_labels(),
            recipe_of(preset="paper", epochs=15, learning_rate=0.3),
            0,
        )
    assert seen[0] == 0.3
    assert seen[-1] < 0.3


def test_patience_ends_training(rows: MakeRows, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = iter([0.2, 0.9, 0.5, 0.9, 0.1, 0.95])
    monkeypatch.setattr(
        trainer.fitting.fit,
        "validate",
        lambda *_: (torch.ones(1).double(), torch.tensor([next(outcomes)]).double()),
    )
    result = fit(head_of("mean"), rows(40), rows(10), of_labels(), recipe_of(patience=2), 0, "cpu")
    assert [epoch.val_score for epoch in result.curve] == pytest.approx([0.2, 0.9, 0.5, 0.9])
    assert result.best.epoch == 1
