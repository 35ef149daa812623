"""Limits on what a `tokenizer.json` may do: no step that multiplies a text, no endless pattern, few added tokens.

Its steps run in native code, which no clock and no exception of ours ends: they are looked at before it is loaded, and
they run on single characters and on what they themselves put in, one step at a time.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import normalizers

BYTES = 2**27
"""Bytes of a tokenizer file; those with the largest vocabularies have a quarter of this."""
STEPS = 512
"""Steps of normalisation and of splitting into words."""
REPLACEMENT = 1024
"""Characters that a step puts in the place of one match."""
GROWTH = 64
"""How many times as long a piece of text may become, and as many characters more."""
AROUND = 256
"""Tokens that are put around a text."""
IDS = 2**24
"""Ids of tokens; the library makes a list as long as the highest."""
BYTE_LEVELS = 4
"""Most byte-level steps. Each may double a text, and nobody needs more than one."""


def require_bounded(file: Path) -> None:
    """Raises `ValueError` for a tokenizer that no model has; a file that is no JSON passes: its reader refuses it."""
    if file.stat().st_size > BYTES:
        raise ValueError(f"tokenizer.json with more than {BYTES:,} bytes")
    try:
        values = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return
    if not isinstance(values, dict):
        return
    parts = [values.get(name) for name in ("normalizer", "pre_tokenizer", "post_processor")]
    normaliser, words, around = (list(_steps(part)) for part in parts)
    for step in (*normaliser, *words):
        if runs_away(pattern := _regex(step)):
            raise ValueError(f"the pattern {pattern[:80]!r}, a nested repetition, which may never end")
    if len(normaliser) + len(words) > STEPS:
        raise ValueError(f"{len(normaliser) + len(words):,} steps of normalisation and cutting")
    if sum(step.get("type") == "ByteLevel" for step in (*normaliser, *words)) > BYTE_LEVELS:
        raise ValueError(f"more than {BYTE_LEVELS} steps of the kind ByteLevel")
    _require_no_growth(normaliser)
    if (tokens := sum(map(_tokens_around, around))) > AROUND:
        raise ValueError(f"a post-processor that puts {tokens:,} tokens around a text")
    _require_room(values.get("truncation"))
    if (highest := _highest_id(values)) >= IDS:
        raise ValueError(f"a token with the id {highest:,}")


def runs_away(pattern: str) -> bool:
    """Whether a group that repeats without a bound holds something that does: `(a+)+` tries all ways to share out."""
    inside: list[bool] = [False]
    ended, at, classes = False, 0, 0
    while at < len(pattern):
        sign, at = pattern[at], at + 1
        closed, ended = ended, False
        if sign == "\\":
            at += 1
        elif classes or sign == "[":  # Oniguruma knows sets in sets
            classes += (sign == "[") - (sign == "]")
        elif sign == "(":
            inside.append(False)
        elif sign == ")" and len(inside) > 1:
            ended = inside.pop()
            inside[-1] |= ended
        elif sign in "+*" or (sign == "{" and pattern[at:].partition("}")[0].endswith(",")):
            if closed:
                return True
            inside[-1] = True
    return False


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """The steps of a sequence, in order, whatever they are nested in."""
    waiting = [part]
    while waiting:
        step = waiting.pop()
        if not isinstance(step, dict):
            continue
        if step.get("type") != "Sequence":
            yield step
            continue
        for name in ("normalizers", "pretokenizers", "processors"):
            waiting += reversed(step[name] if isinstance(step.get(name), list) else [])


def _regex(step: dict[str, Any]) -> str:
    pattern = step.get("pattern")
    found = pattern.get("Regex") if isinstance(pattern, dict) else None
    return found if isinstance(found, str) else ""


def _literal(step: dict[str, Any]) -> str:
    pattern = step.get("pattern")
    found = pattern.get("String") if isinstance(pattern, dict) else None
    return found if isinstance(found, str) else ""


def _put_in(step: dict[str, Any]) -> str:
    return "".join(value for name in ("content", "prepend") if isinstance(value := step.get(name), str))


def _require_no_growth(steps: list[dict[str, Any]]) -> None:
    """A step that finds what an earlier one put in makes more of it each time: so these are what is tried."""
    if any(len(_put_in(step)) > REPLACEMENT for step in steps):
        raise ValueError(f"a normaliser that puts in more than {REPLACEMENT:,} characters at once")
    changing = [step for step in steps if step.get("type") in ("Replace", "Prepend", "ByteLevel")]
    try:
        run = [_normaliser(step) for step in changing]
    except Exception:  # of the library: its reader says better what is wrong with a step
        return
    pieces = {*string.printable, *map(_literal, changing), *map(_put_in, changing)}
    for piece in sorted(pieces):
        text = piece
        for step in run:
            text = step.normalize_str(text)
            if len(text) > GROWTH * (len(piece) + 1):
                raise ValueError(f"a normaliser that makes {len(text):,} characters and more of {piece[:40]!r}")


def _normaliser(step: dict[str, Any]) -> Any:
    if step["type"] == "ByteLevel":
        return normalizers.ByteLevel()
    if step["type"] == "Prepend":
        return normalizers.Prepend(step["prepend"])
    from tokenizers import Regex

    return normalizers.Replace(Regex(_regex(step)) if _regex(step) else _literal(step), step["content"])


def _tokens_around(step: dict[str, Any]) -> int:
    """Tokens of a template for one text, each of which may stand for several ids."""
    template, known = step.get("single"), step.get("special_tokens")
    if not isinstance(template, list):
        return 0
    total = 0
    for place in template:
        special = place.get("SpecialToken") if isinstance(place, dict) else None
        told = known.get(special.get("id")) if isinstance(special, dict) and isinstance(known, dict) else None
        ids = told.get("ids") if isinstance(told, dict) else None
        total += max(1, len(ids) if isinstance(ids, list) else 1)
    return total


def _require_room(truncation: Any) -> None:
    """A limit of its own that leaves nothing of a text, or its first token."""
    most = truncation.get("max_length") if isinstance(truncation, dict) else None
    if isinstance(most, int) and most < 2:
        raise ValueError(f"its own limit of {most} tokens")


def _highest_id(values: dict[str, Any]) -> int:
    model, added = values.get("model"), values.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    return max((value for value in ids if isinstance(value, int)), default=0)
