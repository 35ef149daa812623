"""All architectures, and what is counted."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.architectures.models import Model
from benchmarks.architectures.specs import KINDS, PARTS
from benchmarks.architectures.trial import REFUSED, RIGHT, STRAYS, TOLERANCE, TRACEBACK, WRONG, Outcome, judged

PARTS_KIND = "parts saved alone"
QUICK = (
    "llama",
    "gemma3_text",
    "mixtral",
    "mamba",
    "lfm2",
    "bert",
    "roberta",
    "data2vec-text",
    "fnet",
    "longformer",
    "squeezebert",
    "reformer",
    "bart",
    "t5",
    "paligemma",
    "vit",
    "T5EncoderModel",
    "DPRContextEncoder",
)
"""One of each sort, those among them that were once read wrongly."""


def all_models() -> Iterator[tuple[str, str, Model]]:
    """Every model with its kind and name; what follows a name's first word tells variants of one architecture apart."""
    for kind, specs in KINDS.items():
        for name, settings in specs.items():
            yield kind, name, Model(name.split()[0], settings)
    for name, (architecture, settings) in PARTS.items():
        yield PARTS_KIND, name, Model(architecture, settings, saved=name)


def campaign(
    scratch: Path, quick: bool = False, only: str = "", say: Callable[[Outcome], None] = lambda outcome: None
) -> list[Outcome]:
    """Every architecture, or a sample, or those whose kind or name contains `only`."""
    outcomes = []
    for kind, name, model in all_models():
        if (not quick or name in QUICK) and (only in kind or only in name):
            outcomes.append(judged(kind, name, model, scratch))
            say(outcomes[-1])
            gc.collect()
    return outcomes


def document(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The counts, and every architecture."""
    counts = Counter(outcome.verdict for outcome in outcomes)
    return {
        "tried": len(outcomes),
        "right": counts[RIGHT],
        "refused": counts[REFUSED],
        "wrong": counts[WRONG],
        "tracebacks": counts[TRACEBACK],
        "tolerance": TOLERANCE,
        "strays": STRAYS,
        "architectures": [outcome.document() for outcome in outcomes],
    }


def line(outcome: Outcome) -> str:
    """One row of the table that is printed."""
    how = f"{outcome.method}, {outcome.ways}, worst {outcome.worst:.0e}" if outcome.verdict == RIGHT else outcome.found
    return f"{outcome.verdict:9} {outcome.name:32} {outcome.seconds:5.1f} s  {how}"
