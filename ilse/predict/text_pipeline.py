"""A predictor that is called as transformers' `pipeline("text-classification")` is.

    pipe = TextPipeline(Predictor.load("models/cayley/seed-0", model))
    pipe("Chip maker's profit falls")       # [{"label": "business", "score": 0.97}]
    pipe(["Cup final", "Vote"], top_k=2)    # [[{…}, {…}], [{…}, {…}]]

A head on pairs takes `{"text": "A man eats.", "text_pair": "Somebody eats."}`, or a tuple of two texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ilse.predict.predictions import Prediction, ScorePrediction
from ilse.predict.predictor import Predictor

Told = dict[str, Any]
"""`label` and `score`; of a head that answers with a number, `score` alone."""


class TextPipeline:
    """Answers as dictionaries.

    Parameters
    ----------
    predictor
        Model and head.
    top_k
        Labels of an answer, likeliest first; None for all. With several labels per example too: there the ones that it
        has are those with a score over 1/2.
    """

    def __init__(self, predictor: Predictor, top_k: int | None = 1) -> None:
        self.predictor, self.top_k = predictor, top_k

    def __call__(self, inputs: Any, top_k: int | str | None = "as made") -> list[Any] | Iterator[Any]:
        """The answers to one input, to a list, or to any other iterable, whose answers come as they are asked for.

        One input gives a list of dictionaries. A list gives one dictionary each for `top_k` 1, and otherwise a list of
        them each.
        """
        k = self.top_k if isinstance(top_k, str) else top_k
        if isinstance(inputs, str | dict | tuple):
            (prediction,) = self.predictor.predictions([_example(inputs)])
            return _told(prediction, k)
        answers = self._stream(inputs, k)
        return list(answers) if isinstance(inputs, Sequence) else answers

    def _stream(self, inputs: Iterable[Any], k: int | None) -> Iterator[Any]:
        for prediction in self.predictor.stream(map(_example, inputs)):
            told = _told(prediction, k)
            yield told[0] if k == 1 else told


def _example(given: Any) -> Any:
    """A dictionary's texts; what is neither text nor pair is the predictor's to refuse."""
    if isinstance(given, dict) and "text" in given:
        return (given["text"], given["text_pair"]) if "text_pair" in given else given["text"]
    return given


def _told(prediction: Prediction, k: int | None) -> list[Told]:
    if isinstance(prediction, ScorePrediction):
        return [{"score": prediction.score}]
    return [{"label": label, "score": probability} for label, probability in prediction.top(k)]
