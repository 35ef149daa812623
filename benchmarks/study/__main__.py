"""The published study: runs what is missing, collects, and writes `docs/study.md`.

    python -m benchmarks.study DATA [--tasks NAME ...] [--models NAME ...] [--jobs N]
    python -m benchmarks.study --collect     # of the experiments that have ended

DATA has a folder a task with a Parquet file a split. Each experiment (`study.yaml`) is the pipeline that a user runs,
up to `evaluate`, in a copy of the repository that DVC makes; one that has ended at this commit is not run again, so a
study that was stopped goes on. Then the named experiments' heads for similarity are tried on other data (`transfer`).
Tables stand in `benchmarks/results/study/`; the last line is JSON, with what has ended.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.study import transfer
from benchmarks.study.experiments import experiments, run
from benchmarks.study.results import RESULTS, collect
from docs.make_study import write


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--jobs", type=int, default=1, help="experiments at a time")
    parser.add_argument("--collect", action="store_true", help="run nothing")
    given = parser.parse_args()
    if (given.data is None) != given.collect:
        parser.error("a folder of data, or --collect")
    everything = list(experiments(given.data or Path()))
    if not given.collect:
        of_tasks = [one for one in everything if one.task in (given.tasks or [one.task])]
        chosen = [one for one in of_tasks if one.model in (given.models or [one.model])]
        code = run(chosen, given.jobs)
        if code:
            sys.exit(code)
    found = collect(everything)
    if not given.collect:
        transfer.collect(chosen, everything, given.data)
    write(RESULTS)
    print(json.dumps({"ended": found, "of": len(everything)}))


if __name__ == "__main__":
    main()
