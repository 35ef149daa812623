"""What words told a head, for the page: pictures of words × layers from `why.json`, if a head of the run made it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from trainer.analysis.word_picture import STYLE, picture
from trainer.analysis.words_told import read_told
from trainer.report.evaluation import Results

STYLES = Markup(STYLE)  # our own
CLOSE = 1e-5
"""Tables have six decimals."""


@dataclass(frozen=True)
class Why:
    """Rows with `target` and `figure`, the picture with the answer; or why a file that is there has none to show."""

    head: str = ""
    seed: int = 0
    asked: int = 0
    answered_rightly: int | None = None
    trained_on: bool = False
    right: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    lacking: str = ""


def why_of(folder: Path, results: Results) -> Why | None:
    """The examples of `folder/why.json`; None where there is no such file."""
    told = read_told(folder)
    if told is None:
        return None
    own = results.runs.filter(pl.col("head") == told.head, pl.col("seed") == told.seed)["val_score"]
    if own.is_empty() or abs(float(own[0]) - told.val_score) > CLOSE:
        return Why(lacking=f"why.json is of another head than {told.head} seed {told.seed} of this evaluation")
    rows = [
        {
            "right": example.right,
            "target": example.target,
            # everything of the user's is escaped there
            "figure": Markup(picture(example.drawn(), told.layers, example.answer, style=False)),
        }
        for example in told.examples
    ]
    right, wrong = ([row for row in rows if row["right"] == of] for of in (True, False))
    return Why(told.head, told.seed, told.asked, told.answered_rightly, told.trained_on, right, wrong)
