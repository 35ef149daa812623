"""A scikit-learn classifier over texts: a frozen language model, and a head on all of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from ilse.core.errors import UserError
from ilse.predict.text_reader import TextReader
from trainer.estimator import HeadClassifier

_BATCH = 4096
"""Texts whose rows are read at a time."""


class TextClassifier(ClassifierMixin, BaseEstimator):
    """Texts and labels in, labels and probabilities out, for `cross_val_score`, `GridSearchCV` and pipelines.

    The language model is frozen and runs once over the texts of each `fit` and `predict`; the rows of all layers stay
    in memory. To try many heads on the same texts, use `ilse.extract` once and `HeadClassifier` on its rows: that runs
    the model only once in all.

    Parameters
    ----------
    model
        A folder in Hugging Face's layout, a GGUF file, or `owner/name` of the Hugging Face Hub (`@revision` for another
        commit than the newest).
    head
        A head's name; `linear`, on all layers, is hard to beat with few rows.
    options, recipe
        The head's options and how it is trained, as for `HeadClassifier`.
    extract
        Keys of the section `extract`, such as `{"max_tokens": 64, "poolings": ["mean", "last"]}`.
    objective
        `multi_class`, or `ordinal` for labels with an order.
    validation_fraction
        Share of each label's rows that chooses the epoch, where there are too many rows for folds.
    random_state
        Seed of weights, batches and that share.
    device
        Device of the model and the head: `auto`, `cpu` or `cuda`.

    Attributes
    ----------
    classes_
        Labels in the order of the probabilities.
    layers_
        Names of the layers that the head was offered.
    classifier_
        The fitted `HeadClassifier`.

    Raises
    ------
    UserError
        In `fit` and `predict`: for a model that cannot be read, an unknown key, and what is no text.

    Examples
    --------
    >>> classifier = ilse.TextClassifier("HuggingFaceTB/SmolLM2-135M")
    >>> classifier.fit(texts, labels).predict(["Cup final"])
    array(['sport'], dtype='<U8')
    """

    def __init__(
        self,
        model: str | Path | Mapping[str, Any] | None = None,
        head: str = "linear",
        *,
        options: Mapping[str, Any] | None = None,
        recipe: Mapping[str, Any] | None = None,
        extract: Mapping[str, Any] | None = None,
        objective: Literal["multi_class", "ordinal"] = "multi_class",
        validation_fraction: float = 0.1,
        random_state: Any = 0,
        device: str = "auto",
    ) -> None:
        self.model = model
        self.head = head
        self.options = options
        self.recipe = recipe
        self.extract = extract
        self.objective = objective
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> TextClassifier:
        """Run the model over the texts and train the head on their rows.

        Parameters
        ----------
        X
            Texts, in a list, array or column.
        y
            Their labels.
        sample_weight
            How much each text counts; 1 without it.

        Returns
        -------
        TextClassifier
            The classifier itself.

        Raises
        ------
        UserError
            For a model that cannot be read, an unknown key, and what is no text.
        ValueError
            For texts and labels of different lengths.

        Examples
        --------
        >>> ilse.TextClassifier("my-model").fit(["a goal", "a vote"] * 20, ["sport", "politics"] * 20).classes_
        array(['politics', 'sport'], dtype='<U8')
        """
        self._reader = self._opened()
        self.layers_ = self._reader.layers
        classifier = HeadClassifier(
            self.head,
            options=self.options,
            recipe=self.recipe,
            objective=self.objective,
            validation_fraction=self.validation_fraction,
            random_state=self.random_state,
            device=self.device,
        )
        self.classifier_ = classifier.fit(self._rows(X), y, sample_weight)
        self.classes_ = self.classifier_.classes_
        return self

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Label every text.

        Parameters
        ----------
        X
            Texts, in a list, array or column.

        Returns
        -------
        numpy.ndarray
            Labels, [texts].

        Raises
        ------
        UserError
            For what is no text, and a text without a token.

        Examples
        --------
        >>> classifier.predict(["Cup final"])
        array(['sport'], dtype='<U8')
        """
        check_is_fitted(self)
        return self.classifier_.predict(self._rows(X))

    def predict_proba(self, X: Any) -> npt.NDArray[np.float32]:
        """Probability of every label, in the order of `classes_`.

        Parameters
        ----------
        X
            Texts, in a list, array or column.

        Returns
        -------
        numpy.ndarray
            [texts, labels], float32.

        Raises
        ------
        UserError
            As `predict` does.

        Examples
        --------
        >>> classifier.predict_proba(["Cup final"]).shape
        (1, 5)
        """
        check_is_fitted(self)
        return self.classifier_.predict_proba(self._rows(X))

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Without the model in memory, which another process reads itself."""
        return {name: value for name, value in super().__getstate__().items() if name != "_reader"}

    def _opened(self) -> TextReader:
        if self.model is None:
            raise UserError(
                "TextClassifier",
                expected="a language model",
                found="none",
                next_step="name a folder, a GGUF file or owner/name of the Hub: TextClassifier(model)",
            )
        from pipeline.fetching.pinning import named_model

        named = self.model if isinstance(self.model, Mapping) else named_model(self.model)
        return TextReader(named, {"device": self.device, **(self.extract or {})})

    def _rows(self, X: Any) -> npt.NDArray[np.float32]:
        texts = X.tolist() if hasattr(X, "tolist") else list(X)
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(
                    f"TextClassifier, text {place} (from 0)",
                    expected="a string",
                    found=f"{text!r:.80}",
                    next_step="give one string per example",
                )
        if not hasattr(self, "_reader"):
            self._reader = self._opened()
        parts = [self._reader.rows(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.layers_), 1), np.float32)
