"""Solves linear heads: to the optimum of the loss plus a penalty, whose strength is chosen along a path.

Where validation is small, five folds of all labelled rows choose, and the head is then solved on all of them; else
validation does, or where the recipe says so. Validation chooses what has the best figure there, then the lowest loss:
as epochs are. Folds choose the lowest loss, since the accuracy of few rows is the same at many strengths, and the best
of these by chance.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ilse.core.errors import UserError
from ilse.core.progress_bars import progress_bar
from trainer.config import Recipe
from trainer.fitting.loop import Watch
from trainer.fitting.losses import figure, summed_losses, total_weight
from trainer.fitting.optimum import CLOSEST, Loss, Models, Optimum
from trainer.heads import EncoderHead, Head, LayerProbes
from trainer.objectives import MultiClass, Objective
from trainer.objectives.multi_label import MultiLabel
from trainer.objectives.ordinal import Ordinal
from trainer.objectives.regression import Regression
from trainer.rows.in_memory import Examples, Rows, label_weights
from trainer.rows.weights import Weights, joined_weights, weights_at, weights_of

STRENGTHS = tuple(10 ** (power / 2) for power in range(-10, 9))
"""Values of C, from strong penalties to weak ones, for standardised rows: 1e-5 to 1e4."""
WORSE = 4
"""Strengths in a row that are better for no candidate: the end of the path."""
FOLDS = 5
FEW_ROWS = 500
"""Validation rows below which folds choose, as the figures are then uncertain by two points and more."""
FOLDED_ROWS = 5_000
"""Labelled rows at most for folds, which take five times as long."""
CHUNK = 4096
"""Rows at a time for what a head reads of them."""
NEVER = 16.0
"""How far below all others the output of a label without training rows is."""


@dataclass(frozen=True)
class Place:
    """One strength of the path: figures by candidate, of rows that were not solved on."""

    strength: float
    train_loss: Tensor
    loss: Tensor
    score: Tensor


@dataclass(frozen=True)
class Solved:
    """Solutions: `path` in the order of the strengths, and for each candidate the chosen place on it."""

    path: list[Place]
    chosen: Int[Tensor, " candidates"]
    seconds: float
    by_folds: bool
    """Whether folds chose, by the lowest loss, and not validation, by the best figure."""

    def ranked(self) -> list[int]:
        """The candidates, the best one first."""
        at = [self.path[place] for place in self.chosen.tolist()]
        merits = [(-float(place.score[k]), float(place.loss[k])) for k, place in enumerate(at)]
        return sorted(range(len(at)), key=lambda k: merits[k][::-1] if self.by_folds else merits[k])


def is_linear(head: Head) -> bool:
    """Whether a head is one linear map of what it reads, or one for each candidate: then it can be solved."""
    if isinstance(head, LayerProbes):
        return True
    return (
        isinstance(head, EncoderHead)
        and isinstance(head.readout, nn.Linear)
        and not any(True for _ in head.encoder.parameters())
    )


def is_solved(head: Head, objective: Objective, recipe: Recipe, rows: Examples) -> bool:
    """Whether `recipe` has this head solved and not trained.

    Raises `UserError` where it names `lbfgs` for a head, an objective or rows that have no optimum to be found.
    """
    if recipe.optimizer not in ("auto", "lbfgs"):
        return False
    why = None
    if not is_linear(head):
        why = f"'{head.spec.name}', which is not linear in its rows"
    elif not isinstance(objective, MultiClass | MultiLabel | Ordinal | Regression):
        why = f"the objective {objective.kind}"
    elif not isinstance(rows, Rows):
        why = "rows that are read as they are used"
    if why is not None and recipe.optimizer == "lbfgs":
        raise UserError(
            "parameter train.recipe.optimizer",
            expected="a linear head on labels or scores, with its rows in memory, for 'lbfgs'",
            found=why,
            next_step="set it to auto, which trains such heads by AdamW",
        )
    return why is None


def solve(
    head: Head,
    train: Examples,
    validation: Examples,
    objective: Objective,
    recipe: Recipe,
    seed: int,
    device: str,
    watch: Watch | None = None,
) -> Solved:
    """Gives `head` the weights of the optimum, each candidate with the strength that is best for it.

    The objective has learned from the training rows. `seed` draws the folds. Where `validation` is `train` itself there
    is none: then folds choose, and nothing is joined. `watch` may end the path of strengths early.
    """
    started, folds = time.perf_counter(), recipe.folds
    assert not isinstance(folds, str)  # `settled`
    x, y = _features(head, train, device), train.y
    _refuse_unless_finite("training", x)
    known = given = Labelled(x, y, objective, recipe, weights_of(train))
    alone = validation is train
    few = folds is not None or alone or (len(validation.y) < FEW_ROWS and len(y) + len(validation.y) <= FOLDED_ROWS)
    if not alone and (few if recipe.refit == "auto" else recipe.refit):
        held = _features(head, validation, device)
        _refuse_unless_finite("validation", held)
        weights = joined_weights(train, len(y), validation, len(validation.y))
        known = Labelled(torch.cat([x, held]), torch.cat([y, validation.y]), objective, recipe, weights)
    strengths = STRENGTHS if isinstance(recipe.penalty, str) else (1 / recipe.penalty,)
    choose = len(strengths) > 1
    by_folds = folds is not None or (choose and (alone or (few and recipe.penalty == "auto")))
    if by_folds:
        places = _by_folds(known, strengths, folds_of(known.y, seed, folds or FOLDS))
    else:
        places = _by_validation(given, strengths, head, validation, device)
    path = []
    with progress_bar(len(strengths), f"{head.spec.name}, penalties", "penalty") as bar:
        for found_at in _until_worse(places if watch is None else _watched(places, watch)):
            path.append(found_at)
            bar.update()
    chosen = _best(path, by_folds)
    for place in chosen.unique().tolist():
        of_it = (chosen == place).nonzero()[:, 0]
        found = known.optimum(known.x[:, of_it]).at(path[place].strength, CLOSEST)
        _put(head, of_it, *known.of_all_labels(found))
    return Solved(path, chosen, time.perf_counter() - started, by_folds)


def _refuse_unless_finite(split: str, x: Tensor) -> None:
    if not torch.isfinite(x.sum(dtype=torch.float64)):
        raise UserError(
            f"{split} rows",
            expected="finite numbers",
            found="NaN or infinite ones",
            next_step="extract the cache again in float32 or bfloat16, or keep train.recipe.standardise on",
        )


class Labelled:
    """The rows that a head's outputs are linear in, and what those are to be.

    Parameters
    ----------
    x
        [rows, candidates, width].
    y
        As the objective has them.
    objective, recipe
        Which loss, its weights of labels and its smoothing.
    weights
        What each row's loss counts; None where all count 1.
    """

    def __init__(
        self,
        x: Float[Tensor, "rows candidates width"],
        y: Tensor,
        objective: Objective,
        recipe: Recipe,
        weights: Weights = None,
    ) -> None:
        self.x, self.y, self.objective, self.weights = x, y, objective, weights
        self._present: Tensor | None = None
        self._weights: Tensor | None = None
        smoothing = recipe.smoothing
        self._loss: Loss = "sigmoid"
        if isinstance(objective, Regression):
            self._loss = "square"
            self._targets = ((y.double() - objective.mean) / objective.deviation)[:, None]
        elif isinstance(objective, MultiLabel):
            self._targets = y.double() * (1 - smoothing) + smoothing / 2
            if objective.weights is not None:
                # Presence counts more: both parts of such a loss are one of another weight and target.
                self._weights = 1 + (objective.weights.to(self._targets) - 1) * self._targets
                self._targets = 1 - (1 - self._targets) / self._weights
        else:
            assert isinstance(objective, MultiClass | Ordinal)
            if recipe.imbalance != "none":  # what is drawn as often as the others counts as much, on average
                self._weights = label_weights(y, weights)[y][:, None]
            if isinstance(objective, Ordinal):
                told = (y[:, None] > torch.arange(objective.out)).double()
                self._targets = told * (1 - smoothing) + smoothing / 2
            else:
                self._present = y.unique()
                told = (y[:, None] == self._present).double()
                told = told * (1 - smoothing) + smoothing / len(self._present)
                # Of two labels the difference of their outputs is penalised, as in scikit-learn.
                two = len(self._present) == 2
                self._loss = "sigmoid" if two else "softmax"
                self._targets = told[:, 1:] if two else told
        if weights is not None:
            self._weights = weights[:, None] if self._weights is None else self._weights * weights[:, None]
        if self._weights is not None and self._loss != "softmax":
            self._weights = self._weights.expand_as(self._targets)

    def optimum(self, x: Tensor, seen: Tensor | None = None) -> Optimum:
        """The models of some of the candidates' rows."""
        return Optimum(x, self._targets, self._loss, self._weights, seen)

    def outputs(self, found: Models, x: Float[Tensor, "rows candidates width"]) -> Tensor:
        """[rows, candidates, problems, out] as the head is to give them."""
        weight, bias = self.of_all_labels(found)
        return Models(weight, bias, found.loss, found.gap, found.passes).outputs(x)

    def of_all_labels(self, found: Models) -> tuple[Tensor, Tensor]:
        """Weights [candidates, problems, out, width] and biases; labels without rows are never chosen."""
        weight, bias = found.weight, found.bias
        if self._present is None:
            return weight, bias
        if len(self._present) == 2:
            weight, bias = torch.cat([-weight, weight], dim=2) / 2, torch.cat([-bias, bias], dim=2) / 2
        every = weight.new_zeros(*weight.shape[:2], self.objective.out, weight.shape[3])
        shift = (bias.amin(2, keepdim=True) - NEVER).expand(-1, -1, self.objective.out).clone()
        every[:, :, self._present], shift[:, :, self._present] = weight, bias
        return every, shift


def _by_folds(known: Labelled, strengths: tuple[float, ...], fold: Int[Tensor, " rows"]) -> Iterator[Place]:
    """Every row is judged by the models of the folds that it is not in."""
    optimum = known.optimum(known.x, (fold != torch.arange(int(fold.max()) + 1)[:, None]).double())
    for strength in strengths:
        found = optimum.at(strength, optimum.compared)
        outputs = known.outputs(found, known.x)[torch.arange(len(fold)), :, fold].cpu()
        yield _place(known, found, strength, [(outputs, known.y)], known.weights)


def _by_validation(
    known: Labelled, strengths: tuple[float, ...], head: Head, validation: Examples, device: str
) -> Iterator[Place]:
    optimum, weights = known.optimum(known.x), weights_at(validation, validation.order())
    for strength in strengths:
        found = optimum.at(strength, optimum.compared)
        parts = ((known.outputs(found, _read(head, x, device))[:, :, 0].cpu(), y) for x, y in validation.chunks(CHUNK))
        yield _place(known, found, strength, parts, weights)


def _place(
    known: Labelled, found: Models, strength: float, parts: Iterable[tuple[Tensor, Tensor]], weights: Weights
) -> Place:
    """The figures of the rows of `parts`, which count `weights` in that order."""
    objective, start = known.objective, 0
    loss, answers, targets = torch.zeros((), dtype=torch.float64), [], []
    for outputs, y in parts:
        own = None if weights is None else weights[start : start + len(y)]
        start += len(y)
        loss = loss + summed_losses(objective, outputs, y, own)
        answers.append(objective.answers(outputs, y))
        targets.append(y)
    score = figure(objective, torch.cat(answers), torch.cat(targets), weights)
    return Place(strength, found.loss.mean(1).cpu(), loss / total_weight(start, weights), score)


def _watched(places: Iterator[Place], watch: Watch) -> Iterator[Place]:
    """The path as far as `watch`, who is told the best figure so far, has it go on: a strength for an epoch."""
    best = -float("inf")
    for number, place in enumerate(places):
        best = max(best, float(place.score.max()))
        ends = watch(number, best)
        yield place
        if ends:
            return


def _until_worse(places: Iterator[Place]) -> Iterator[Place]:
    """The path as far as it may get better: weaker penalties take longer, and overfit more and more."""
    score: Tensor | None = None
    loss: Tensor | None = None
    since = 0
    for place in places:
        yield place
        if score is None or loss is None:
            score, loss = place.score, place.loss
            continue
        better = bool(((place.score > score) | (place.loss < loss)).any())
        score, loss = torch.maximum(score, place.score), torch.minimum(loss, place.loss)
        since = 0 if better else since + 1
        if since == WORSE:
            return


def _best(path: list[Place], by_loss: bool) -> Int[Tensor, " candidates"]:
    """For every candidate, the place with the highest figure, then the lowest loss, then the strongest penalty.

    `by_loss`: with the lowest loss, whatever the figure.
    """
    score, loss = (torch.stack(values) for values in zip(*((place.score, place.loss) for place in path), strict=True))
    if not by_loss:
        loss = loss.masked_fill(score < score.amax(0), torch.inf)
    return loss.argmin(0)


def folds_of(y: Tensor, seed: int, folds: int = FOLDS) -> Int[Tensor, " rows"]:
    """The fold of each row: as many of each label in all of them as can be."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    if y.ndim == 1 and not y.is_floating_point():
        order = order[y[order].sort(stable=True).indices]
    fold = torch.empty(len(y), dtype=torch.long)
    fold[order] = torch.arange(len(y)) % folds
    return fold


@torch.no_grad()
def _features(head: Head, rows: Examples, device: str) -> Float[Tensor, "rows candidates width"]:
    """The features in which the head's outputs are linear, in the order of the examples."""
    if isinstance(head, LayerProbes) and isinstance(rows, Rows):
        return rows.x.to(device)
    found = torch.cat([_read(head, x, device) for x, _ in rows.chunks(CHUNK)])
    ordered = torch.empty_like(found)
    ordered[rows.order()] = found
    return ordered


@torch.no_grad()
def _read(head: Head, x: Float[Tensor, "rows layers dim"], device: str) -> Float[Tensor, "rows candidates width"]:
    if isinstance(head, LayerProbes):
        return x.to(device)
    assert isinstance(head, EncoderHead)
    read: Tensor = head.encoder(x)[:, None]
    return read.to(device)


@torch.no_grad()
def _put(head: Head, candidates: Tensor, weight: Tensor, bias: Tensor) -> None:
    if isinstance(head, LayerProbes):
        head.probes.weight[candidates] = weight[:, 0].to(head.probes.weight)
        head.probes.bias[candidates] = bias[:, 0].to(head.probes.bias)
        return
    assert isinstance(head, EncoderHead)
    assert isinstance(head.readout, nn.Linear)
    head.readout.weight.copy_(weight[0, 0])
    head.readout.bias.copy_(bias[0, 0])
