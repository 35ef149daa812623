"""Fits one head: solved or trained, its best epoch or penalty chosen on validation rows or by folds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch

from ilse.core.errors import FailedError
from trainer.config import Recipe
from trainer.fitting.attached import attached, current, log_curve
from trainer.fitting.best import BestStates
from trainer.fitting.folded import Triple, require_foldable, train_by_folds
from trainer.fitting.isolation import seeded
from trainer.fitting.loop import Watch
from trainer.fitting.losses import VALIDATION_ROWS, measured, validate
from trainer.fitting.progress import Progress
from trainer.fitting.running import trained
from trainer.fitting.settled import settled
from trainer.fitting.solved import Solved, solve
from trainer.heads import Head
from trainer.objectives import Objective
from trainer.rows.in_memory import Examples
from trainer.rows.weights import weights_at, weights_of


@dataclass(frozen=True)
class Epoch:
    """One line of a training curve."""

    epoch: int
    train_loss: float
    val_loss: float
    val_score: float


@dataclass(frozen=True)
class Fit:
    """A trained head in its best state, and how it got there."""

    head: Head
    best: Epoch
    curve: list[Epoch]
    seconds: float
    layer_scores: list[float] | None
    """For `best`: the validation figure of every layer's probe at its own best epoch."""
    penalty: float | None = None
    """Penalty of a head that was solved, not trained; its `curve` then has one strength per epoch."""
    drawn: bool = True
    """Whether its seed mattered: not if the head is solved and validation chooses its penalty."""
    epochs_before: int = 0
    """Epochs that an interrupted fit had done, with which this one went on."""


def fit(
    head: Head,
    train: Examples,
    validation: Examples,
    objective: Objective,
    recipe: Recipe,
    seed: int,
    device: str = "auto",
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Fit:
    """Trains `head` on `train` and returns it in the state of its best validation epoch.

    The rows hold the layers that the head reads. `device` is auto, cpu or cuda. Of `LayerProbes` the best layer on
    validation is chosen too, and its `SingleLayer` head is returned; `head` keeps them all, each in its own best state.
    A head that is one linear map is solved (`trainer.fitting.solved`), unless the recipe says otherwise. With
    `recipe.folds`, folds of both splits choose, and the head has learned from both (`trainer.fitting.folded`). What the
    recipe leaves open is settled by the head and the rows (`trainer.fitting.settled`). With `progress` an interrupted
    fit is resumed, to the same result on the same machine. `watch` may end it early; for a solved head it is called for
    every penalty. A fit that folds or a penalty choose starts again. Raises `NotFiniteError` for a loss that is not
    finite.
    """
    accelerator = _accelerator(device)
    recipe = settled(recipe, head, objective, train, validation)
    if isinstance(recipe.folds, int):
        require_foldable(head, train, validation, recipe.folds)
    if recipe.optimizer == "lbfgs" or recipe.folds is not None:
        loggers = current().loggers
        with attached():  # nobody watches each fold
            if recipe.optimizer == "lbfgs":
                objective.learn(train.y, recipe.imbalance, weights_of(train))
                with seeded(seed):
                    solved = solve(head, train, validation, objective, recipe, seed, accelerator, watch)
                    result = _of_solved(head, solved)
            else:
                folded = train_by_folds(head, train, validation, objective, recipe, seed, accelerator)
                with seeded(seed):
                    result = _result(head, folded.best, folded.history, folded.seconds)
                if watch is not None:
                    watch(result.best.epoch, result.best.val_score)
        log_curve(map(asdict, result.curve), loggers)
        return result
    training = trained(head, train, lambda head, _: validate(head, objective, validation), objective, recipe, seed,
                       accelerator, progress, watch)  # fmt: skip
    with seeded(seed):  # a probe that becomes a head of its own is drawn, and then given its weights
        result = _result(head, training.best, training.history, training.seconds)
        return _calibrated(replace(result, epochs_before=training.epochs_before), objective, validation)


def _of_solved(head: Head, solved: Solved) -> Fit:
    """The path of penalties stands for the curve, a strength for an epoch."""
    head.cpu()
    at = [solved.path[place] for place in solved.chosen.tolist()]
    scores = [float(place.score[k]) for k, place in enumerate(at)]
    ranked = solved.ranked()
    first = ranked[0]
    curve = [
        Epoch(number, *(float(values[first]) for values in (place.train_loss, place.loss, place.score)))
        for number, place in enumerate(solved.path)
    ]
    best, kept = curve[int(solved.chosen[first])], head.settle(ranked).eval()
    return Fit(
        head=kept,
        best=best,
        curve=curve,
        seconds=solved.seconds,
        layer_scores=None if kept is head else scores,
        penalty=1 / at[first].strength,
        drawn=solved.by_folds,
    )


def _accelerator(device: str) -> str:
    present = torch.cuda.is_available()
    if device == "cuda" and not present:
        raise FailedError(
            "parameter train.device",
            expected="a CUDA device",
            found="none that PyTorch can use",
            next_step="set train.device to auto, or install a PyTorch with CUDA",
        )
    return "cuda" if present and device != "cpu" else "cpu"


def _result(head: Head, best: BestStates, history: list[Triple], seconds: float) -> Fit:
    head.cpu().load_state_dict(head.state_dict() | best.state)
    for parameter in head.parameters():  # the optimizer's vector and the last gradients end with the fit
        parameter.data, parameter.grad = parameter.detach().clone(), None
    ranked = sorted(range(len(best.score)), key=lambda k: (-float(best.score[k]), float(best.loss[k])))
    chosen = ranked[0]
    curve = [Epoch(epoch, *(float(values[chosen]) for values in triple)) for epoch, triple in enumerate(history)]
    kept = head.settle(ranked).eval()
    return Fit(
        head=kept,
        best=curve[int(best.epoch[chosen])],
        curve=curve,
        seconds=seconds,
        layer_scores=None if kept is head else [float(score) for score in best.score],
    )


@torch.no_grad()
def _calibrated(result: Fit, objective: Objective, validation: Examples) -> Fit:
    """The fit after the head has made its own choices on validation, such as exit thresholds."""
    weights = weights_at(validation, validation.order())
    if not result.head.calibrate(validation.chunks(VALIDATION_ROWS), weights):
        return result
    loss, score = (float(value) for value in measured(result.head, result.head, objective, validation))
    return replace(result, best=replace(result.best, val_loss=loss, val_score=score))
