"""A trained head and the frozen language model that it was trained over, as one.

    predictor = Predictor.load("models/cayley/seed-0", model="data/raw/model/SmolLM2-135M-Instruct.Q4_1.gguf")
    predictor.predict(["Chip maker's profit falls"])[0].label
    predictor.embed(["Chip maker's profit falls"])         # [1, width]

The same text gives the same answer as through the cache; what is read of the model is what the cache says it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from ilse.core.errors import UserError
from ilse.predict.capture import Capture, model_params
from ilse.predict.early_exit import leaving_of
from ilse.predict.joined import JoinedCapture, ModelChoices, models_of
from ilse.predict.predictions import Prediction, read
from ilse.predict.why.explanation import Explanation, explained, require_explainable
from pipeline.model.load import Compute
from trainer.artifacts.artifact import TrainedHead, load_head, require_basis
from trainer.heads import PairHead

CHUNK = 256
"""Texts whose rows are in memory at a time: as many as a shard of a cache has by default."""

Named = tuple[str, Any]
"""What an error calls a text, and the text."""


class Predictor:
    """Texts in, predictions or vectors out; made by `load`. Any number of threads may use one at a time.

    Attributes
    ----------
    trained
        The head.
    capture
        The model, ready to give the rows that the head reads; of several, all of them.
    pairs
        Whether an example is a pair of texts.
    leaving
        Where the head lets texts leave early: what lets them leave the model itself. The answers are those of the whole
        model, and come sooner.
    """

    def __init__(self, trained: TrainedHead, capture: Capture | JoinedCapture) -> None:
        self.trained, self.capture = trained, capture
        self.pairs = answers_pairs(trained)
        self.leaving = leaving_of(trained)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        model: ModelChoices = None,
        *,
        device: str = "auto",
        threads: int = 0,
        batch_tokens: int = 1024,
        capture: str = "hooks",
    ) -> Predictor:
        """The head in `folder` (`models/<head>/seed-<n>`) over its model.

        Parameters
        ----------
        model
            Its file or folder; not needed for a model of the Hub, whose id and commit the head knows. Of a head over
            several caches a list, with the model of each in their order.
        device, threads, batch_tokens, capture
            How the model runs, as in section `extract`; what decides about the rows is the head's to say.

        Raises
        ------
        UserError
            For a damaged head, a model that cannot be read, or one that is not the model of the head's cache.
        """
        trained = load_head(Path(folder))
        require_basis(trained, "prediction of new texts")
        facts, layers = trained.facts, trained.head.layers_read

        def compute(kind: str) -> Compute:
            return Compute(kind, device, threads, batch_tokens, False, capture)

        chosen = models_of(facts, model)
        if facts.further:
            return cls(trained, JoinedCapture(facts, layers, chosen, compute))
        own = model_params(facts, chosen[0])
        return cls(trained, Capture(facts, layers, own, compute(facts.capture.compute_type), trained.basis))

    def predict(self, texts: str | Iterable[Any]) -> list[Prediction]:
        """What the head says of each text; of each pair of texts `(first, second)`, where it answers about pairs.

        A string is one text, with a list of one answer.
        """
        return list(self.stream(texts))

    def stream(self, texts: str | Iterable[Any]) -> Iterator[Prediction]:
        """The same of any number of texts, `CHUNK` at a time, in order."""
        noun, texts = "example" if self.pairs else "text", _several(texts)
        for start, chunk in _chunks(texts, CHUNK // (1 + self.pairs)):
            yield from self.answers(chunk, [f"{noun} {start + i}" for i in range(len(chunk))])

    def answers(self, texts: Sequence[Any], names: Sequence[str]) -> list[Prediction]:
        """The same of as many as fit in memory; `names` are what errors call them."""
        named = _pairs(texts, names) if self.pairs else list(zip(names, texts, strict=True))
        return read(self.trained.objective, self.trained.facts.labels, self._outputs(self.trained.answers, named))

    def embed(self, texts: str | Iterable[str]) -> npt.NDArray[np.float32]:
        """The vector of each text, [texts, width]: see `TrainedHead.embed`. Of pairs, each text has its own."""
        parts = [
            self._outputs(self.trained.vectors, [(f"text {start + i}", text) for i, text in enumerate(chunk)]).numpy()
            for start, chunk in _chunks(_several(texts), CHUNK)
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.width), np.float32)

    def why(self, text: str | Any) -> Explanation:
        """What the head says of a text, and how much each of its tokens moves that, in each layer.

        See `ilse.predict.why.explanation`. Raises `UserError` for a head that reads pooled rows, and for one over pairs
        of texts.
        """
        require_explainable(self.trained, self.pairs)
        if not isinstance(text, str):
            raise _refused("the text", "a string", text, "ask about one text")
        return explained(self.trained, *self._one_model.tokens_of(text, "text 0"))

    @property
    def width(self) -> int:
        """Length of the vectors that `embed` gives."""
        with torch.inference_mode():
            return self.trained.vectors(torch.zeros(2, *self._row)).shape[1]

    @property
    def _one_model(self) -> Capture:
        """Of a head that reads tokens or lets texts leave early: those read one model."""
        assert isinstance(self.capture, Capture)
        return self.capture

    @property
    def _row(self) -> tuple[int, int]:
        """Layers and width of what the head is asked about."""
        return len(self.trained.head.layers_read), self.trained.inner.spec.dim

    @torch.inference_mode()
    def _outputs(self, tell: Callable[[Tensor], Tensor], named: list[Named]) -> Float[Tensor, "answers out"]:
        """What `tell` makes of the texts' rows, as `TrainedHead.rows` gives them."""
        for name, text in named:
            if not isinstance(text, str):
                raise _refused(name, "a string", text, "give texts as strings")
        texts, names = [text for _, text in named], [name for name, _ in named]
        if self.leaving is not None and tell == self.trained.answers:
            outputs = self._one_model.leaving(texts, names, self.leaving)
            if outputs is not None:
                return outputs
        if self.trained.facts.reads_tokens:
            return tell(self._one_model.rows_of_tokens(texts, names, self._row[1], self.trained.rows))
        return tell(self.trained.rows(self.capture.rows(texts, names)))


def answers_pairs(trained: TrainedHead) -> bool:
    """Whether a head's examples are pairs of texts."""
    return bool(trained.objective.embeds) or isinstance(trained.inner, PairHead)


def _several(texts: Any) -> Iterable[Any]:
    """What is iterated over: a string is one text, not its characters; names of columns are no texts."""
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, Mapping) or hasattr(texts, "columns"):
        raise _refused("the texts", "a string or a list of strings", type(texts), "give the texts alone, as one column")
    several: Iterable[Any] = texts
    return several


def _chunks(texts: Iterable[Any], size: int) -> Iterator[tuple[int, list[Any]]]:
    """The number of the first and the texts, `size` at a time."""
    remaining, start = iter(texts), 0
    while chunk := list(islice(remaining, size)):
        yield start, chunk
        start += len(chunk)


def _pairs(examples: Sequence[Any], names: Sequence[str]) -> list[Named]:
    """The texts of a pair follow one another, as heads take them."""
    named = []
    for where, pair in zip(names, examples, strict=True):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise _refused(where, "a pair of texts: the head was trained on pairs", pair, "give a tuple of two texts")
        named += [(f"{where}, text {k}", text) for k, text in enumerate(pair)]
    return named


def _refused(where: str, expected: str, found: object, next_step: str) -> UserError:
    return UserError(where, expected=expected, found=f"{found!r}"[:200], next_step=next_step)
