"""Packs short texts into rows of one width: almost no padding, and one shape for nearly every batch.

Measured on SmolLM2-135M in float32, headlines of 8 tokens: rows of 64 as batches of 16 gave 1.25 times the tokens a
second of padded batches sorted by length (0.98 against 0.93 of a batch's tokens are real, and attention works on few
larger pieces). Only for models that prove to keep the texts of a row apart: see `reader.py`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

WIDTHS = (64, 128, 256)
"""Widths of packed rows, in tokens. Wider rows waste less padding, but attention has more to read."""


def pack(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Numbers of the texts in each row: the longest text that is left first, then always the longest that fits.

    `lengths`, longest first, are at most `width`. Of texts of one length the first comes first.
    """
    left: dict[int, list[int]] = {}
    for i in reversed(range(len(lengths))):
        left.setdefault(lengths[i], []).append(i)
    distinct = sorted(left)
    rows: list[list[int]] = []
    while distinct:
        row, room = [], width
        while fitting := bisect_right(distinct, room):
            length = distinct[fitting - 1]
            row.append(left[length].pop())
            room -= length
            if not left[length]:
                del distinct[fitting - 1]
        rows.append(row)
    return rows
