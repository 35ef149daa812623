"""Hands crafted artifacts to what a user would open them with, and counts what is not refused.

    python -m benchmarks.hostile [--only WORD]

Refused means: exit code 2, the project's own error with its four parts, no file left behind, no code run, nothing read
from outside, and no memory taken for a shape that is claimed. Everything runs in this process; the wheels are handed to
`ilse fetch` where pip would have put them. Prints a line for each kind, and one JSON object as its last line. Exit
code 1 when anything was accepted or ended in a traceback, or when what is intact was refused.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.hostile.campaign import campaign, document, table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every other case of a kind")
    parser.add_argument("--only", default="", help="cases whose kind or name contains this alone")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ilse-hostile-") as folder:
        outcomes = campaign(Path(folder), options.quick, options.only)
    print(table(outcomes))
    found = document(outcomes)
    print(json.dumps({**found, "seconds": round(time.monotonic() - started)}))
    return int(bool(found["accepted"] or found["tracebacks"]))


if __name__ == "__main__":
    sys.exit(main())
