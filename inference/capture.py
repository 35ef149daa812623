"""New texts to the rows that a head was trained on: the capture of its cache, run again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import torch
from jaxtyping import Float32
from torch import Tensor

from ilse.errors import UserError
from ilse.params import validate
from ilse.tables import TEXT
from pipeline import store
from pipeline.capture.reader import Request
from pipeline.capture.tokens import Tokens, tokenise
from pipeline.config import ModelParams
from pipeline.dataset.texts import normalised
from pipeline.model.load import Compute, FrozenModel
from pipeline.work.shard import load_here, reader_here
from trainer.artifact import HeadFacts

ModelChoice = str | Path | ModelParams | None
"""A model's folder or GGUF file, or what section `extract.model` says; None for the Hub's, where it is from there."""


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
        self._request = Request(places, (self.pooling,))
        reader_here(model, compute, self._request)  # proves capture now, not at the first text

    def rows(self, texts: Sequence[str], names: Sequence[str]) -> Float32[Tensor, "texts layers dim"]:
        """The row of each text; `names` are for the message about a text without a token or with too large a value."""
        distinct = list(dict.fromkeys(_normalised(texts)))
        place = {text: i for i, text in enumerate(distinct)}
        chosen = [place[text] for text in _normalised(texts)]
        named = [names[chosen.index(i)] for i in range(len(distinct))]
        rows = torch.empty(len(distinct), len(self._request.layers), self.spec.dim)
        # Both are kept by the process; where another predictor took their place meanwhile, they are made again.
        frozen = load_here(self.model, self.compute)
        reader = reader_here(self.model, self.compute, self._request)
        if distinct:
            for positions, found in reader.read_all(self._tokens(frozen, distinct, named), self.compute.batch_tokens):
                rows[positions] = found.pooled[self.pooling]
        return torch.from_numpy(store.as_stored(self.spec, named, rows.numpy()))[chosen]

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


def _normalised(texts: Sequence[str]) -> list[str]:
    table = pl.DataFrame({TEXT: pl.Series(list(texts), dtype=pl.String)})
    return table.select(normalised(pl.col(TEXT), "whole"))[TEXT].to_list()
