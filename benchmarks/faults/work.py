"""One piece of work: an extraction that faults hit, run after run, until it is done and judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.faults import judge
from benchmarks.faults.hook import Hook
from benchmarks.faults.judge import Reference
from benchmarks.faults.stage import SHARD_ROWS, SHARDS, Call
from benchmarks.faults.starting import Ended
from benchmarks.faults.tally import LOST, RESUMED, SURVIVED, UNCLEAR, WRONG, Fault


@dataclass
class Mark:
    """A moment in the work: a record of `intact` that is put in place behind it was computed again."""

    intact: set[str]
    position: int
    """Records put in place before."""


@dataclass
class _Injected:
    """A fault that waits for its verdict."""

    what: str
    verdict: str
    why: str
    mark: Mark


@dataclass
class Work:
    """A cache in a folder that is made by runs of one call.

    `allowed` are the caches that may stand at `out` in the meantime: the one asked for first, then an older one.
    """

    kind: str
    call: Call
    allowed: tuple[Reference, ...]
    injected: list[_Injected] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    lent: frozenset[int] = frozenset()
    """Shards that the cache at `out` held from the start, and lends."""
    broken: str = ""
    """Set when a rerun failed that met no fault of its own."""

    @property
    def log(self) -> Path:
        """Where the hook notes every record that is put in place; outside the work's folder."""
        return self.call.folder.with_suffix(".log")

    def hook(
        self, process: str = "ilse.cli", kill_at: int = 0, pauses: tuple[int, ...] = (), slow: float = 0.0
    ) -> Hook:
        """A hook on the work's own files."""
        gate = str(self.call.folder.with_suffix(".gate"))
        where = f"{self.call.folder}/"
        return Hook(where, str(self.log), process, kill_at=kill_at, pauses=pauses, gate=gate, slow=slow)

    def mark(self) -> Mark:
        """The work that is finished by now."""
        return Mark(self.intact(), len(self.records()))

    def hit(self, what: str, ended: Ended, killed: bool = False, mark: Mark | None = None) -> None:
        """Notes a fault and how the run that met it ended: killed, with an error, or as if nothing had happened."""
        clear = killed or judge.is_clear(ended)
        verdict = SURVIVED if ended.code == 0 else RESUMED if clear else UNCLEAR
        why = ended_badly(ended) if verdict == UNCLEAR else ""
        self.injected.append(_Injected(what, verdict, why, mark or self.mark()))
        self.look()

    def look(self) -> None:
        """Reads what stands at `out` between two runs: it must be a cache that may be there, or say that it is not."""
        found = judge.read(self.call.out, *self.allowed)
        self.silent += [f"{name} differed between two runs" for name in found.wrong]
        self.unclear += found.unclear

    def judged(self, last: Ended, rerun: bool = True) -> list[Fault]:
        """Every fault with its verdict, after the run that should have brought the work to its end; it is a rerun, or
        the one that met the faults.
        """
        wrong = self.silent + (self.differences() if last.code == 0 else [])
        lost = self.broken or (ended_badly(last) if last.code else self._computed_too_much() if rerun else "")
        return [self._judged(fault, wrong, lost) for fault in self.injected]

    def intact(self) -> set[str]:
        """Records whose shards are on disk as recorded."""
        return judge.intact_records(self.call.scratch)

    def records(self) -> list[str]:
        """Every record that was put in place, in order."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def differences(self) -> list[str]:
        """Files of the finished cache that are not the reference's."""
        return judge.differences(judge.files_of(Path(self.call.out)), self.allowed[0].files)

    def _computed_too_much(self) -> str:
        """What the last run computed beyond what was neither recorded nor lent; nothing for an empty string."""
        if not self.injected:
            return ""
        there = {int(Path(record).stem) for record in self.injected[-1].mark.intact} | self.lent
        most, found = SHARD_ROWS * (SHARDS - len(there)), judge.computed(self.call.figures)
        return f"the last run computed {found} texts, where {most} had to be" if found > most else ""

    def _judged(self, fault: _Injected, wrong: list[str], lost: str) -> Fault:
        again = sorted(fault.mark.intact & set(self.records()[fault.mark.position :]))
        if wrong:
            return Fault(self.kind, fault.what, WRONG, "; ".join(wrong)[:500])
        if lost or again:
            return Fault(self.kind, fault.what, LOST, lost or f"computed again: {', '.join(again)}"[:500])
        if self.unclear and not fault.why:
            return Fault(self.kind, fault.what, UNCLEAR, "; ".join(self.unclear)[:500])
        return Fault(self.kind, fault.what, fault.verdict, fault.why)


def ended_badly(ended: Ended) -> str:
    """How a command ended, for the list of failures."""
    return f"exit code {ended.code}: …{ended.said[-1500:]}"


def chain(
    work: Work, faulty: Callable[[Work], Ended | None], clean: Callable[[Call], Ended], count: int
) -> list[Fault]:
    """Up to `count` faulty runs, one after the other on what the last one left, and a clean one that has to get there.

    `faulty` runs the call, injects a fault and notes it with `Work.hit`; it returns how the run ended, or None for a
    fault that never came to pass because the work was done before.
    """
    for _ in range(count):
        ended = faulty(work)
        if ended is None or ended.code == 0:
            break
    return work.judged(clean(work.call))
