"""Checks `extract.windows` against a model: it must have room for them, and no token may be lost."""

from __future__ import annotations

from ilse.core.errors import UserError
from pipeline.config import ExtractParams
from pipeline.model.load import ModelFacts
from pipeline.store import WindowSpec

WHERE = "extract.windows"


def window_choice(params: ExtractParams, facts: ModelFacts) -> WindowSpec | None:
    """The windows in which long texts are read; None where every text is read in one piece.

    A window is as long as is asked for, or as the model's own where that is shorter. What is left unsaid is said here:
    captures that are the same have the same fingerprint. Raises `UserError` for windows that would lose tokens, and for
    those that hold nothing but special tokens.
    """
    asked = params.windows
    if asked is None:
        return None
    special = facts.special_tokens
    if special is None:
        raise UserError(
            WHERE,
            expected="a tokenizer that says how many special tokens it adds to a text",
            found=f"that of {facts.name}, which does not",
            next_step="leave out extract.windows, or use another model",
        )
    tokens = min(asked.tokens, facts.window)
    room, limit = tokens - special, "" if tokens == asked.tokens else f", the window of {facts.name}"
    if room < 1:
        raise UserError(
            f"{WHERE}.tokens",
            expected=f"more than the {special} special tokens of a window",
            found=f"{tokens} tokens{limit}",
            next_step="raise it, to 128 for one" if not limit else "use a model with a longer window",
        )
    stride = room if asked.stride is None else asked.stride
    if stride > room:
        raise UserError(
            f"{WHERE}.stride",
            expected=f"at most the {room} tokens of the text that a window of {tokens} tokens holds{limit}, beside "
            f"{special} special ones",
            found=f"{stride}: between two windows, tokens of the text would be lost",
            next_step=f"set it to {room} or less, or leave it out",
        )
    return WindowSpec(tokens, stride)
