"""New texts to the rows that a head was trained on: the capture of its cache, run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from ilse.errors import UserError
from ilse.params import validate
from ilse.tables import TEXT
from pipeline import store
from pipeline.capture.leaving import LeavingReader
from pipeline.capture.reader import Request
from pipeline.capture.tokens import Tokens, tokenise
from pipeline.cluster.executor import cores
from pipeline.config import ModelParams
from pipeline.dataset.texts import normalised
from pipeline.model.load import Compute, FrozenModel
from pipeline.work.shard import load_here, reader_here
from trainer.artifact import HeadFacts

ModelChoice = str | Path | ModelParams | None
"""A model's folder or GGUF file, or what section `extract.model` says; None for the Hub's, where it is from there."""


class Exits(Protocol):
    """An exit head's decisions about some texts; `inference.leaving` has it."""

    def stay(
        self, place: int, texts: Int[Tensor, " there"], rows: Float32[Tensor, "there 1 dim"]
    ) -> Bool[Tensor, " there"]:
        """Which of these texts go on, after the layer of this place."""

    def outputs(self) -> Float[Tensor, "texts out"]:
        """Of all of them, when none is left."""


class Capture:
    """The rows of any texts, as a cache of the same capture holds them.

    A text is normalised, put into the template, cut and pooled as `ilse prepare` and `ilse extract` did it, and its
    row rounded as the cache's type rounds (that of int8 is not: its steps are a shard's own). The model runs as far
    as the last of `layers` and no further.

    Parameters
    ----------
    facts
        What the head knows of its cache.
    layers
        Rows to be read, by their place in the cache.
    model, compute
        Which model, and how it runs.

    Attributes
    ----------
    conditions
        What decides about the last bits of a row.

    Raises
    ------
    UserError
        For a model that cannot be read, or is not the one that made the cache.
    """

    def __init__(self, facts: HeadFacts, layers: tuple[int, ...], model: ModelParams, compute: Compute) -> None:
        self.spec, self.pooling, self.model, self.compute = facts.capture, facts.pooling, model, compute
        frozen = load_here(model, compute)
        _require_same_model(facts, frozen, model)
        places = tuple(frozen.facts.layers.index(self.spec.layers[layer]) for layer in layers)
        here = {"threads": compute.threads or cores(), "device": frozen.facts.device}
        self.conditions: dict[str, Any] = asdict(compute) | here | frozen.facts.versions
        self._names = [self.spec.layers[layer] for layer in layers]
        self._latest: LeavingReader | None = None
        self._request = Request(places, (self.pooling,))
        reader_here(model, compute, self._request)  # proves capture now, not at the first text

    def rows(self, texts: Sequence[str], names: Sequence[str]) -> Float32[Tensor, "texts layers dim"]:
        """The row of each text; `names` are for the message about a text without a token or with too large a value."""
        distinct, chosen, named = _once(texts, names)
        rows = torch.empty(len(distinct), len(self._request.layers), self.spec.dim)
        # Both are kept by the process; where another predictor took their place meanwhile, they are made again.
        frozen = load_here(self.model, self.compute)
        reader = reader_here(self.model, self.compute, self._request)
        if distinct:
            for positions, found in reader.read_all(self._tokens(frozen, distinct, named), self.compute.batch_tokens):
                rows[positions] = found.pooled[self.pooling]
        return torch.from_numpy(store.as_stored(self.spec, named, rows.numpy()))[chosen]

    def leaving(
        self, texts: Sequence[str], names: Sequence[str], exits: Callable[[int], Exits]
    ) -> Float[Tensor, "texts out"] | None:
        """What `exits` of so many texts say, each asked layer by layer until it is sure; None where no text can leave.

        It is given rows of one layer as `rows` would give them.
        """
        leaving = self._leaving()
        if not leaving.works or not texts:
            return None
        distinct, chosen, named = _once(texts, names)
        asked = exits(len(distinct))

        def decide(place: int, positions: Tensor, rows: Tensor) -> Tensor:
            here = [named[i] for i in positions.tolist()]
            stored = store.as_stored(self._spec_of(place), here, rows[:, None].numpy())
            return asked.stay(place, positions, torch.from_numpy(stored))

        frozen = load_here(self.model, self.compute)
        leaving.read_all(self._tokens(frozen, distinct, named), self.compute.batch_tokens, decide)
        return asked.outputs()[chosen]

    def _leaving(self) -> LeavingReader:
        """Made again where another predictor's reader took its reader's place: that one may have dropped its blocks."""
        reader = reader_here(self.model, self.compute, self._request)
        if self._latest is None or self._latest.reader is not reader:
            self._latest = LeavingReader(load_here(self.model, self.compute), reader, self.compute.capture)
        return self._latest

    def _spec_of(self, place: int) -> store.CaptureSpec:
        """Of one layer alone, for its name in a message."""
        return replace(self.spec, layers=(self._names[place],))

    def _tokens(self, frozen: FrozenModel, texts: list[str], names: list[str]) -> Tokens:
        try:
            return tokenise(frozen.tokenizer, texts, names, self.spec.template, self.spec.max_tokens)
        except UserError as error:
            raise UserError(error.where, expected=error.expected, found=error.found, next_step="leave it out") from None


def model_params(facts: HeadFacts, model: ModelChoice) -> ModelParams:
    """The model to load. Raises `UserError` for none where the head's is a file or folder, which has no address, and
    for an address that is no repository and commit: the head's facts are read, not believed.
    """
    if isinstance(model, ModelParams):
        return model
    if model is not None:
        return ModelParams.model_validate({"path": str(model)})
    identity = facts.capture.model
    if "hub" in identity:
        return validate("capture.model", ModelParams, dict(identity), where="head")
    raise UserError(
        f"the model of the head, {facts.model_name}",
        expected="its place: it was read from a file or folder of that name",
        found="none given",
        next_step=f"name the file or folder whose sha256 is {identity['sha256'][:16]}…",
    )


def _require_same_model(facts: HeadFacts, frozen: FrozenModel, model: ModelParams) -> None:
    found, spec = frozen.facts, facts.capture
    pairs = {
        "model": (dict(spec.model), found.identity),
        "tokenizer": (spec.tokenizer, found.tokenizer),
        "compute type": (spec.compute_type, found.compute_type),
    }
    for what, (wanted, there) in pairs.items():
        if wanted != there:
            raise UserError(
                f"model {model.hub or model.path}",
                expected=f"the {what} that made the cache the head was trained on: {facts.model_name}, {wanted}",
                found=str(there),
                next_step="name the model that the head was trained on, or train a head on a cache of this one",
            )


def _once(texts: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[int], list[str]]:
    """Each normalised text once, the place there of every text, and a name of each that stands there."""
    whole = _normalised(texts)
    distinct = list(dict.fromkeys(whole))
    place = {text: i for i, text in enumerate(distinct)}
    chosen = [place[text] for text in whole]
    return distinct, chosen, [names[chosen.index(i)] for i in range(len(distinct))]


def _normalised(texts: Sequence[str]) -> list[str]:
    table = pl.DataFrame({TEXT: pl.Series(list(texts), dtype=pl.String)})
    return table.select(normalised(pl.col(TEXT), "whole"))[TEXT].to_list()
