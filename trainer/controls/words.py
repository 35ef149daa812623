"""The words alone: TF-IDF of single words and of neighbours, and a linear model on it. No language model at all.

    (1 + ln count) · idf,   each text's vector brought to length 1

Words and idf are those of the training texts. Of two texts, the answer to `similarity` is the cosine of their vectors.
"""

from __future__ import annotations

from itertools import chain

import numpy as np
import torch

from ilse.core.errors import UserError
from ilse.core.tables import TRAIN, VALIDATION
from trainer.controls.base import Fit, Fitted, Given, Matrix
from trainer.controls.linear import fit_best
from trainer.data.inputs import drawn_of
from trainer.data.texts import texts_of
from trainer.objectives import Objective


def prepare_words(given: Given) -> Fit:
    """Raises `UserError` as `texts_of` does; the fit does for training texts without words."""
    task = given.task
    splits = (task.training_ids(TRAIN), task.training_ids(VALIDATION), task.unlabelled_ids())
    train, *others = (texts_of(given.texts, ids) for ids in splits)

    def fit(objective: Objective, seed: int) -> Fitted:
        places = drawn_of(task, given.training, seed)
        x, validation, test = _vectors([[column[i] for i in places.tolist()] for column in train], *others)
        if objective.kind == "similarity":
            return Fitted(_cosines(validation), _cosines(test), 0)
        y, y_validation = task.training_targets(TRAIN)[places], task.training_targets(VALIDATION)
        chosen = fit_best(given.grid, objective, x[0], y, validation[0], y_validation)
        return Fitted(chosen.answers, chosen.model.answers(test[0]), chosen.model.parameters)

    return fit


def _vectors(train: list[list[str]], *others: list[list[str]]) -> list[list[Matrix]]:
    """TF-IDF of each split's columns of texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectoriser = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    try:
        vectoriser.fit(chain(*train))
    except ValueError as error:
        raise UserError(
            "control 'words'",
            expected="training texts with words of two letters or more",
            found=str(error),
            next_step="remove it from controls.names",
        ) from error
    return [[vectoriser.transform(column) for column in split] for split in (train, *others)]


def _cosines(both: list[Matrix]) -> torch.Tensor:
    u, v = both  # of length 1, or 0 where no word is known
    return torch.from_numpy(np.asarray(u.multiply(v).sum(axis=1)).ravel()).float()
