"""Turns new texts into the rows that a head was trained on, by running its cache's capture again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import polars as pl
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from ilse.core.errors import UserError
from ilse.core.machine.cpu_threads import cpu_threads
from ilse.core.params import validate
from ilse.core.tables import TEXT
from ilse.predict.why.read_words import ReadText, read_text
from pipeline import store
from pipeline.capture.early_exit import LeavingReader
from pipeline.capture.joining import BatchRows
from pipeline.capture.projection import Projection
from pipeline.capture.reader import Request, reader_of
from pipeline.capture.tokens import NoTokens, tokens_of
from pipeline.capture.tokens import Tokens as TokenIds
from pipeline.capture.windows import in_windows
from pipeline.config import ModelParams
from pipeline.dataset.texts import LONGEST, normalised, too_long
from pipeline.model.load import Compute, FrozenModel, load_model
from pipeline.tokenizer.unknown import Unknown
from trainer.artifacts.artifact import HeadFacts
from trainer.rows.ragged import Tokens

ModelChoice = str | Path | ModelParams | None
"""A model's folder or GGUF file, or what section `extract.model` says; None for the Hub's, where it is from there."""

ROUNDED = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""Storage types that round a value by itself."""


@runtime_checkable
class Read(Protocol):
    """What `Capture` has to know of the rows that it is to give; the facts of a head say it."""

    @property
    def capture(self) -> store.CaptureSpec:
        """What the rows, or token states, are."""

    @property
    def poolings(self) -> tuple[str, ...]:
        """Poolings of a row, in their order."""

    @property
    def model_name(self) -> str:
        """What messages call the model."""

    @property
    def reads_tokens(self) -> bool:
        """Whether token states are read in place of pooled rows."""


class Exits(Protocol):
    """An exit head's decisions about some texts; `ilse.predict.early_exit` has it."""

    def stay(
        self, place: int, texts: Int[Tensor, " there"], rows: Float32[Tensor, "there 1 dim"]
    ) -> Bool[Tensor, " there"]:
        """Mask of the texts that continue after the layer at this place."""

    def outputs(self) -> Float[Tensor, "texts out"]:
        """Outputs of all texts, once none is left."""


class Capture:
    """The rows of any texts, or their tokens, as a cache of the same capture holds them.

    A text is normalised, put into the template, cut and pooled as `ilse prepare` and `ilse extract` did it, and its
    row rounded as the cache's type rounds (that of int8 is not: its steps are a shard's own). So are the states of its
    tokens, in the cache's basis where it has one. The model runs as far as the last of `layers` and no further.

    The model stays in memory as it was read, whatever becomes of its files, for as long as the capture lives; captures
    of one model share it. Any number of threads may ask for rows at a time: the model runs one batch after another.

    Parameters
    ----------
    facts
        What the head knows of its cache.
    layers
        Rows to be read, by their place in the cache.
    model, compute
        Which model, and how it runs; 0 threads are as many as the process has set.
    basis
        Of the tokens of a head that reads them, where they are in one: that of all token layers of the cache.

    Attributes
    ----------
    conditions
        What decides about the last bits of a row.

    Raises
    ------
    UserError
        For a model that cannot be read, or is not the one that made the cache.
    """

    def __init__(
        self,
        facts: Read,
        layers: tuple[int, ...],
        model: ModelParams,
        compute: Compute,
        basis: store.Basis | None = None,
    ) -> None:
        self.spec, self.model, self.compute = facts.capture, model, compute
        self.poolings = () if facts.reads_tokens else facts.poolings
        self._made_of = facts, layers, model, compute, basis
        with cpu_threads(compute.threads):
            frozen = load_model(model, compute)
            _require_same_model(facts, frozen, model)
            places = tuple(frozen.facts.layers.index(self.spec.layers[layer]) for layer in layers)
            request = Request(places, self.poolings, facts.reads_tokens)
            self._reader = reader_of(frozen, request, compute.capture)
            here = {"threads": torch.get_num_threads(), "device": frozen.facts.device}
        self.conditions: dict[str, Any] = asdict(compute) | here | frozen.facts.versions
        self._names = [self.spec.layers[layer] for layer in layers]
        self._projection = None
        if basis is not None and self.spec.tokens is not None:
            kept = [self.spec.tokens.layers.index(name) for name in self._names]
            self._projection = Projection(basis.at(kept), frozen.facts.device)
        self._unknown = Unknown(frozen.tokenizer)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process reads the model itself."""
        return Capture, self._made_of

    def rows(self, texts: Sequence[str], names: Sequence[str]) -> Float32[Tensor, "texts layers dim"]:
        """The row of each text; `names` are for the message about a text without a token or with too large a value."""

        def make(found: BatchRows, named: list[str]) -> Tensor:
            values = torch.cat([found.pooled[name] for name in self.poolings], -1)
            return as_stored(self.spec.storage_type, self._names, named, values)

        return self._made(texts, names, len(self.poolings) * self.spec.dim, make)

    def rows_of_tokens(
        self, texts: Sequence[str], names: Sequence[str], width: int, make: Callable[[Tokens], Tensor]
    ) -> Float32[Tensor, "texts layers width"]:
        """Applies `make` to the token states of the texts in the cache's form, some texts at a time.

        So the states of a few texts are in memory, however many and however long the texts are.
        """
        assert self.spec.tokens is not None
        kind = self.spec.tokens.storage_type
        setting = store.TOKEN_TYPE if isinstance(self.spec.token_states, store.TokenSpec) else "storage_type"

        def of_tokens(found: BatchRows, named: list[str]) -> Tensor:
            assert found.tokens is not None
            counts = [len(text) for text in found.tokens]
            stored = as_stored(kind, self._names, named, torch.cat(found.tokens), counts, setting)
            return make(Tokens(stored, torch.tensor(counts)))

        return self._made(texts, names, width, of_tokens)

    def tokens_of(self, text: str, name: str) -> tuple[ReadText, Tokens]:
        """A text's tokens as the model reads them, and their states as the cache holds them."""
        found: list[Tokens] = []

        def keep(tokens: Tokens) -> Tensor:
            found.append(tokens)
            return torch.zeros(1, len(self._names), 0)

        self.rows_of_tokens([text], [name], 0, keep)
        (ids,) = self._tokens(_normalised([text]), [name]).ids
        return read_text(self.frozen.tokenizer, ids), found[0]

    def _made(
        self, texts: Sequence[str], names: Sequence[str], width: int, make: Callable[[BatchRows, list[str]], Tensor]
    ) -> Float32[Tensor, "texts layers width"]:
        """Applies `make` to the texts of each batch and their names; results in the texts' order."""
        distinct, chosen, named = _once(texts, names)
        rows = torch.empty(len(distinct), len(self._names), width)
        if distinct:
            tokens = self._tokens(distinct, named)
            with cpu_threads(self.compute.threads):
                for positions, found in self._reader.read_all(tokens, self.compute.batch_tokens, self._projection):
                    rows[positions] = make(found, [named[i] for i in positions.tolist()])
        return rows[chosen]

    def leaving(
        self, texts: Sequence[str], names: Sequence[str], exits: Callable[[int], Exits]
    ) -> Float[Tensor, "texts out"] | None:
        """Outputs of `exits` for this many texts, asked layer by layer until one is sure; None if no text can leave.

        It is given rows of one layer as `rows` would give them. A text that is read in windows has its rows when the
        last one has been read, so that none leaves where there is one.
        """
        if not texts or not self._leaving.works:
            return None
        distinct, chosen, named = _once(texts, names)
        asked = exits(len(distinct))

        def decide(place: int, positions: Tensor, rows: Tensor) -> Tensor:
            here = [named[i] for i in positions.tolist()]
            layer = [self._names[place]]
            return asked.stay(place, positions, as_stored(self.spec.storage_type, layer, here, rows[:, None]))

        tokens = self._tokens(distinct, named)
        if in_windows(tokens).parts is not None:
            return None
        with cpu_threads(self.compute.threads):
            self._leaving.read_all(tokens, self.compute.batch_tokens, decide)
        return asked.outputs()[chosen]

    @cached_property
    def _leaving(self) -> LeavingReader:
        with self.frozen.lock, cpu_threads(self.compute.threads):  # its proof is of a model that nobody else runs
            return LeavingReader(self.frozen, self._reader, self.compute.capture)

    @property
    def frozen(self) -> FrozenModel:
        """The model."""
        return self._reader.frozen

    def _tokens(self, texts: list[str], names: list[str]) -> TokenIds:
        spec, frozen = self.spec.without_noise, self.frozen
        try:
            tokens = tokens_of(spec, frozen.tokenizer, frozen.facts.vocabulary, texts, names)
        except NoTokens as error:
            raise UserError(error.where, expected=error.expected, found=error.found, next_step="leave it out") from None
        self._unknown.see(texts, tokens)
        return tokens


def as_stored(
    kind: str,
    layers: Sequence[str],
    names: Sequence[str],
    values: Tensor,
    counts: Sequence[int] | None = None,
    setting: str = "storage_type",
) -> Tensor:
    """Values [texts, layers, dim] as a cache of this storage type would give them back: rounded as the type rounds.

    Those of int8 and int4 stay as they are: their steps are a shard's, and no part of the capture. Arguments and errors
    are those of `store.check_range`. Torch rounds as NumPy does, in a seventh of its time.
    """
    store.check_range(kind, layers, names, values.numpy(), counts, setting)
    return values.to(ROUNDED[kind]).float() if kind in ROUNDED else values


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


def _require_same_model(facts: Read, frozen: FrozenModel, model: ModelParams) -> None:
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
    """Distinct normalised texts, the index of every text among them, and one name for each."""
    for text, name in zip(texts, names, strict=True):
        if len(text) > LONGEST:
            raise too_long(name, len(text.encode(errors="replace")))
    whole = _normalised(texts)
    distinct = list(dict.fromkeys(whole))
    place = {text: i for i, text in enumerate(distinct)}
    chosen = [place[text] for text in whole]
    return distinct, chosen, [names[chosen.index(i)] for i in range(len(distinct))]


def _normalised(texts: Sequence[str]) -> list[str]:
    table = pl.DataFrame({TEXT: pl.Series(list(texts), dtype=pl.String)})
    return table.select(normalised(pl.col(TEXT), "whole"))[TEXT].to_list()
