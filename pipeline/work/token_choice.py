"""Checks `extract.token_states` against a model: which layers, which rank, which type."""

from __future__ import annotations

from ilse.core.errors import UserError
from pipeline.capture.layers import chosen_layers
from pipeline.config import ExtractParams, TokenParams
from pipeline.model.load import ModelFacts
from pipeline.store import TokenSpec

WHERE = "extract.token_states"


def token_layers(params: ExtractParams, facts: ModelFacts) -> tuple[int, ...]:
    """Numbers of the layers whose token states are kept, of all the model's.

    Raises `UserError` for a layer whose pooled rows are not kept.
    """
    kept, asked = chosen_layers(params.layers, len(facts.layers)), _asked(params)
    if asked is None:
        return ()
    if asked.layers is None:
        return kept
    chosen = chosen_layers(asked.layers, len(facts.layers), f"{WHERE}.layers")
    absent = [number for number in chosen if number not in kept]
    if absent:
        raise UserError(
            f"{WHERE}.layers, {absent[0]}",
            expected="layers that extract.layers keeps",
            found=f"layer {absent[0]} ('{facts.layers[absent[0]]}'), which it does not",
            next_step=f"add {absent[0]} to extract.layers, or leave it out of {WHERE}.layers",
        )
    return chosen


def token_choice(params: ExtractParams, facts: ModelFacts) -> TokenSpec | bool:
    """Spec of the token states that the cache keeps, before their basis is known.

    What `true` says is True, however it is spelled: caches that hold the same have the same fingerprint. Raises
    `UserError` for layers that are not there, and for a rank above the width.
    """
    asked = _asked(params)
    if asked is None:
        return False
    if asked.rank is not None and asked.rank > facts.dim:
        raise UserError(
            f"{WHERE}.rank",
            expected=f"at most the width of {facts.name}'s layers, {facts.dim}",
            found=f"{asked.rank}",
            next_step="lower it; 128 in int4 is a good start, and without a rank whole states are kept",
        )
    layers, kind = token_layers(params, facts), asked.storage_type or params.storage_type
    whole = asked.rank is None and layers == chosen_layers(params.layers, len(facts.layers))
    if whole and kind == params.storage_type and kind != "int8":
        return True
    return TokenSpec(tuple(facts.layers[number] for number in layers), asked.rank, kind)


def _asked(params: ExtractParams) -> TokenParams | None:
    given = params.token_states
    return (TokenParams() if given else None) if isinstance(given, bool) else given
