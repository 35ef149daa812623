"""A head as a scikit-learn classifier over cached activations.

    X = rows_of("data/cache.zarr", examples["text_id"])                  # [texts, layers, dim]
    cross_val_score(HeadClassifier("mlp", recipe={"epochs": 10}), X, examples["label"])

Treatment, objective, recipe and training loop are those of `ilse train`. What a pipeline's earlier steps make of X has
two axes: there `layers` says how many layers stand side by side in a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ilse.errors import UserError
from ilse.label_order import in_order
from ilse.params import validate
from pipeline.store import Cache, open_cache
from trainer.apart import seeded
from trainer.config import Recipe
from trainer.fit import fit
from trainer.heads import Head, build_head
from trainer.objectives import make
from trainer.poolings import Poolings
from trainer.rows import Rows
from trainer.settled import settled
from trainer.stored import gather
from trainer.treatment import Treatment

PREDICTED_ROWS = 256
"""Rows that are predicted at a time."""


class HeadClassifier(ClassifierMixin, BaseEstimator):
    """One head, trained on the rows that it is given; a part of them chooses the best epoch.

    Parameters
    ----------
    head
        Its name, one of `trainer.heads.HEADS`.
    options
        Its options, or some of them, as under `train.options`.
    recipe
        How it is trained, or how that differs from the default: keys of `train.recipe`.
    layers
        Layers in a row of an X with two axes, [rows, layers · dim]; one without it. X may have three, [rows, layers,
        dim], as the cache has them.
    objective
        `multi_class`, or `ordinal` for labels whose sorted order means something; numbers are sorted by value, though
        they be strings.
    validation_fraction
        Share of every label's rows that chooses the best epoch and is not trained on; of each label at least one row
        is trained on. With none for it, as with 0, the training rows choose. Where folds choose, as they do of at
        most 1,000 rows unless the recipe says otherwise, no rows are held back: all are trained on.
    random_state
        Seed of weights, batches and that share.
    device
        auto, cpu or cuda.

    Attributes
    ----------
    classes_
        Labels in the order of the probabilities.
    n_layers_, n_features_in_
        Layers of a row, and its values, layers · dim.
    treatment_, head_, objective_
        What was fitted.
    best_epoch_, validation_score_
        Of the epoch that is kept: its number from 0, and accuracy (ordinal: weighted kappa) on the held-back rows,
        or by folds.

    Raises
    ------
    UserError
        In `fit`, for a head, option or recipe that there is not. Of X and y, `ValueError` as scikit-learn has it.
    """

    def __init__(
        self,
        head: str = "weighted",
        *,
        options: Mapping[str, Any] | None = None,
        recipe: Mapping[str, Any] | Recipe | None = None,
        layers: int | None = None,
        objective: Literal["multi_class", "ordinal"] = "multi_class",
        validation_fraction: float = 0.1,
        random_state: Any = 0,
        device: str = "auto",
    ) -> None:
        self.head = head
        self.options = options
        self.recipe = recipe
        self.layers = layers
        self.objective = objective
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any) -> HeadClassifier:
        """Trains on X [rows, layers, dim] or [rows, layers · dim] with labels y [rows]."""
        recipe = validate("recipe", Recipe, self.recipe or {}, where="HeadClassifier")
        if "tokens" in (self.options or {}):
            raise UserError(
                f"HeadClassifier, head '{self.head}'",
                expected="options of a head that reads rows, which X has",
                found="'tokens'",
                next_step="train heads that read tokens by 'ilse train' or trainer.fit",
            )
        flat, layers = self._flat(X, self.layers)
        flat, y = validate_data(self, flat, y, dtype=np.float32)
        check_classification_targets(y)
        rows = _layered(flat, layers)
        self.n_layers_ = rows.shape[1]
        self.classes_, indices = np.unique(y, return_inverse=True)
        if self.objective == "ordinal":
            self.classes_, indices = _by_value(self.classes_, indices)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        held_back = _held_back(indices, self.validation_fraction, seed)
        with seeded(seed):
            self._fit(rows, torch.from_numpy(indices), torch.from_numpy(held_back), recipe, seed)
        return self

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """The label of every row, [rows]."""
        probabilities = torch.from_numpy(self.predict_proba(X))
        chosen: npt.NDArray[Any] = self.classes_[self.objective_.chosen(probabilities).numpy()]
        return chosen

    @torch.inference_mode()
    def predict_proba(self, X: Any) -> npt.NDArray[np.float32]:
        """Probabilities, [rows, labels], in the order of `classes_`."""
        check_is_fitted(self)
        flat, layers = self._flat(X, self.n_layers_)
        rows = _layered(validate_data(self, flat, dtype=np.float32, reset=False), layers)
        parts = rows[:, list(self.head_.layers_read)].split(PREDICTED_ROWS)
        outputs = torch.cat([self.head_(self.treatment_(part)) for part in parts])
        found: npt.NDArray[np.float32] = self.objective_.predict(outputs).numpy()
        return found

    def _fit(self, rows: Tensor, y: Tensor, held_back: Tensor, recipe: Recipe, seed: int) -> None:
        objective = make(self.objective, tuple(map(str, self.classes_)), 0, "cosent")
        dim = rows.shape[2]
        head = build_head(
            self.head, dict(self.options or {}), layers=self.n_layers_, dim=recipe.pca or dim, out=objective.out
        )
        reads = head.layers_read
        rows = rows[:, list(reads)]
        every = Rows(rows, y, [])
        recipe = settled(recipe, head, objective, every, every)
        if recipe.folds is not None:
            held_back = torch.zeros_like(held_back)
        treatment = Treatment(recipe.treatment(), len(reads), dim).fit(rows[~held_back])
        train, validation = (Rows(treatment(rows[part]), y[part], []) for part in (~held_back, held_back))
        if not held_back.any():
            validation = train
        result = fit(head, train, validation, objective, recipe, seed, self.device)
        self.head_: Head = result.head
        self.treatment_ = treatment.of_layers([reads.index(layer) for layer in result.head.layers_read])
        self.objective_: Any = objective.cpu()
        self.best_epoch_, self.validation_score_ = result.best.epoch, result.best.val_score

    def _flat(self, X: Any, layers: int | None) -> tuple[Any, int]:
        """X with two axes, as scikit-learn's checks want it, and the layers in a row."""
        if getattr(X, "ndim", 2) != 3:
            return X, layers or 1
        if layers not in (None, X.shape[1]):
            raise ValueError(f"X has {X.shape[1]} layers, but {type(self).__name__} is expecting {layers}")
        return np.asarray(X).reshape(len(X), -1), X.shape[1]


def _by_value(classes: npt.NDArray[Any], indices: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Strings that are numbers in the order of their values, and where each row's label then stands."""
    if not all(isinstance(label, str) for label in classes.tolist()):
        return classes, indices
    place = {name: index for index, name in enumerate(in_order(classes.tolist()))}
    moved = np.array([place[name] for name in classes.tolist()])
    return classes[np.argsort(moved)], moved[indices]


def rows_of(
    cache: Cache | str | Path, text_ids: Iterable[str], layers: Sequence[int] | None = None, pooling: Poolings = "mean"
) -> npt.NDArray[np.float32]:
    """X of these texts, [texts, layers, dim], in their order; of several poolings [texts, layers, poolings · dim].

    `text_ids` are such as the column of `examples.parquet`; `layers` are places among the cache's, all without them.
    Raises `UserError` for a text that the cache does not hold, and as `open_cache` does.
    """
    opened, asked = cache if isinstance(cache, Cache) else open_cache(cache), list(text_ids)
    place = {text: row for row, text in enumerate(opened.text_ids())}
    missing = [text for text in asked if text not in place]
    if missing:
        raise UserError(
            f"cache {opened.path}",
            expected="the texts of all ids",
            found=f"{len(missing)} that are not in it, such as '{missing[0]}'",
            next_step="give ids of its texts.parquet, or extract these texts too",
        )
    places = np.array([place[text] for text in asked], np.int64)
    return gather(opened, places, layers, pooling).numpy()


def _layered(flat: npt.NDArray[np.float32], layers: int) -> Float[Tensor, "rows layers dim"]:
    if flat.shape[1] % layers:
        raise ValueError(f"X has {flat.shape[1]} features, which are no {layers} layers of one width")
    return torch.tensor(flat.reshape(len(flat), layers, -1))


def _held_back(y: npt.NDArray[np.int64], fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which rows choose the epoch: `fraction` of every label's on average, but never its first one drawn, [rows]."""
    if not 0 <= fraction < 1:
        raise ValueError(f"validation_fraction should be at least 0 and below 1, got {fraction}")
    generator, chosen = np.random.default_rng(seed), np.zeros(len(y), bool)
    for label in np.unique(y):
        places = generator.permutation(np.flatnonzero(y == label))
        marks = np.floor(fraction * np.arange(len(places)) + generator.random())
        chosen[places] = np.diff(marks, prepend=0) > 0
    return chosen
