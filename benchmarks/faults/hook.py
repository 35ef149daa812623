"""What a child process shall meet at its file operations; `inside/sitecustomize.py` does it."""

from __future__ import annotations

import json
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

INSIDE = Path(__file__).parent / "inside"


@dataclass(frozen=True)
class Hook:
    """Acts on operations on files whose path begins with `where`, numbered from 1 in the order of their happening."""

    where: str
    log: str
    """File that gets the path of every shard's record when it is put in place."""
    process: str = "ilse.cli"
    """Part of the command line of the processes whose operations are numbered."""
    kill_at: int = 0
    """The process sends itself `signal` before this operation."""
    signal: int = signal.SIGKILL
    delay: float = 0.0
    """Seconds after that operation at which the signal comes: in the midst of what makes no file operation."""
    pauses: tuple[int, ...] = ()
    gate: str = ""
    """The process waits before each of `pauses` until the file `<gate>.<number>`, which it makes, is removed."""
    slow: float = 0.0
    """Seconds that every record takes longer: a tiny model would be done before anything can happen to it."""
    tally: str = ""
    """File that gets a byte for every operation."""

    def environment(self) -> dict[str, str]:
        """Variables of the child."""
        return {"FAULTS_HOOK": json.dumps(asdict(self))}
