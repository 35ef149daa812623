"""Typing mistakes in a text, the same ones every time for a text's id and a seed.

Each letter or digit meets at most one of three fates: a change (left out, doubled, replaced by another character of
the text, or exchanged with the next one), a neighbouring key of a QWERTY keyboard, or a space before it within a word.

No package does this as a capture needs it: nlpaug has had no release since 2022 and wants pandas, requests and gdown;
typo draws from Python's global generator, which the threads of an extraction share. A generator of its own for each
text, of which `random()` alone is used, gives the same on any machine and in any order (Python's documentation, "Notes
on Reproducibility").
"""

from __future__ import annotations

import hashlib
from random import Random

from pipeline.store import NoiseSpec

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_DIGITS = "1234567890"


def _beside() -> dict[str, str]:
    """Maps each key to its neighbours: those in its row, and those above and below, which are offset by half a key."""
    keys = {}
    for number, row in enumerate(_ROWS):
        for place, key in enumerate(row):
            near = [(number, place - 1), (number, place + 1), (number - 1, place), (number - 1, place + 1)]
            near += [(number + 1, place - 1), (number + 1, place)]
            inside = [(r, p) for r, p in near if 0 <= r < len(_ROWS) and 0 <= p < len(_ROWS[r])]
            keys[key] = "".join(_ROWS[r][p] for r, p in inside)
    for place, key in enumerate(_DIGITS):
        keys[key] = _DIGITS[max(0, place - 1) : place] + _DIGITS[place + 1 : place + 2]
    return keys


BESIDE = _beside()
"""Key → those beside it."""


def noised(text: str, text_id: str, noise: NoiseSpec) -> str:
    """The text with its mistakes; as it is where nothing would be left of it."""
    random = Random(hashlib.sha256(f"{noise.seed}:{text_id}".encode()).digest())
    others = [character for character in text if character.isalnum()]
    made: list[str] = []
    place = 0
    while place < len(text):
        own, after = text[place], text[place + 1 : place + 2]
        place += 1
        if not own.isalnum():
            made.append(own)
            continue
        fate = random.random()
        if fate < noise.characters:
            changed, taken = _changed(own, after, others, random)
            made.append(changed)
            place += taken
        elif fate < noise.characters + noise.keyboard:
            made.append(_beside_key(own, random))
        elif fate < noise.characters + noise.keyboard + noise.splits and place > 1 and text[place - 2].isalnum():
            made.append(f" {own}")
        else:
            made.append(own)
    found = "".join(made)
    return found if found.strip() else text


def _changed(own: str, after: str, others: list[str], random: Random) -> tuple[str, int]:
    """One of four, and how many of the characters behind it are in that."""
    which = int(4 * random.random())
    if which == 0:
        return "", 0
    if which == 1:
        return 2 * own, 0
    if which == 2 and after.isalnum():
        return after + own, 1
    return _as(own, others[int(len(others) * random.random())]), 0


def _beside_key(own: str, random: Random) -> str:
    """Characters of no key stay."""
    near = BESIDE.get(own.lower())
    return _as(own, near[int(len(near) * random.random())]) if near else own


def _as(own: str, other: str) -> str:
    """Returns `other` in upper or lower case, as `own` is."""
    return other.upper() if own.isupper() else other.lower() if own.islower() else other
