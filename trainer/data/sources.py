"""What a head's rows come from: one model's capture, or several side by side, in an order that counts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field

from pipeline.store import CaptureSpec

Whole = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True)
class Source:
    """One model's rows."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # for loading

    capture: CaptureSpec
    """Capture that the rows come from, copied from the cache."""
    model_name: str
    """Id on the Hub, or the name of the model's file or folder."""
    model_parameters: Whole


def fingerprint_of(sources: Sequence[Source]) -> str:
    """Fingerprint of the only capture; of several, the SHA-256 of theirs in order, 64 hexadecimal digits."""
    if len(sources) == 1:
        return sources[0].capture.fingerprint
    return hashlib.sha256("\n".join(source.capture.fingerprint for source in sources).encode()).hexdigest()


def short_names(sources: Sequence[Source]) -> list[str]:
    """A name for each model, no two alike: the last part of its own, with a number where two have the same."""
    bare = [source.model_name.rstrip("/").rsplit("/", 1)[-1] for source in sources]
    times, seen = Counter(bare), Counter[str]()
    names = []
    for name in bare:
        seen[name] += 1
        names.append(name if times[name] == 1 else f"{name}#{seen[name]}")
    return names


def layer_names_of(sources: Sequence[Source]) -> list[str]:
    """Names of the layers; with several models `model:layer`."""
    if len(sources) == 1:
        return list(sources[0].capture.layers)
    named = zip(short_names(sources), sources, strict=True)
    return [f"{name}:{layer}" for name, source in named for layer in source.capture.layers]


def models_in_words(sources: Sequence[Source]) -> str:
    """Names of the models with the first digits of their captures' fingerprints, for messages."""
    return ", then ".join(f"{source.model_name} ({source.capture.fingerprint[:16]})" for source in sources)
