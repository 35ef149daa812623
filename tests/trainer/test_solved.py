"""Linear heads at their optimum: scikit-learn's models, with a penalty that folds or validation choose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor
from torch.nn import functional

import trainer.fitting.solved
from ilse.core.errors import UserError
from pipeline.store import open_cache
from tests.trainer.conftest import DIM, LABELS, LAYERS, TELLING, Made, head_of, of_labels
from trainer.config import Recipe, TrainParams
from trainer.data.task import open_task
from trainer.estimator import HeadClassifier
from trainer.fitting.fit import Fit, fit
from trainer.fitting.solved import FOLDS, STRENGTHS, folds_of
from trainer.heads import build_head
from trainer.objectives import MultiClass, make
from trainer.rows.in_memory import Rows
from trainer.stages.train import HeadTrainer

MakeRows = Callable[..., Rows]


def recipe(**changes: Any) -> Recipe:
    own = {} if "preset" in changes else {"optimizer": "auto", "folds": None}
    return Recipe.model_validate({"label_smoothing": 0.0, **own, **changes})


def solved(name: str, train: Rows, validation: Rows, options: dict[str, Any] | None = None, **changes: Any) -> Fit:
    return fit(head_of(name, **(options or {})), train, validation, of_labels(), recipe(**changes), 0, "cpu")


def sklearns(rows: Rows, layer: int, strength: float, **options: Any) -> LogisticRegression:
    model = LogisticRegression(C=strength, max_iter=20_000, tol=1e-9, **options)
    return model.fit(rows.x[:, layer].double().numpy(), rows.y.numpy())


def joined(one: Rows, other: Rows) -> Rows:
    return Rows(torch.cat([one.x, other.x]), torch.cat([one.y, other.y]), [*one.text_ids, *other.text_ids])


def probabilities(result: Fit, rows: Rows) -> Tensor:
    x = rows.x if rows.x.shape[1] == len(result.head.layers_read) else rows.x[:, list(result.head.layers_read)]
    with torch.no_grad():
        found: Tensor = result.head(x).softmax(-1)
    return found


def alone(rows: Rows, layer: int) -> Rows:
    return Rows(rows.x[:, [layer]], rows.y, rows.text_ids)


@pytest.mark.parametrize("imbalance", ["none", "weights", "sampling"])
def test_a_given_penalty_gives_scikit_learns_model(rows: MakeRows, imbalance: str) -> None:
    train, validation = rows(80), rows(40, seed=1)
    options = {} if imbalance == "none" else {"class_weight": "balanced"}
    result = solved("layer", alone(train, 2), validation=alone(validation, 2), options={"layer": TELLING}, penalty=4.0,
                    refit=False, imbalance=imbalance)  # fmt: skip
    twin = sklearns(train, TELLING, 1 / 4.0, **options)
    expected = twin.predict_proba(validation.x[:, TELLING].double().numpy())
    np.testing.assert_allclose(probabilities(result, validation), expected, atol=2e-3)
    assert result.penalty == 4.0
    assert (len(result.curve), result.best.epoch) == (1, 0)
    assert result.best.val_score == pytest.approx((expected.argmax(1) == validation.y.numpy()).mean())


def test_validation_chooses_where_it_is_asked_to_however_small_it_is(rows: MakeRows) -> None:
    train, validation = alone(rows(60), TELLING), alone(rows(20, seed=1), TELLING)
    result = solved("layer", train, validation, {"layer": TELLING}, penalty="validation", refit=False)
    right = (probabilities(result, validation).argmax(1) == validation.y).double().mean()
    assert result.best.val_score == pytest.approx(float(right))
    others = [
        solved("layer", train, validation, {"layer": TELLING}, penalty=1 / strength, refit=False).best
        for strength in STRENGTHS
    ]
    best = max(others, key=lambda epoch: (round(epoch.val_score, 6), -epoch.val_loss))
    assert result.best.val_score == pytest.approx(best.val_score)
    assert result.best.val_loss == pytest.approx(best.val_loss, rel=1e-3)


def test_the_path_of_penalties_may_be_ended(rows: MakeRows) -> None:
    seen: list[tuple[int, float]] = []

    def stop(number: int, score: float) -> bool:
        seen.append((number, score))
        return number == 3

    result = fit(head_of("best"), rows(60), rows(30, seed=1), of_labels(), recipe(), 0, "cpu", watch=stop)
    assert [number for number, _ in seen] == [0, 1, 2, 3]
    assert len(result.curve) == 4
    assert [score for _, score in seen] == sorted(score for _, score in seen)
    assert result.best.val_score == seen[-1][1]


def test_folds_choose_and_all_labelled_rows_are_solved_on(rows: MakeRows) -> None:
    train, validation = rows(60), rows(20, seed=1)
    result = solved("layer", alone(train, TELLING), alone(validation, TELLING), {"layer": TELLING})
    known = joined(train, validation)
    fold, merits = folds_of(known.y, 0), []
    for strength in STRENGTHS[: len(result.curve)]:
        right, loss = 0, 0.0
        for number in range(FOLDS):
            inside = fold != number
            model = sklearns(Rows(known.x[inside], known.y[inside], []), TELLING, strength)
            told = model.predict_proba(known.x[~inside, TELLING].double().numpy())
            y = known.y[~inside].numpy()
            right += int((told.argmax(1) == y).sum())
            loss -= float(np.log(told[np.arange(len(y)), y]).sum())
        merits.append((right / len(fold), -loss / len(fold)))
    best = max(range(len(merits)), key=lambda i: merits[i])
    assert result.best.epoch == best
    assert result.penalty == pytest.approx(1 / STRENGTHS[best])
    assert (result.best.val_score, -result.best.val_loss) == pytest.approx(merits[best], rel=1e-3)
    twin = sklearns(known, TELLING, STRENGTHS[best])
    others = rows(50, seed=2)
    expected = twin.predict_proba(others.x[:, TELLING].double().numpy())
    np.testing.assert_allclose(probabilities(result, others), expected, atol=2e-3)


def test_a_large_validation_split_chooses_and_is_not_solved_on(rows: MakeRows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.fitting.solved, "FEW_ROWS", 20)
    train, validation = alone(rows(60), TELLING), alone(rows(40, seed=1), TELLING)
    result = solved("layer", train, validation, {"layer": TELLING})
    told = [sklearns(train, 0, strength).predict_proba(validation.x[:, 0].double().numpy()) for strength in STRENGTHS]
    y = validation.y.numpy()
    merits = [((p.argmax(1) == y).mean(), np.log(p[np.arange(40), y]).mean()) for p in told[: len(result.curve)]]
    best = max(range(len(merits)), key=lambda i: merits[i])
    assert result.best.epoch == best
    np.testing.assert_allclose(probabilities(result, validation), told[best], atol=2e-3)
    joint = solved("layer", train, validation, {"layer": TELLING}, refit=True)
    assert joint.best == result.best, "measured before validation is solved on too"
    both = sklearns(joined(train, validation), 0, STRENGTHS[best])
    np.testing.assert_allclose(
        probabilities(joint, validation), both.predict_proba(validation.x[:, 0].double().numpy()), atol=2e-3
    )


def test_each_layer_of_best_is_solved_as_if_alone(rows: MakeRows) -> None:
    train, validation = rows(70), rows(30, seed=1)
    probes = head_of("best")
    result = fit(probes, train, validation, of_labels(), recipe(), 0, "cpu")
    singles = [solved("layer", alone(train, k), alone(validation, k), {"layer": k}) for k in range(len(LAYERS))]
    assert result.layer_scores == pytest.approx([single.best.val_score for single in singles])
    assert result.head.layers_read == (TELLING,)
    assert result.penalty == singles[TELLING].penalty
    for k, single in enumerate(singles):
        kept = probes.probe(k).state_dict()  # type: ignore[operator]
        torch.testing.assert_close(dict(kept), dict(single.head.state_dict()), rtol=0.02, atol=2e-3)
    x = validation.x[:, [TELLING]]
    torch.testing.assert_close(result.head(x), singles[TELLING].head(x), rtol=0.02, atol=5e-3)


@pytest.mark.parametrize("name", ["mean", "max", "concat"])
def test_a_fusion_without_hidden_layers_is_solved_too(rows: MakeRows, name: str) -> None:
    train, validation = rows(60), rows(30, seed=1)
    result = solved(name, train, validation, {"rows": 4} if name == "concat" else None, penalty=1.0, refit=False)
    fused = {"mean": lambda x: x.mean(1), "max": lambda x: x.amax(1), "concat": lambda x: x.flatten(1)}[name]
    x, x_validation = (fused(part.x.double()).numpy() for part in (train, validation))
    twin = LogisticRegression(C=1.0, max_iter=20_000, tol=1e-9).fit(x, train.y.numpy())
    np.testing.assert_allclose(probabilities(result, validation), twin.predict_proba(x_validation), atol=3e-3)


def test_two_labels_are_scikit_learns_two(rows: MakeRows) -> None:
    some = rows(90)
    kept = some.y < 2
    train = Rows(some.x[kept], some.y[kept], [])
    head = build_head("layer", {"layer": TELLING}, layers=len(LAYERS), dim=DIM, out=2)
    result = fit(head, alone(train, TELLING), alone(train, TELLING), MultiClass(LABELS[:2]),
                 recipe(penalty=2.0, refit=False), 0, "cpu")  # fmt: skip
    twin = sklearns(train, TELLING, 0.5)
    np.testing.assert_allclose(
        probabilities(result, train), twin.predict_proba(train.x[:, TELLING].double().numpy()), atol=2e-3
    )


def test_a_label_without_rows_is_never_chosen(rows: MakeRows) -> None:
    some = rows(90)
    kept = some.y != 1
    train = Rows(some.x[kept], some.y[kept], [])
    result = solved("layer", alone(train, TELLING), alone(some, TELLING), {"layer": TELLING}, refit=False)
    assert probabilities(result, some)[:, 1].max() < 1e-5
    assert np.isfinite(result.best.val_loss)
    joint = solved("layer", alone(train, TELLING), alone(some, TELLING), {"layer": TELLING})
    assert probabilities(joint, some)[:, 1].max() > 0.1


def test_smoothing_is_a_target_spread_over_the_labels(rows: MakeRows) -> None:
    train = rows(60)
    result = solved("layer", alone(train, TELLING), alone(train, TELLING), {"layer": TELLING}, penalty=0.5,
                    refit=False, label_smoothing=0.2)  # fmt: skip
    weight, bias = (value.double().detach().requires_grad_() for value in result.head.state_dict().values())
    outputs = train.x[:, TELLING].double() @ weight.T + bias
    loss = functional.cross_entropy(outputs, train.y, label_smoothing=0.2, reduction="sum")
    least = loss + 0.25 * weight.square().sum()
    least.backward()
    assert weight.grad is not None
    assert float(weight.grad.abs().max()) < 0.05
    assert float(result.best.train_loss) == pytest.approx(least.detach().item() / 60, rel=1e-4)


@pytest.mark.parametrize("kind", ["ordinal", "multi_label", "regression"])
def test_other_objectives_are_at_their_optimum_too(rows: MakeRows, kind: str) -> None:
    """By autograd: the gradient of the objective's own loss, summed over labels, and the penalty is none."""
    some = rows(80)
    generator = torch.Generator().manual_seed(0)
    y = {
        "ordinal": some.y,
        "multi_label": (
            torch.rand(80, 3, generator=generator) + 0.3 * (some.y[:, None] == torch.arange(3)) > 0.6
        ).float(),
        "regression": some.y.double() * 3 + torch.randn(80, generator=generator).double(),
    }[kind]
    train = Rows(some.x[:, [TELLING]], y, [])
    objective = make(kind, LABELS, 0, "cosent")  # type: ignore[arg-type]
    head = build_head("layer", {"layer": TELLING}, layers=len(LAYERS), dim=DIM, out=objective.out)
    imbalance = "none" if kind == "regression" else "weights"
    result = fit(head, train, train, objective,
                 recipe(penalty=2.0, refit=False, imbalance=imbalance, label_smoothing=0.1), 0, "cpu")  # fmt: skip
    head = result.head.double()
    smoothing = 0.0 if kind == "regression" else 0.1
    loss = objective.losses(head(train.x.double()), y, smoothing)[0] * 80
    loss = loss * {"ordinal": 1, "multi_label": 3, "regression": 0.5}[kind]
    loss = loss + head.readout.weight.square().sum()  # type: ignore[union-attr, operator]
    loss.backward()
    for parameter in head.parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) < 0.05
    if kind == "regression":
        twin = Ridge(alpha=2.0).fit(train.x[:, 0].double().numpy(), y.numpy())
        told = objective.predict(head(train.x.double())).detach()
        np.testing.assert_allclose(told, twin.predict(train.x[:, 0].double().numpy()), rtol=1e-2, atol=1e-3)


def test_a_seed_fixes_every_bit_and_draws_the_folds(rows: MakeRows) -> None:
    train, validation = rows(60), rows(20, seed=1)
    first, again = (solved("best", train, validation) for _ in range(2))
    assert first.curve == again.curve
    for name, value in first.head.state_dict().items():
        assert torch.equal(value, again.head.state_dict()[name])
    assert not torch.equal(folds_of(train.y, 0), folds_of(train.y, 1))
    counts = torch.stack(
        [torch.stack([train.y[folds_of(train.y, 0) == f] == c for f in (0, 1)]).sum(1) for c in (0, 1)]
    )
    assert int((counts[:, 0] - counts[:, 1]).abs().max()) <= 1


def test_other_optimizers_train_and_lbfgs_is_refused_where_there_is_no_optimum(rows: MakeRows) -> None:
    train, validation = rows(40), rows(20, seed=1)
    assert solved("mean", train, validation, optimizer="adamw", epochs=2).penalty is None
    assert solved("mlp", train, validation, epochs=2).penalty is None
    assert solved("mean", train, validation, {"mlp_layers": 1}, epochs=2).penalty is None
    assert solved("mean", train, validation, preset="paper", epochs=2).penalty is None
    with pytest.raises(UserError, match=r"train.recipe.optimizer(.|\n)*'mlp', which is not linear"):
        solved("mlp", train, validation, optimizer="lbfgs")


def test_rows_that_are_not_finite_are_refused(rows: MakeRows) -> None:
    for spoiled in ("training", "validation"):
        train, validation = rows(40), rows(20, seed=1)
        (train if spoiled == "training" else validation).x[3, 2, 0] = float("inf")
        with pytest.raises(UserError, match=rf"{spoiled} rows\n(.|\n)*finite"):
            solved("best", train, validation)


def test_a_stage_says_the_penalty_and_keeps_it(made: Made) -> None:
    said: list[str] = []
    task = open_task(open_cache(made.cache), made.examples)
    params = TrainParams.model_validate({"heads": ["best"], "device": "cpu", "recipe": {"optimizer": "auto"}})
    result, trained = HeadTrainer(task, params, "best", said.append).of_seed(0)
    assert trained.facts.penalty == result.penalty
    assert f"at penalty {result.penalty:.3g}" in said[-1]
    assert trained.facts.best_epoch == result.best.epoch
    assert result.best.val_score > 0.6


def test_rows_that_do_not_fit_are_trained_on_as_before(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    task = open_task(open_cache(made.cache), made.examples)
    section: dict[str, Any] = {"heads": ["mean"], "device": "cpu", "memory_budget": 12e-6}
    section["recipe"] = {"epochs": 2, "optimizer": "auto"}
    result, _ = HeadTrainer(task, TrainParams.model_validate(section), "mean").of_seed(0)
    assert result.penalty is None
    assert "trained on by AdamW" in capsys.readouterr().err
    section["recipe"]["optimizer"] = "lbfgs"
    with pytest.raises(UserError, match="rows that are read as they are used"):
        HeadTrainer(task, TrainParams.model_validate(section), "mean").of_seed(0)


def test_without_held_back_rows_folds_choose(rows: MakeRows) -> None:
    """The training rows themselves would choose the weakest penalty."""
    some = rows(90)
    model = HeadClassifier("last", recipe={"optimizer": "auto"}, validation_fraction=0.0, device="cpu")
    model.fit(some.x.numpy(), some.y.numpy())
    assert model.validation_score_ < model.score(some.x.numpy(), some.y.numpy())


def test_old_facts_have_no_penalty(made: Made, tmp_path: Path) -> None:
    """A head that an earlier version wrote is read as before."""
    from trainer.artifacts.artifact import load_head, save_head

    task = open_task(open_cache(made.cache), made.examples)
    params = TrainParams.model_validate({"heads": ["last"], "device": "cpu", "recipe": {"optimizer": "auto"}})
    _, trained = HeadTrainer(task, params, "last").of_seed(0)
    tmp_path.joinpath("head").mkdir()
    save_head(tmp_path / "head", trained)
    config = tmp_path / "head" / "config.json"
    import json

    facts = json.loads(config.read_text())
    del facts["facts"]["penalty"]
    config.write_text(json.dumps(facts))
    assert load_head(tmp_path / "head").facts.penalty is None
