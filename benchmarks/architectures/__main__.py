"""Reads ragged texts with a tiny model of every architecture and compares each text with transformers' own states.

    python -m benchmarks.architectures [--quick] [--only WORD] [--out FILE]

Each text's reference is `output_hidden_states` of that text alone, in float32, by a model that transformers read
itself. The product reads the texts one by one, in batches, packed, and at the window's edge: through hooks, and where
these are refused through `hidden_states`. An architecture counts as right when every token's state in every layer, and
every mean, is within the tolerance; as refused when a clear error names it; as wrong, or as a traceback, otherwise.
Prints a line for each, and one JSON object as its last line. Exit code 1 when any was wrong or ended in a traceback.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.architectures.campaign import campaign, document, line
from pipeline.model.quiet import quietly


@quietly()
def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.architectures", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a sample of all kinds")
    parser.add_argument("--only", default="", help="architectures whose kind or name contains this alone")
    parser.add_argument("--out", type=Path, help="a file for the whole result, from which the documentation is made")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ilse-architectures-") as folder:
        outcomes = campaign(Path(folder), options.quick, options.only, lambda one: print(line(one), flush=True))
    found = document(outcomes)
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    counts = {name: value for name, value in found.items() if name != "architectures"}
    print(json.dumps({**counts, "seconds": round(time.monotonic() - started)}))
    return int(bool(found["wrong"] or found["tracebacks"]))


if __name__ == "__main__":
    sys.exit(main())
