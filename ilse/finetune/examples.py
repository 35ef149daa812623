"""The examples of a task as token ids, as `ilse extract` reads their texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from jaxtyping import Int
from torch import Tensor

from ilse.core.tables import TEXT_ID
from pipeline.capture.tokens import Tokens, tokenise
from pipeline.config import ExtractParams
from pipeline.model.load import FrozenModel
from trainer.config import TrainParams
from trainer.data.subset import draw_share, draw_shots
from trainer.data.task import Task
from trainer.data.texts import texts_of


@dataclass(frozen=True)
class Split:
    """The examples of a split: their texts' tokens, and the positions of their labels."""

    tokens: Tokens
    y: Int[Tensor, " rows"]

    def take(self, chosen: Int[Tensor, " chosen"]) -> Split:
        """The examples at these positions."""
        return Split(self.tokens.take(chosen.tolist()), self.y[chosen])


class Reading:
    """A task's texts, as a model's tokenizer has them.

    Parameters
    ----------
    task
        The examples.
    texts
        The table of distinct texts.
    frozen
        Whose tokenizer is used.
    extract
        Template, and the limit in tokens.

    Raises
    ------
    UserError
        By its methods, for a table that is not there, or without some of the texts.
    """

    def __init__(self, task: Task, texts: Path, frozen: FrozenModel, extract: ExtractParams) -> None:
        self._task, self._texts, self._frozen, self._extract = task, texts, frozen, extract

    @property
    def pad(self) -> int:
        """The token that fills batches up; any would do, since it is masked."""
        return self._frozen.pad

    def split(self, name: str) -> Split:
        """The examples of `train` or `validation`."""
        return Split(self._tokens(self._task.training_ids(name)), self._task.training_targets(name))

    def unlabelled(self) -> Tokens:
        """The texts of the test examples, in order."""
        return self._tokens(self._task.unlabelled_ids())

    def _tokens(self, ids: pl.DataFrame) -> Tokens:
        limit = self._extract.limit(self._frozen.facts.window)
        texts = texts_of(self._texts, ids)[0]
        tokenizer, known = self._frozen.tokenizer, self._frozen.facts.vocabulary
        return tokenise(tokenizer, texts, ids[TEXT_ID].to_list(), self._extract.template, limit, known)


def drawn(split: Split, train: TrainParams, labels: tuple[str, ...], seed: int) -> Split:
    """The examples that heads with this seed train on: all of them, or so many shots or such a share."""
    if train.shots is not None:
        return split.take(draw_shots(split.y, train.shots, seed, labels))
    if train.share is not None:
        return split.take(draw_share(split.y, train.share, seed))
    return split
