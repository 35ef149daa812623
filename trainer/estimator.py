"""A head as a scikit-learn classifier over cached activations.

    X = rows_of("data/cache.zarr", examples["text_id"])                  # [texts, layers, dim]
    cross_val_score(HeadClassifier("mlp", recipe={"epochs": 10}), X, examples["label"])

Treatment, objective, recipe and training loop are those of `ilse train`. What a pipeline's earlier steps make of X has
two axes: there `layers` says how many layers stand side by side in a row.

    X = tokens_of("data/cache.zarr", examples["text_id"])                # of each text [tokens, layers, dim]
    HeadClassifier("weighted", tokens={"rank": 32}).fit(X, examples["label"])
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
from torch import Tensor, nn
from torch.nn import functional

from ilse.core.errors import UserError
from ilse.core.params import validate
from pipeline.store import Cache, open_cache
from trainer.config import OF_TOKENS, Recipe
from trainer.data.poolings import Poolings
from trainer.data.text_rows import places_of
from trainer.fitting.fit import fit
from trainer.fitting.isolation import seeded
from trainer.fitting.settled import settled
from trainer.fitting.solved import is_linear
from trainer.heads import EncoderHead, Head, build_head
from trainer.objectives import make
from trainer.rows.distinct import distinct_rows
from trainer.rows.given_labels import by_value, given_labels, given_weights
from trainer.rows.given_split import held_back, treated_split
from trainer.rows.given_tokens import content_of, given_tokens, token_rows, tokens_of
from trainer.rows.in_memory import Rows
from trainer.rows.stored import gather
from trainer.rows.token_rows import TokenRows
from trainer.treatment import Treatment

__all__ = ["HeadClassifier", "rows_of", "tokens_of"]

PREDICTED_ROWS = 256
"""Rows that are predicted at a time."""


class HeadClassifier(ClassifierMixin, BaseEstimator):
    """One head, trained on the rows that it is given; a part of them chooses the best epoch.

    Equal rows with equal labels are one row that counts more, and the order of rows says nothing (`fit`).

    Parameters
    ----------
    head
        Its name, one of `trainer.heads.HEADS`. `linear` is solved in a second or so, and hard to beat with few rows.
    options
        Its options, or some of them, as under `train.options`.
    recipe
        How it is trained, or how that differs from the default: keys of `train.recipe`.
    tokens
        How it reads the states of tokens, as under `train.options.<head>.tokens` (`{}` for the defaults); None for a
        head that reads rows. X is then a list of arrays [tokens, layers, dim], one for each text; or a masked array
        [texts, places, layers, dim] of NumPy's, whose padding is masked. No padding changes an answer.
    layers
        Layers in a row of an X with two axes, [rows, layers · dim]; one without it. X may have three, [rows, layers,
        dim], as the cache has them.
    objective
        `multi_class`, or `ordinal` for labels whose sorted order means something; numbers are sorted by value, though
        they be strings.
    validation_fraction
        Share of every label's rows, equal ones as one, that chooses the best epoch and is not trained on; of each label
        at least one row is trained on. With none for it, as with 0, the training rows choose. Where folds choose, as
        they do of at most 1,000 rows unless the recipe says otherwise, no rows are held back: all are trained on.
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
    best_epoch_, validation_score_, validation_loss_
        Of the epoch that is kept: its number from 0; accuracy (ordinal: weighted kappa) and loss on the held-back
        rows, or by folds, each row counting its weight. Of few rows a head is best chosen by the loss.

    Raises
    ------
    UserError
        In `fit`, for a head, option or recipe that there is not. Of X and y, `ValueError` as scikit-learn has it.

    Examples
    --------
    >>> X = rows_of("data/cache.zarr", examples["text_id"])
    >>> HeadClassifier("linear").fit(X[:500], labels[:500]).score(X[500:], labels[500:])
    0.86
    """

    def __init__(
        self,
        head: str = "linear",
        *,
        options: Mapping[str, Any] | None = None,
        tokens: Mapping[str, Any] | None = None,
        recipe: Mapping[str, Any] | Recipe | None = None,
        layers: int | None = None,
        objective: Literal["multi_class", "ordinal"] = "multi_class",
        validation_fraction: float = 0.1,
        random_state: Any = 0,
        device: str = "auto",
    ) -> None:
        self.head = head
        self.options = options
        self.tokens = tokens
        self.recipe = recipe
        self.layers = layers
        self.objective = objective
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> HeadClassifier:
        """Train the head.

        Equal rows with equal labels are taken as one row that counts more, and rows are put into an order that follows
        from their values. So a row given twice and one of weight 2 are the same, rows may come in any order, and no
        copy of a row that is trained on chooses an epoch or a penalty.

        Parameters
        ----------
        X
            Rows [rows, layers, dim] or [rows, layers · dim]; with `tokens`, the tokens of each text.
        y
            Labels, [rows].
        sample_weight
            What each row counts, [rows]: in the statistics that standardise, in the loss, and in the figures that
            choose an epoch or a penalty. 0 leaves a row out; a whole number is as if the row stood there so often. A
            head that is trained in epochs draws rows as often as their weights say. The scale of the weights matters
            only beside a `penalty` that the recipe gives. None: 1 each.

        Returns
        -------
        HeadClassifier
            This classifier, fitted.

        Raises
        ------
        UserError
            For a head, option or recipe that there is not.
        ValueError
            For X, y and weights of other shapes or lengths, NaN, a negative weight, and weights that are all 0.

        Examples
        --------
        >>> model = HeadClassifier("linear").fit(X, y, sample_weight=np.where(y == "sport", 2.0, 1.0))
        >>> model.predict(X[:2])
        array(['sport', 'politics'], dtype='<U8')
        """
        recipe = self._recipe()
        if "tokens" in (self.options or {}):
            raise UserError(
                f"HeadClassifier, head '{self.head}'",
                expected="options of the head itself",
                found="'tokens'",
                next_step="give them as HeadClassifier(tokens=…)",
            )
        flat: npt.NDArray[np.float32] | None = None
        if self.tokens is None:
            flat, self.n_layers_ = self._flat(X, self.layers)
            flat, y = validate_data(self, flat, y, dtype=np.float32, order="C")
            _require_layers(flat.shape[1], self.n_layers_)
            content = flat.__getitem__
        else:
            tokens = given_tokens(X)
            y = given_labels(y, len(tokens))
            self.n_layers_, self.n_features_in_ = tokens.values.shape[1], tokens.values[0].numel()
            content = content_of(tokens)
        weights = given_weights(sample_weight, y)
        check_classification_targets(y)
        kept = np.arange(len(y)) if weights is None else np.flatnonzero(weights)
        self.classes_, indices = np.unique(y[kept], return_inverse=True)
        if self.objective == "ordinal":
            self.classes_, indices = by_value(self.classes_, indices)
        distinct = distinct_rows(content, kept, indices, None if weights is None else weights[kept])
        places, indices = kept[distinct.chosen], indices[distinct.chosen]
        y, own = torch.from_numpy(indices), None if distinct.weights is None else torch.from_numpy(distinct.weights)
        examples: Rows | TokenRows
        if flat is None:
            examples = token_rows(tokens, y, torch.from_numpy(places), own)
        else:  # a copy in any case: rows are treated in its memory
            examples = Rows(_layered(torch.from_numpy(flat[places]), self.n_layers_), y, [], own)
        if not isinstance(recipe.penalty, str):  # beside the sum of the weighted losses
            recipe = recipe.model_copy(update={"penalty": recipe.penalty / distinct.scale})
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        held = torch.from_numpy(held_back(indices, self.validation_fraction, seed))
        with seeded(seed):
            self._fit(examples, held, recipe, seed)
        return self

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Answer rows.

        Parameters
        ----------
        X
            Rows or tokens, as in `fit`.

        Returns
        -------
        ndarray
            The label of every row, [rows]: with the objective `multi_class` the most probable one, with `ordinal` the
            middle one of the probabilities.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            For rows of another number of layers or another width, and NaN.

        Examples
        --------
        >>> model.predict(X[:2])
        array(['sport', 'politics'], dtype='<U8')
        """
        probabilities = torch.from_numpy(self.predict_proba(X))
        chosen: npt.NDArray[Any] = self.classes_[self.objective_.chosen(probabilities).numpy()]
        return chosen

    @torch.inference_mode()
    def predict_proba(self, X: Any) -> npt.NDArray[np.float32]:
        """Give the probability of each label.

        Parameters
        ----------
        X
            Rows or tokens, as in `fit`.

        Returns
        -------
        ndarray
            Probabilities, [rows, labels], in the order of `classes_`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            For rows of another number of layers or another width, and NaN.

        Examples
        --------
        >>> model.predict_proba(X[:2]).round(2)
        array([[0.04, 0.96],
               [0.91, 0.09]], dtype=float32)
        """
        check_is_fitted(self)
        places = list(self.head_.layers_read)
        if self.tokens is None:
            flat, layers = self._flat(X, self.n_layers_)
            rows = _layered(torch.tensor(validate_data(self, flat, dtype=np.float32, reset=False)), layers)
            parts = rows[:, places].split(PREDICTED_ROWS)
            outputs = torch.cat([_answered(self.head_, self.treatment_(part)) for part in parts])
        else:
            tokens = given_tokens(X, (self.n_layers_, self.n_features_in_ // self.n_layers_)).of_layers(places)
            every = torch.arange(len(tokens))
            examples = token_rows(tokens, every, every).treated(self.treatment_.in_place)
            outputs = torch.cat([self.head_(x) for x, _ in examples.chunks(PREDICTED_ROWS)])
        found: npt.NDArray[np.float32] = self.objective_.predict(outputs).float().numpy()
        return found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Give the accuracy on rows with labels.

        Parameters
        ----------
        X
            Rows or tokens, as in `fit`.
        y
            Their labels, [rows].
        sample_weight
            What each row counts, [rows]. None: 1 each.

        Returns
        -------
        float
            The share of rows whose label is predicted, from 0 to 1.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            For rows of another number of layers or another width, NaN, and labels or weights of another length.

        Examples
        --------
        >>> model.score(X_test, y_test)
        0.86
        """
        return float(super().score(X, y, sample_weight))

    def _recipe(self) -> Recipe:
        """How it is trained; of tokens some defaults are others, as for `ilse train`."""
        recipe = validate("recipe", Recipe, self.recipe or {}, where="HeadClassifier")
        if self.tokens is None or recipe.preset != "default":
            return recipe
        given = recipe.model_dump(include=recipe.model_fields_set)
        return Recipe.model_validate({**OF_TOKENS, **given})

    def _fit(self, examples: Rows | TokenRows, held: Tensor, recipe: Recipe, seed: int) -> None:
        objective = make(self.objective, tuple(map(str, self.classes_)), 0, "cosent")
        dim = self.n_features_in_ // self.n_layers_
        tokens = None if self.tokens is None else dict(self.tokens)
        head = build_head(
            self.head,
            dict(self.options or {}),
            layers=self.n_layers_,
            dim=recipe.pca or dim,
            out=objective.out,
            tokens=tokens,
        )
        reads = head.layers_read
        recipe = settled(recipe, head, objective, examples, examples)
        if recipe.folds is not None:
            held = torch.zeros_like(held)
        treatment = Treatment(recipe.treatment(), len(reads), dim)
        train, validation = treated_split(examples, held, treatment, list(reads))
        if not held.any():
            validation = train
        result = fit(head, train, validation, objective, recipe, seed, self.device)
        self.head_: Head = result.head
        self.treatment_ = treatment.of_layers([reads.index(layer) for layer in result.head.layers_read])
        self.objective_: Any = objective.cpu()
        self.best_epoch_ = result.best.epoch
        self.validation_score_, self.validation_loss_ = result.best.val_score, result.best.val_loss

    def _flat(self, X: Any, layers: int | None) -> tuple[Any, int]:
        """X with two axes, as scikit-learn's checks want it, and the layers in a row."""
        if getattr(X, "ndim", 2) != 3:
            return X, layers or 1
        if layers not in (None, X.shape[1]):
            raise ValueError(f"X has {X.shape[1]} layers, but {type(self).__name__} is expecting {layers}")
        return np.asarray(X).reshape(len(X), -1), X.shape[1]


def _answered(head: Head, x: Float[Tensor, "rows layers dim"]) -> Float[Tensor, "rows out"]:
    """The head's outputs; of a linear one in float64, in which a row's place among others changes no answer."""
    if isinstance(head, EncoderHead) and is_linear(head):
        readout = head.readout
        assert isinstance(readout, nn.Linear)
        return functional.linear(head.encode(x).double(), readout.weight.double(), readout.bias.double())
    outputs: Tensor = head(x)
    return outputs


def rows_of(
    cache: Cache | str | Path, text_ids: Iterable[str], layers: Sequence[int] | None = None, pooling: Poolings = "mean"
) -> npt.NDArray[np.float32]:
    """Read the rows of texts from a cache, in the order of the texts.

    Parameters
    ----------
    cache
        An open cache, or its place.
    text_ids
        Ids of the texts, such as the column `text_id` of `examples.parquet`.
    layers
        Places of layers in the cache, counted from the last one where negative; all of them without it.
    pooling
        A pooling of the cache, or several.

    Returns
    -------
    numpy.ndarray
        [texts, layers, dim], float32; with several poolings [texts, layers, poolings · dim].

    Raises
    ------
    UserError
        For a text or pooling that the cache does not hold, and for a place without a cache.

    Examples
    --------
    >>> examples = polars.read_parquet("data/examples.parquet")
    >>> ilse.rows_of("data/cache.zarr", examples["text_id"]).shape
    (2225, 31, 576)
    """
    opened = cache if isinstance(cache, Cache) else open_cache(cache)
    return gather(opened, places_of(opened, text_ids), layers, pooling).numpy()


def _layered(flat: Float[Tensor, "rows values"], layers: int) -> Float[Tensor, "rows layers dim"]:
    """In the memory of `flat`."""
    return flat.view(len(flat), layers, flat.shape[1] // layers)


def _require_layers(features: int, layers: int) -> None:
    if features % layers:
        raise ValueError(f"X has {features} features, which are no {layers} layers of one width")
