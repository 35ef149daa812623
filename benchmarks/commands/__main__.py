"""The commands campaign: disturbs every command in every way, judges what comes out of each, and counts.

    python -m benchmarks.commands [--quick] [--seed 0] [--only WORD] [--command WORD] [--out FILE]

Prints a table by kind, then one JSON object as its last line; each fault is said on stderr as it happens. Exit code 1
when anything was lost, wrongly accepted, shown, aborted, hung or unclear. `--out benchmarks/results/commands.json` and
`python -m docs.make_faults` fill the table of docs/faults.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.commands.campaign import campaign
from benchmarks.commands.verdict import BAD, VERDICTS
from benchmarks.faults import tally
from ilse.core.files.atomic import write_json


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commands", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within half a minute: a command or two of every kind")
    parser.add_argument("--seed", type=int, default=0, help="decides which faults; default 0")
    parser.add_argument("--only", default="", help="kinds whose name contains this alone")
    parser.add_argument("--command", default="", help="commands whose name contains this alone")
    parser.add_argument("--out", type=Path, help="a file for the JSON too")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ilse-commands-", ignore_cleanup_errors=True) as folder:
        faults, skipped = campaign(Path(folder), options.seed, options.quick, options.only, options.command)
    found = tally.document(faults, VERDICTS, BAD)
    print(tally.table(faults, VERDICTS))
    figures = {"seed": options.seed, **found, "not_injected": skipped, "seconds": round(time.monotonic() - started)}
    if options.out:
        write_json(options.out, figures)
    print(json.dumps(figures))
    return int(bool(found["failures"]))


if __name__ == "__main__":
    sys.exit(main())
