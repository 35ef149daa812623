"""One architecture: a tiny model of it is written, read as users' models are, and judged against transformers."""

from __future__ import annotations

import copy
import inspect
import random
import shutil
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.architectures.models import Model, build, reference
from ilse.core.errors import UserError
from pipeline.capture.reader import Reader, Request
from pipeline.capture.tokens import Tokens, tokenise
from pipeline.config import ModelParams
from pipeline.model.load import Compute, load_model

Errors = npt.NDArray[np.floating[Any]]
RIGHT, REFUSED, WRONG, TRACEBACK = "right", "refused", "wrong", "traceback"
TOLERANCE = 2e-4
"""Of a state, as a part of its norm, in float32: the same computation in another shape rounds otherwise."""
STRAYS = 1 / 300
"""Tokens of a mixture of experts that may be off: where two experts are equally good, rounding sends them elsewhere."""
BATCH_TOKENS = 256
LONG = 300
"""Tokens of the longest text where the model names no window below it."""


@dataclass(frozen=True)
class Outcome:
    """What became of one architecture.

    Parameters
    ----------
    method
        `hooks`, or `hidden_states` where hooks were refused.
    ways
        How its texts were batched, by length.
    window
        Longest text in tokens; 0 for none below `LONG`.
    worst
        The largest error of a token's state in any layer, as a part of its norm, strays apart.
    strays
        Tokens beyond the tolerance in a mixture of experts.
    found
        How it was refused, or what was wrong.
    """

    kind: str
    name: str
    verdict: str
    method: str = ""
    ways: str = ""
    window: int = 0
    worst: float = 0.0
    strays: int = 0
    found: str = ""
    seconds: float = 0.0

    def document(self) -> dict[str, Any]:
        """As JSON holds it; without the time, which is another one in every run."""
        return {name: value for name, value in asdict(self).items() if name != "seconds"}


def judged(kind: str, name: str, model: Model, scratch: Path) -> Outcome:
    """Writes the model, reads ragged texts in several ways and compares."""
    started, folder = time.perf_counter(), scratch / f"{kind} {name}".replace(" ", "-")
    try:
        build(model, folder)
        strays = STRAYS if any("experts" in setting for setting in model.settings) else 0.0
        outcome = _judged(kind, name, folder, strays)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(**{**asdict(outcome), "seconds": round(time.perf_counter() - started, 2)})


def _judged(kind: str, name: str, folder: Path, strays: float) -> Outcome:
    refusals = []
    for method in ("hooks", "hidden_states"):
        try:
            return _compared(kind, name, folder, method, strays)
        except UserError as error:
            refusals.append(" ".join(f"{error.where}: {error.found}".replace(str(folder), "folder").split()))
        except Exception:
            return Outcome(kind, name, TRACEBACK, method, found=traceback.format_exc()[-600:])
    return Outcome(kind, name, REFUSED, found=refusals[-1][:200])


def _compared(kind: str, name: str, folder: Path, method: str, allowed: float) -> Outcome:
    frozen = load_model(ModelParams(path=folder), Compute("float32", "cpu", 1, BATCH_TOKENS, False, method))
    layers = tuple(range(len(frozen.facts.layers)))
    reader = Reader(frozen, Request(layers, ("mean",), token_states=True), method)
    texts = ragged(frozen.facts.window)
    tokens = tokenise(frozen.tokenizer, texts, texts, "{text}", min(LONG, frozen.facts.window), frozen.facts.vocabulary)
    try:
        expected = list(alone(folder, tokens))
    except Exception as error:  # what transformers itself cannot read has to be refused
        list(reader.read_all(tokens, BATCH_TOKENS))
        return Outcome(kind, name, WRONG, method, found=f"read, though transformers says {str(error)[:100]}")
    worst, most, found = 0.0, 0, ""
    for how, places in groups(tokens):
        errors = _errors(
            reader, tokens.take(places), [expected[i] for i in places], 1 if how == "alone" else BATCH_TOKENS
        )
        strays = int((errors > TOLERANCE).sum())
        if strays > allowed * len(errors):
            found += f"{how}: {float(errors.max()):.1e}, {strays} of {len(errors)} tokens; "
        worst, most = max(worst, float(errors[errors <= TOLERANCE].max(initial=0))), max(most, strays)
    ways = ", ".join(dict.fromkeys(zone.way.name.lower() for zone in reader.zones))
    window = frozen.facts.window if frozen.facts.window < LONG else 0
    verdict = WRONG if found else RIGHT
    return Outcome(kind, name, verdict, method, ways, window, float(f"{worst:.1e}"), most, found)


def ragged(window: int, seed: int = 0) -> list[str]:
    """Texts of 1 to some 60 words, and three at the window's edge: a word short of it, at it and far beyond."""
    draw, edge = random.Random(seed), min(window, LONG)
    lengths = [*(draw.randint(1, 7) for _ in range(14)), *(draw.randint(12, 60) for _ in range(8))]
    lengths += [max(1, edge - 3), max(1, edge - 2), edge + 40]
    return [" ".join(f"w{draw.randrange(200)}" for _ in range(length)) for length in lengths]


def groups(tokens: Tokens) -> Iterator[tuple[str, list[int]]]:
    """What is read together: each text by itself, all, short ones (which may be packed), and those at the edge."""
    every = list(range(len(tokens.ids)))
    yield "alone", every[::3]
    yield "in batches", every
    yield "packed", [i for i in every if len(tokens.ids[i]) <= 16]
    yield "at the window's edge", every[-3:]


@torch.inference_mode()
def alone(folder: Path, tokens: Tokens) -> Iterator[Float[Tensor, "layers tokens dim"]]:
    """What transformers' own model, newly read, says of each text by itself: no padding, no neighbours, no hooks."""
    model = reference(folder)
    for ids in tokens.ids:
        fresh = copy.deepcopy(model)  # a forward pass may leave something on it
        row = torch.tensor([ids])
        inputs: dict[str, Any] = {"input_ids": row, "attention_mask": torch.ones_like(row)}
        if "use_cache" in inspect.signature(model.forward).parameters:
            inputs["use_cache"] = False
        states = fresh(**inputs, output_hidden_states=True, return_dict=True).hidden_states
        yield torch.stack([layer[0, : len(ids)].float() for layer in states])  # some fill rows up to blocks


def _errors(reader: Reader, tokens: Tokens, expected: Sequence[Tensor], batch_tokens: int) -> Errors:
    """Of every token, in its worst layer; infinite for one that is not there."""
    errors: dict[int, Errors] = {}
    for positions, rows in reader.read_all(tokens, batch_tokens):
        assert rows.tokens is not None
        for place, found, mean in zip(positions.tolist(), rows.tokens, rows.pooled["mean"], strict=True):
            wanted = expected[place].transpose(0, 1)
            same = found.shape == wanted.shape and _relative(mean, found.mean(0)).max() <= TOLERANCE
            errors[place] = _relative(found, wanted) if same else np.full(len(wanted), np.inf)
    missing = [np.full(len(ids), np.inf) for place, ids in enumerate(tokens.ids) if place not in errors]
    return np.concatenate([*errors.values(), *missing])


def _relative(found: Tensor, wanted: Tensor) -> Errors:
    error = (found - wanted).norm(dim=-1) / wanted.norm(dim=-1).clamp(min=1e-6)
    worst: Errors = error.nan_to_num(torch.inf).reshape(-1, error.shape[-1]).amax(1).numpy()
    return worst
