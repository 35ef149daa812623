"""Limit to what a compressed file may unpack to before it counts as a bomb."""

from __future__ import annotations

MOST_PACKED = 200
"""How many bytes one packed byte may give; text gives ten, and a bomb a thousand."""
ALWAYS_FINE = 64 * 2**20
"""Bytes that may come of any file."""


def is_bomb(unpacked: int, packed: int) -> bool:
    """Whether data unpacks to more bytes than honest data would."""
    return unpacked > max(ALWAYS_FINE, MOST_PACKED * packed)
