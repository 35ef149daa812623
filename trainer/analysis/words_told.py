"""What words of some examples told a head, as a file: `why.json` of `ilse why`, which the report draws.

It is made where the tokenizer is, and read here, where none is. What it claims is checked: it may come from anywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ilse.core.files.json_files import own_file, read_json
from trainer.analysis.word_picture import MOST_WORDS, Words
from trainer.results.result_tables import unreadable

FILE, FORMAT_VERSION = "why.json", 1
MOST_EXAMPLES, MOST_LAYERS, LETTERS = 24, 4097, 2**16

Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e30, le=1e30)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Name = Annotated[str, Field(max_length=LETTERS)]


class ToldExample(BaseModel):
    """One example, its answer, and the words that moved it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    text_id: Name
    right: bool
    target: Name
    answer: Name
    words: Annotated[list[Name], Field(min_length=1, max_length=MOST_WORDS)]
    places: list[Count]
    count: Count
    contributions: list[list[Finite]]

    @model_validator(mode="after")
    def _agrees(self) -> ToldExample:
        ascending = all(one < other for one, other in zip(self.places, self.places[1:], strict=False))
        if not len(self.words) == len(self.places) == len(self.contributions):
            raise ValueError("a place and contributions for each word")
        if not ascending or self.places[-1] >= self.count:
            raise ValueError("places in ascending order, below count")
        return self

    def drawn(self) -> Words:
        """The words in the form that `word_picture.picture` takes."""
        return Words(self.words, self.places, self.count, np.array(self.contributions, np.float64))


class ToldExamples(BaseModel):
    """The examples of one trained head."""

    model_config = ConfigDict(strict=True, extra="forbid")

    format_version: Annotated[int, Field(ge=FORMAT_VERSION, le=FORMAT_VERSION)]
    head: Name
    seed: Count
    val_score: Finite
    trained_on: bool
    """Whether folds chose, so that the head was trained on these examples in the end."""
    asked: Count
    answered_rightly: Count | None
    layers: Annotated[list[Name], Field(min_length=1, max_length=MOST_LAYERS)]
    examples: Annotated[list[ToldExample], Field(min_length=1, max_length=MOST_EXAMPLES)]

    @model_validator(mode="after")
    def _has_all_layers(self) -> ToldExamples:
        for example in self.examples:
            if any(len(row) != len(self.layers) for row in example.contributions):
                raise ValueError("a contribution of each layer")
        return self


def read_told(results: Path) -> ToldExamples | None:
    """The file in `results`, None without one. Raises `UserError` for what `ilse why` would not write."""
    if not (results / FILE).exists():
        return None
    try:
        return ToldExamples.model_validate(read_json(own_file(results, FILE)))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise unreadable(results / FILE, "what 'ilse why' writes", f"{place}: {first['msg']}") from error
    except (OSError, ValueError) as error:
        raise unreadable(results / FILE, "what 'ilse why' writes", str(error)) from error
