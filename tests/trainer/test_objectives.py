"""Objectives against slow loops: losses, figures and predictions; and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score

from ilse.core.errors import UserError
from trainer.objectives import KINDS, Kind, Objective, choose, make, restore
from trainer.objectives.multi_class import MultiClass
from trainer.objectives.similarity import Similarity
from trainer.results.figures import NAMES
from trainer.rows.in_memory import label_weights

LABELS = ("bad", "fair", "good", "best")
EXAMPLES, CANDIDATES, WIDTH = 23, 3, 5
ALL: tuple[Kind, ...] = ("multi_class", "multi_label", "ordinal", "regression", "similarity")


def objective_of(kind: Kind, y: Tensor, imbalance: str = "none", loss: Any = "cosent") -> Objective:
    objective = make(kind, LABELS, WIDTH, loss)
    objective.learn(y, imbalance)
    return objective


def drawn(kind: Kind, seed: int = 0, candidates: int = CANDIDATES) -> tuple[Tensor, Tensor]:
    """Outputs [texts, candidates, out] and targets of `EXAMPLES` examples."""
    generator = torch.Generator().manual_seed(seed)
    out = make(kind, LABELS, WIDTH, "cosent").out
    texts = 2 * EXAMPLES if kind == "similarity" else EXAMPLES
    outputs = torch.randn(texts, candidates, out, generator=generator, dtype=torch.float64)
    y = {
        "multi_label": lambda: (torch.rand(EXAMPLES, len(LABELS), generator=generator) < 0.4).float(),
        "regression": lambda: 7 + 3 * torch.randn(EXAMPLES, generator=generator, dtype=torch.float64),
        "similarity": lambda: torch.randint(11, (EXAMPLES,), generator=generator).double() / 2,
    }.get(kind, lambda: torch.randint(len(LABELS), (EXAMPLES,), generator=generator))()
    return outputs, y


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def binary(z: float, target: float, positive: float = 1.0) -> float:
    return -(positive * target * math.log(sigmoid(z)) + (1 - target) * math.log(1 - sigmoid(z)))


def cosine(outputs: Tensor, example: int, candidate: int) -> float:
    u, v = (outputs[2 * example + side, candidate].tolist() for side in (0, 1))
    dot = sum(a * b for a, b in zip(u, v, strict=True))
    return dot / math.sqrt(sum(a * a for a in u) * sum(b * b for b in v))


def scaled(y: Tensor, i: int) -> float:
    return (float(y[i]) - float(y.min())) / (float(y.max()) - float(y.min()))


def slow_loss(kind: Kind, outputs: Tensor, y: Tensor, k: int, smoothing: float, loss: str) -> float:
    """The loss of candidate k, an example at a time."""
    if kind == "similarity":
        cos = [cosine(outputs, i, k) for i in range(len(y))]
        if loss == "mse":
            low, high = float(y.min()), float(y.max())
            told = [low + (high - low) * (c + 1) / 2 for c in cos]
            return sum((told[i] - float(y[i])) ** 2 for i in range(len(y))) / len(y)
        if loss == "contrastive":
            each = [(1 - c) ** 2 if scaled(y, i) >= 0.5 else max(0.0, 0.5 - (1 - c)) ** 2 for i, c in enumerate(cos)]
            return sum(each) / len(y) / 2
        wrong = [20 * (cos[j] - cos[i]) for i in range(len(y)) for j in range(len(y)) if y[i] > y[j]]
        return math.log(1 + sum(map(math.exp, wrong)))
    total = 0.0
    for i in range(len(y)):
        z = outputs[i, k].tolist()
        if kind == "ordinal":
            for level, value in enumerate(z):
                total += binary(value, (1 - smoothing) * (int(y[i]) > level) + smoothing / 2)
        elif kind == "multi_label":
            targets = [(1 - smoothing) * float(there) + smoothing / 2 for there in y[i]]
            total += sum(binary(value, target) for value, target in zip(z, targets, strict=True)) / len(z)
        elif kind == "regression":
            deviation = math.sqrt(sum((float(v) - float(y.mean())) ** 2 for v in y) / len(y))
            total += (z[0] - (float(y[i]) - float(y.mean())) / deviation) ** 2
    return total / len(y)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ("multi_label", "mse"),
        ("ordinal", "mse"),
        ("regression", "mse"),
        *(("similarity", x) for x in ("cosent", "mse", "contrastive")),
    ],
)
def test_losses_are_the_obvious_loops(kind: Kind, loss: str, smoothing: float) -> None:
    outputs, y = drawn(kind)
    objective = objective_of(kind, y, loss=loss)
    expected = [slow_loss(kind, outputs, y, k, smoothing, loss) for k in range(CANDIDATES)]
    np.testing.assert_allclose(objective.losses(outputs, y, smoothing), expected, rtol=1e-4)
    np.testing.assert_allclose(objective.losses(outputs[:, 0], y, smoothing), expected[:1], rtol=1e-4)


@pytest.mark.parametrize("loss", ["cosent", "mse", "contrastive"])
def test_cosines_learn_from_their_gradients(loss: Any) -> None:
    """The gradient check in double precision: `losses` itself goes by float32."""
    outputs, y = drawn("similarity", candidates=1)
    objective = objective_of("similarity", y, loss=loss)
    small = outputs[:8].clone().requires_grad_()
    step, (found,) = 1e-3, torch.autograd.grad(objective.losses(small, y[:4]).sum(), small)
    for place in [(0, 0, 1), (3, 0, 0), (6, 0, 4)]:
        ends = []
        for sign in (1, -1):
            moved = outputs[:8].clone()
            moved[place] += sign * step
            ends.append(float(objective.losses(moved, y[:4])))
        assert float(found[place]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=0.02, abs=1e-3)


@pytest.mark.parametrize("kind", ["multi_class", "ordinal"])
def test_weighted_losses_are_the_obvious_sums(kind: Kind) -> None:
    outputs, y = drawn(kind)
    weighted, plain = objective_of(kind, y, "weights"), objective_of(kind, y)
    each = torch.stack([plain.losses(outputs[[i]], y[[i]]) for i in range(EXAMPLES)])
    expected = sum(label_weights(y)[y[i]] * each[i] for i in range(EXAMPLES)) / EXAMPLES
    torch.testing.assert_close(weighted.losses(outputs, y), expected)
    torch.testing.assert_close(weighted.plain_losses(outputs, y), plain.losses(outputs, y))


def test_a_rare_label_of_several_counts_more_where_it_is_there() -> None:
    outputs, y = drawn("multi_label")
    objective = objective_of("multi_label", y, "weights")
    ratios = [(EXAMPLES - float(y[:, c].sum())) / float(y[:, c].sum()) for c in range(len(LABELS))]
    expected = [
        sum(
            binary(float(outputs[i, k, c]), float(y[i, c]), ratios[c])
            for i in range(EXAMPLES) for c in range(len(LABELS))
        ) / EXAMPLES / len(LABELS)
        for k in range(CANDIDATES)
    ]  # fmt: skip
    np.testing.assert_allclose(objective.losses(outputs, y), expected, rtol=1e-4)
    torch.testing.assert_close(objective.plain_losses(outputs, y), objective_of("multi_label", y).losses(outputs, y))


def slow_pearson(a: list[float], b: list[float]) -> float:
    a, b = ([value - sum(values) / len(values) for value in values] for values in (a, b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def slow_spearman(a: list[float], b: list[float]) -> float:
    """Pearson's of the ranks; equal values share their mean rank."""
    return slow_pearson(*([sum(o < v for o in x) + sum(o == v for o in x) / 2 for v in x] for x in (a, b)))


def slow_figure(kind: Kind, outputs: Tensor, y: Tensor, k: int) -> float:
    if kind == "multi_class":
        return sum(int(outputs[i, k].argmax()) == int(y[i]) for i in range(len(y))) / len(y)
    if kind == "multi_label":
        cells = [(float(z) > 0, float(t) > 0) for i in range(len(y)) for z, t in zip(outputs[i, k], y[i], strict=True)]
        return 2 * sum(a and b for a, b in cells) / sum(a + b for a, b in cells)
    if kind == "ordinal":
        return slow_kappa([first_not_passed(outputs[i, k].tolist()) for i in range(len(y))], y.tolist())
    if kind == "regression":
        deviation = float(y.std(correction=0))
        errors = [(float(outputs[i, k, 0]) * deviation + float(y.mean()) - float(y[i])) ** 2 for i in range(len(y))]
        return 1 - sum(errors) / sum((float(v) - float(y.mean())) ** 2 for v in y)
    return slow_spearman([cosine(outputs, i, k) for i in range(len(y))], y.tolist())


def first_not_passed(logits: list[float]) -> int:
    return next((level for level, z in enumerate(logits) if z <= 0), len(logits))


def slow_kappa(found: list[int], actual: list[int]) -> float:
    """1 - (what it misses by) / (what it would miss by, were both independent), by squared distance."""
    missed = sum((a - b) ** 2 for a, b in zip(found, actual, strict=True)) / len(actual)
    by_chance = sum((a - b) ** 2 for a in found for b in actual) / len(actual) ** 2
    return 1 - missed / by_chance


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("parts", [1, 3])
def test_the_figure_is_the_obvious_one_however_it_is_batched(kind: Kind, parts: int) -> None:
    outputs, y = drawn(kind, seed=1)
    objective = objective_of(kind, y)
    size = -(-EXAMPLES // parts)
    texts = 2 if kind == "similarity" else 1
    answers = [objective.answers(o, t) for o, t in zip(outputs.split(size * texts), y.split(size), strict=True)]
    expected = [slow_figure(kind, outputs, y, k) for k in range(CANDIDATES)]
    np.testing.assert_allclose(objective.score(torch.cat(answers), y), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ALL)
def test_evaluation_and_validation_agree(kind: Kind) -> None:
    """The figure by which a head is chosen comes first among those of its predictions, and is the same number."""
    outputs, y = drawn(kind, seed=2)
    objective = objective_of(kind, y)
    one = outputs[:, 0].float()
    figures = objective.figures(objective.predict(one), y)
    assert next(iter(figures)) == objective.metric
    assert objective.metric in NAMES
    assert figures[objective.metric] == pytest.approx(float(objective.score(objective.answers(one, y), y)), abs=1e-5)
    assert all(math.isfinite(value) for value in figures.values())


def test_figures_of_scores_are_the_textbooks() -> None:
    outputs, y = drawn("regression", seed=3)
    objective = objective_of("regression", y)
    predicted = objective.predict(outputs[:, 0])
    found = objective.figures(predicted, y)
    assert found["pearson"] == pytest.approx(slow_pearson(predicted.tolist(), y.tolist()))
    assert found["spearman"] == pytest.approx(slow_spearman(predicted.tolist(), y.tolist()))
    assert found["mae"] == pytest.approx(float((predicted - y).abs().mean()))


@pytest.mark.parametrize("kind", ["multi_class", "ordinal"])
def test_probabilities_sum_to_one_and_their_largest_answers_are_told(kind: Kind) -> None:
    outputs, y = drawn(kind, seed=4)
    objective = objective_of(kind, y)
    predicted = objective.predict(outputs[:, 0])
    torch.testing.assert_close(predicted.sum(-1), torch.ones(EXAMPLES, dtype=torch.float64))
    assert predicted.min() >= 0
    columns = objective.columns(predicted, y)
    assert columns["label"] == [LABELS[int(i)] for i in y]
    right = sum(a == b for a, b in zip(columns["label"], columns["prediction"], strict=True)) / EXAMPLES
    assert objective.figures(predicted, y)["accuracy"] == pytest.approx(right)


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 50), labels=st.integers(2, 40))
@settings(max_examples=50, deadline=None)
def test_the_mean_f1_is_torchmetrics(seed: int, rows: int, labels: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    objective = MultiClass(tuple(map(str, range(labels))))
    predicted = torch.rand(rows, labels, generator=draw).softmax(-1)
    y = torch.randint(labels, (rows,), generator=draw)
    expected = float(multiclass_f1_score(predicted, y, labels, average="macro"))
    assert objective.figures(predicted, y)["f1_macro"] == expected


def test_the_figures_of_100_000_labels_need_no_table_of_labels_by_labels() -> None:
    objective = MultiClass(tuple(map(str, range(100_000))))
    found = objective.figures(torch.eye(3, 100_000), torch.tensor([0, 1, 3]))
    assert found == {"accuracy": pytest.approx(2 / 3), "f1_macro": pytest.approx(0.5)}


def test_an_ordinal_answer_is_the_level_it_goes_beyond() -> None:
    """Logits that fall with the level: the number of positive ones."""
    objective = make("ordinal", LABELS, 0, "mse")
    logits = torch.tensor([[-1.0, -2.0, -3.0], [2.0, -1.0, -3.0], [3.0, 2.0, -1.0], [3.0, 2.0, 1.0]])
    y = torch.arange(4)
    assert objective.answers(logits, y).flatten().tolist() == [0, 1, 2, 3]
    assert objective.columns(objective.predict(logits), y)["prediction"] == list(LABELS)


def test_lists_of_labels_are_told_by_name() -> None:
    objective = make("multi_label", LABELS, 0, "mse")
    y = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0]])
    columns = objective.columns(objective.predict(torch.tensor([[3.0, 1, -1, -1], [-1, -1, -1, -1]])), y)
    assert columns["labels"] == [["bad", "best"], []]
    assert columns["predictions"] == [["bad", "fair"], []]


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(0.01, 1000), shift=st.floats(-1000, 1000))
def test_the_scores_scale_is_of_no_matter(scale: float, shift: float) -> None:
    for kind in ("regression", "similarity"):
        outputs, y = drawn(kind, seed=5)  # type: ignore[arg-type]
        for loss in ("cosent", "contrastive"):
            one, other = (objective_of(kind, scores, loss=loss) for scores in (y, y * scale + shift))  # type: ignore[arg-type]
            np.testing.assert_allclose(one.losses(outputs, y), other.losses(outputs, y * scale + shift), rtol=1e-3)


def test_cosines_that_are_all_the_same_have_no_correlation() -> None:
    outputs = torch.ones(2 * EXAMPLES, 1, WIDTH)
    _, y = drawn("similarity")
    objective = objective_of("similarity", y)
    assert objective.score(objective.answers(outputs, y), y).tolist() == [0.0]


@pytest.mark.parametrize("kind", ALL)
def test_what_is_told_rebuilds_it(kind: Kind) -> None:
    outputs, y = drawn(kind)
    one = objective_of(kind, y, loss="mse")
    other = restore(one.facts(), LABELS)
    torch.testing.assert_close(one.predict(outputs[:, 0]), other.predict(outputs[:, 0]))
    torch.testing.assert_close(one.losses(outputs, y), other.losses(outputs, y))
    assert other.out == one.out


def test_auto_goes_by_the_examples() -> None:
    found = {(targets, pairs): choose("auto", targets, pairs) for targets in KINDS for pairs in (False, True)}
    assert found == {
        ("label", False): "multi_class", ("label", True): "multi_class",
        ("labels", False): "multi_label", ("labels", True): "multi_label",
        ("score", False): "regression", ("score", True): "similarity",
    }  # fmt: skip
    assert choose("regression", "score", True) == "regression"
    assert choose("ordinal", "label", False) == "ordinal"


@pytest.mark.parametrize(
    ("asked", "targets", "pairs", "message"),
    [
        ("similarity", "score", False, r"regression for examples with a text and a column 'score'"),
        ("multi_class", "score", True, r"regression or similarity for examples with two texts"),
        ("ordinal", "labels", False, r"multi_label for examples"),
    ],
)
def test_examples_of_another_kind(asked: Any, targets: Any, pairs: bool, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(asked, targets, pairs)


REFUSED: list[tuple[Kind, Callable[[], Tensor], str, str]] = [
    ("regression", lambda: torch.full((4,), 2.0), "none", r"scores that differ(.|\n)*only 2"),
    ("similarity", lambda: torch.full((4,), 2.0), "none", r"scores that differ(.|\n)*only 2"),
    ("regression", lambda: torch.arange(4.0), "weights", r"imbalance(.|\n)*none for the objective regression"),
    ("similarity", lambda: torch.arange(4.0), "sampling", r"imbalance(.|\n)*none for the objective similarity"),
    ("multi_label", lambda: torch.ones(4, 4), "sampling", r"none or weights for the objective multi_label"),
]


@pytest.mark.parametrize(("kind", "targets", "imbalance", "message"), REFUSED)
def test_targets_that_nothing_can_be_learned_from(
    kind: Kind, targets: Callable[[], Tensor], imbalance: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        objective_of(kind, targets(), imbalance)


def test_the_vectors_width_is_what_was_asked_for() -> None:
    assert Similarity(7).out == 7


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind != "similarity"])
def test_the_loss_of_predictions_is_that_of_the_outputs_they_come_from(kind: Kind) -> None:
    outputs, y = drawn(kind, candidates=1)
    outputs = outputs.sort(-1, descending=True).values if kind == "ordinal" else outputs  # P(y > k) falls with k
    objective = objective_of(kind, y)
    found = objective.predicted_loss(objective.predict(outputs[:, 0]), y)
    assert found == pytest.approx(float(objective.plain_losses(outputs, y)[0]), rel=1e-6)


def test_what_was_predicted_to_be_impossible_has_a_finite_loss() -> None:
    objective = objective_of("multi_class", torch.tensor([0, 1]))
    assert objective.predicted_loss(torch.tensor([[0.0, 1.0, 0.0, 0.0]]), torch.tensor([0])) == pytest.approx(
        16.118, abs=1e-3
    )
    assert objective_of("similarity", torch.tensor([0.0, 1.0])).predicted_loss(torch.zeros(2), torch.zeros(2)) is None
