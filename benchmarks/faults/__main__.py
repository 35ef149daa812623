"""The faults campaign: injects faults of every kind, judges what comes out of each, and counts.

    python -m benchmarks.faults [--quick] [--seed 0] [--faults 200] [--only WORD]

Prints the table of docs/faults.md, then one JSON object as its last line; what is done is said on stderr. Exit code 1
when anything was lost, silently wrong or unclear. The seed decides which faults; what the clock decides (which shard a
killed worker was at) it does not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.faults import tally
from benchmarks.faults.campaign import campaign


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within a minute: some faults of every kind")
    parser.add_argument("--seed", type=int, default=0, help="decides which faults; default 0")
    parser.add_argument("--faults", type=int, default=200, help="how many at the least; default 200")
    parser.add_argument("--only", default="", help="kinds whose name contains this alone")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ilse-faults-", ignore_cleanup_errors=True) as folder:
        faults, skipped = campaign(Path(folder), options.seed, 0 if options.quick else options.faults, options.only)
    found = tally.document(faults)
    print(tally.table(faults))
    figures = {"seed": options.seed, **found, "not_injected": skipped, "seconds": round(time.monotonic() - started)}
    print(json.dumps(figures))
    return int(bool(found["failures"]))


if __name__ == "__main__":
    sys.exit(main())
