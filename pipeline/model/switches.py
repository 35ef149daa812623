"""Text lengths from which a model reads differently: windows, chunks and scales that its config names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Numbers of tokens in a config beside the window, under the names that transformers' architectures give them.
_NAMES = re.compile(
    r"(^|_)(window|window_size|local_attention|local_radius|block_size|chunk_size|chunk_length|landmarks|seq_len"
    r"|context_length|original_max_position_embeddings)$"
)
BASE = (16, 9, 41)
"""Lengths of made-up texts for any model, in tokens; odd ones, and one that is much longer than another."""
LONGEST = 1200
"""Tokens of a made-up text; attention to more takes too long on any model."""
PROOF_FLOPS = 3e11
"""Operations that the proofs may add to loading: about a second of two CPU cores in float32."""
TIMES_READ = 8
"""How often the proofs read a made-up text, counted in its tokens."""


@dataclass(frozen=True)
class Lengths:
    """Lengths of the made-up texts, and the switches that they stand on both sides of.

    Parameters
    ----------
    texts
        In tokens.
    switches
        Longest text before each switch, ascending.
    proven
        Longest text that the made-up ones stand for: up to the first switch too long to be tried, or the window.
    """

    texts: tuple[int, ...]
    switches: tuple[int, ...]
    proven: int
    rescaled: bool = False
    """Whether positions are scaled otherwise behind a switch: an effect that low precision can hide."""


def lengths_for(config: Any, flops_per_token: int, longest: int) -> Lengths:
    """The affordable lengths among the texts that reach every switch and the window's edge, `longest` tokens."""
    texts = list(dict.fromkeys(min(length, longest) for length in BASE))
    lowest = min({longest, *_switches(config)})
    if lowest <= min(texts):  # something has to stand in padding before the first of them
        texts.append(max(1, lowest // 2))
    left = min(PROOF_FLOPS / max(1, flops_per_token), TIMES_READ * 10 * LONGEST)
    met: list[int] = []
    for switch in sorted(_switches(config)):
        if switch >= longest:
            break
        left -= TIMES_READ * (2 * switch + 1)
        if switch >= LONGEST or left < 0:
            return Lengths(tuple(texts), tuple(met), switch, _rescales(config))
        met.append(switch)
        texts += [length for length in (switch, switch + 1) if length not in texts]
    if longest <= LONGEST and left >= TIMES_READ * longest and longest not in texts:
        texts.append(longest)
    return Lengths(tuple(texts), tuple(met), longest, _rescales(config))


def _switches(config: Any) -> set[int]:
    values = config.get_text_config().to_dict()
    found = set(_named(values))
    blocks, drawn = values.get("block_size"), values.get("num_random_blocks")
    if isinstance(blocks, int) and isinstance(drawn, int):  # BigBird attends to all of a text up to here
        found.add((5 + 2 * drawn) * blocks)
    if _rescales(config):
        found.add(values.get("max_position_embeddings") or 0)
    return found - {0, 1}


def _rescales(config: Any) -> bool:
    return any(kind in ("dynamic", "longrope") for kind in _rope_types(config.get_text_config().to_dict()))


def _rope_types(values: dict[Any, Any]) -> Iterator[str]:
    """Types of rotary embedding, whose scale may depend on a text's length; under the newer and the older key."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _rope_types(value)
        elif name in ("rope_type", "type"):
            yield str(value)


def _named(values: dict[Any, Any]) -> Iterator[int]:
    """Numbers under such a name, and those of lists and of sections, such as `rope_parameters`."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _named(value)
        elif _NAMES.search(str(name)):
            numbers = value if isinstance(value, list | tuple) else [value]
            yield from (number for number in numbers if isinstance(number, int) and not isinstance(number, bool))
