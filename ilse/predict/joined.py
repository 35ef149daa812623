"""Turns new texts into joint rows for a head on several models, by running each model's capture again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from ilse.core.errors import UserError
from ilse.predict.capture import Capture, ModelChoice, model_params
from pipeline.config import ModelParams
from pipeline.model.load import Compute
from trainer.artifacts.artifact import HeadFacts

ModelChoices = ModelChoice | Sequence[ModelChoice]
"""A model, or one for each cache of the head, in their order."""


class JoinedCapture:
    """The rows of any texts as the caches hold them, side by side; what `Capture` is for one model.

    One model runs after the other. A model of which the head reads no layer is not loaded: `best` keeps one layer.

    Parameters
    ----------
    facts, layers
        What the head knows of its caches, and the rows to be read, by their place among those of all.
    chosen
        The model of each cache.
    compute
        From its compute type how each runs.

    Raises
    ------
    UserError
        As `Capture` does, of the model that it is about.
    """

    def __init__(
        self,
        facts: HeadFacts,
        layers: tuple[int, ...],
        chosen: Sequence[ModelChoice],
        compute: Callable[[str], Compute],
    ) -> None:
        self.width, self._places, start = facts.width, dict[int, list[int]](), 0
        self.captures: dict[int, Capture] = {}
        for model, source in enumerate(facts.sources):
            end = start + len(source.capture.layers)
            self._places[model] = [place for place, layer in enumerate(layers) if start <= layer < end]
            if self._places[model]:
                own = replace(facts, **vars(source), further=())
                read = tuple(layers[place] - start for place in self._places[model])
                how = compute(source.capture.compute_type)
                self.captures[model] = Capture(own, read, model_params(own, chosen[model]), how)
            start = end
        self._layers = len(layers)

    @property
    def conditions(self) -> dict[str, Any]:
        """What decides about the last bits of a row, of each model."""
        return {"models": [capture.conditions for capture in self.captures.values()]}

    def rows(self, texts: Sequence[str], names: Sequence[str]) -> Float32[Tensor, "texts layers dim"]:
        """The joint row of each text; `names` are what errors call them."""
        rows = torch.zeros(len(texts), self._layers, self.width)
        for model, capture in self.captures.items():
            found = capture.rows(texts, names)
            rows[:, self._places[model], : found.shape[2]] = found
        return rows


def models_of(facts: HeadFacts, given: ModelChoices) -> list[ModelChoice]:
    """A model for each cache of the head. Raises `UserError` for another number of them than there are caches."""
    several = isinstance(given, Sequence) and not isinstance(given, str)
    chosen: list[ModelChoice] = list(given) if several else [given]  # type: ignore[arg-type,list-item]
    if given is None or not chosen:
        return [None] * len(facts.sources)
    if len(chosen) != len(facts.sources):
        names = ", then ".join(source.model_name for source in facts.sources)
        counts = [len(chosen), len(facts.sources)]
        told, wanted = (f"{count} model" + ("s" if count > 1 else "") for count in counts)
        raise UserError(
            "the models of the head",
            expected=f"{wanted}, in the order of its caches: {names}",
            found=told,
            next_step="give one --model for each of them, in that order; from Python a list",
        )
    return chosen


def named_among(facts: HeadFacts, known: Sequence[ModelParams]) -> list[ModelChoice]:
    """For each of the head's models, the one of its name among those in the parameters; None if there is none."""
    by_name = {model.name: model for model in known}
    return [by_name.get(source.model_name) for source in facts.sources]
