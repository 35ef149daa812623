"""Writes `docs/architectures.md` from `benchmarks/results/architectures.json`: `python -m docs.make_architectures`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.markdown import table
from ilse.core.files.atomic import write_text

OUT = Path(__file__).with_name("architectures.md")
RESULTS = OUT.parent.parent / "benchmarks" / "results" / "architectures.json"
WAYS = {
    "packed": "several texts in one row",
    "padded": "padded, without a mask",
    "masked": "padded, with a mask",
    "exact": "only with texts of the same length",
    "alone": "one text at a time",
}


TOP = """# Architectures

`python -m benchmarks.architectures --out benchmarks/results/architectures.json` and `python -m docs.make_architectures`
write this page.

**{tried} tiny models tried: {right} right, {refused} refused by name, {wrong} wrong, {tracebacks} tracebacks.** Each is
made from a configuration of transformers, with random weights. 25 texts of different lengths, three of them at the edge
of the model's window, are read one by one, in batches, and packed. The reference is `output_hidden_states` of each text
alone, from a fresh model that transformers loads itself. Right means that every token's state in every layer is within
{tolerance:g} of the reference, relative to its norm, in float32.

In a mixture of experts, up to {share:.2f} % of the tokens may be further off: where two experts score the same,
rounding decides which of them gets the token. The column *strays* counts such tokens.

A real model may have settings that its architecture's tiny model lacks. So loading a model does not rely on this table:
it tests the model on made-up texts, and batches texts in the fastest way that passes:

{ways}.

Models that are read through `hidden_states` need `extract.capture: hidden_states`; the error from hooks says so.
"""


def document() -> str:
    """The whole page."""
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    return "".join([_head(found), *_tables(found), _refused(found)])


def _head(found: dict[str, Any]) -> str:
    ways = ";\n".join(f"- *{name}*: {meaning}" for name, meaning in WAYS.items())
    return TOP.format(**found, share=100 * found["strays"], ways=ways)


def _tables(found: dict[str, Any]) -> Iterator[str]:
    right = [one for one in found["architectures"] if one["verdict"] == "right"]
    for kind in dict.fromkeys(one["kind"] for one in right):
        rows = [
            [
                f"`{one['name']}`" if " " not in one["name"] else one["name"],
                f"`{one['method']}`",
                one["ways"],
                f"{one['worst']:.0e}",
                str(one["strays"] or ""),
            ]
            for one in right
            if one["kind"] == kind
        ]
        yield f"\n## {kind[0].upper()}{kind[1:]}\n\n"
        yield table(["architecture", "read through", "batches", "largest error", "strays"], rows)


def _refused(found: dict[str, Any]) -> str:
    others = [one for one in found["architectures"] if one["verdict"] != "right"]
    rows = [[f"`{one['name']}`", one["verdict"], one["found"].replace("|", "\\|")] for one in others]
    return "\n## Refused\n\n" + table(["architecture", "verdict", "what was found"], rows)


if __name__ == "__main__":
    write_text(OUT, document())
