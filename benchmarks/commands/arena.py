"""The tiny project, a copy of it for every fault, and the undisturbed runs that faults are compared with."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from benchmarks.commands import verdict
from benchmarks.commands.calls import CALLS, QUICK, Call
from benchmarks.commands.trees import Entry, Reference, tree
from benchmarks.faults.hook import Hook
from benchmarks.faults.starting import HUNG, NOTHING, Ended, Env, Running, Starter
from benchmarks.faults.tally import Fault
from benchmarks.faults.warm import HEAVY
from benchmarks.hostile.project import lay_out

HEAVIER = (
    "lightning",
    "torchmetrics",
    "sklearn.linear_model",
    "scipy.stats",
    "optuna",
    "sqlalchemy",
    "altair",
    "onnx",
    "onnxscript",
    "sentence_transformers",
    "peft",
    "huggingface_hub",
)
"""What the later commands import beside `HEAVY`; none of it starts a thread or imports polars."""
FRESH, OLDER = "fresh", "older"
"""Whether the results of the call stand already when it is given."""
THESIS = b"the only copy of a thesis\n"


@dataclass
class Trial:
    """One fault: a copy of the project, the call that is disturbed in it, and the verdict."""

    arena: Arena
    call: Call
    start: str
    folder: Path
    project: Path
    kind: str
    foreign: dict[Path, bytes] = field(default_factory=dict)
    """Files of the user's that have nothing to do with the call."""
    planted: list[Path] = field(default_factory=list)
    """They, and the folders made for them."""

    @property
    def reference(self) -> Reference:
        """What the call finds and leaves undisturbed."""
        return self.arena.reference(self.call, self.start)

    @property
    def patience(self) -> float:
        """Seconds after which the call hangs: more than `PATIENCE` where a busy machine is slow even undisturbed."""
        return max(verdict.PATIENCE, 10 * self.reference.seconds)

    def plant(self, path: Path, content: bytes = THESIS) -> Path:
        """Puts a file of the user's there."""
        new = [one for one in (path, *path.parents) if not one.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.foreign[path] = content
        self.planted += new
        return path

    def unplant(self) -> None:
        """Takes them away again, with the folders that were made for them."""
        for path in sorted(self.planted, reverse=True):
            with suppress(OSError):  # the command has put files of its own into a folder
                path.rmdir() if path.is_dir() else path.unlink()
        self.planted.clear()

    def tree(self) -> dict[str, Entry]:
        """What stands in the project, without what was planted."""
        planted = {path.relative_to(self.project).as_posix() for path in self.planted if self.project in path.parents}
        found, after = tree(self.project), self.reference.after
        return {name: entry for name, entry in found.items() if name not in planted or entry == after.get(name)}

    def run(self, hook: Hook | None = None, environment: Env = NOTHING, arguments: Sequence[str] = ()) -> Ended:
        """Gives the command, or one with other arguments, and waits for its end."""
        return self.begin(hook, environment, arguments).wait(self.patience)

    def begin(self, hook: Hook | None = None, environment: Env = NOTHING, arguments: Sequence[str] = ()) -> Running:
        """Gives the command."""
        return self.arena.begin(arguments or self.call.arguments, self.project, hook, environment)

    def hook(self, **changes: object) -> Hook:
        """A hook on the project's files."""
        place = str(self.folder)
        return Hook(f"{self.project}/", f"{place}.log", gate=f"{place}.gate", **changes)  # type: ignore[arg-type]

    def hung(self, running: Running) -> Fault | None:
        """A run that never came to the moment of its fault: it was over before, or it hangs."""
        ended = running.wait(1)
        return self.judged("without a fault", ended) if ended.code == HUNG else None

    def judged(
        self,
        what: str,
        ended: Ended,
        undo: Callable[[], object] = lambda: None,
        sent: int = 0,
        files: bool = True,
        cause: str = "",
    ) -> Fault:
        """The fault with its verdict; `undo` takes its cause away, which stands at the name `cause` where it is none of
        what was planted.
        """
        gone = [str(path) for path, content in self.foreign.items() if not _holds(path, content)]
        bad = (verdict.LOST, f"the user's {', '.join(gone)}") if gone else verdict.of_end(ended, sent)
        if bad and bad[0] == verdict.UNCLEAR and verdict.ended_before(self.reference, self.tree(), ended, sent):
            return Fault(self.kind, f"{self.call.name}: {what}", verdict.FINE, "its work was done")
        if files and not bad:
            found = {name: entry for name, entry in self.tree().items() if not _at(name, cause)}
            bad = verdict.of_files(self.reference, found, ended, swept_later=bool(sent))
        undo()
        if files and not bad and ended.code != 0:
            again = self.run()
            bad = verdict.of_rerun(self.reference, self.tree(), again)
        how = bad or (verdict.FINE if ended.code == 0 else verdict.REFUSED, verdict.tail(ended.said, 160))
        return Fault(self.kind, f"{self.call.name}: {what}", *how)


def _at(name: str, place: str) -> bool:
    return bool(place) and (name == place or name.startswith(f"{place}/"))


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


class Arena(Starter):
    """The project that is made once, and everything that is started on copies of it."""

    def __init__(self, root: Path, environment: Env, quick: bool = False) -> None:
        home = {"HF_HOME": str(root / "home"), "HF_HUB_OFFLINE": "0", "TMPDIR": str(root / "tmp")}
        (root / "tmp").mkdir()
        super().__init__(root, HEAVY if quick else (*HEAVY, *HEAVIER), {**home, **environment})
        self.calls = tuple(call for call in CALLS if not quick or call.name in QUICK)
        self.intact = root / "intact"
        self._trials = itertools.count()
        self._made: dict[Call, list[str]] = {}
        self._lock, self._locks = threading.Lock(), dict[tuple[Call, str], threading.Lock]()
        self._references: dict[tuple[Call, str], Reference] = {}
        self.intact.mkdir()
        lay_out(self.intact, tokens=True)
        for call in self.calls:
            if call.builds:
                self._build(call)

    def _build(self, call: Call) -> None:
        before = tree(self.intact).keys()
        ended = self.begin(call.arguments, self.intact).wait()
        if ended.code:
            raise RuntimeError(f"ilse {' '.join(call.arguments)} on the intact project: {ended.said}")
        self._made[call] = sorted(tree(self.intact).keys() - before)

    def begin(
        self,
        arguments: Sequence[str],
        project: Path,
        hook: Hook | None = None,
        environment: Env = NOTHING,
        said: Path | None = None,
    ) -> Running:
        """Gives a command in a project."""
        said = said or self.root / f"said{next(self._commands)}"
        return self.start_module(["ilse.cli", *arguments], project, hook, environment=environment, said=said)

    @contextmanager
    def trial(
        self, kind: str, call: Call, start: str, name: str = "project", on: Path | None = None
    ) -> Iterator[Trial]:
        """A copy of the project in which a call is to be disturbed; in the folder `on`, if it is given."""
        folder = on or self.folder()
        try:
            yield Trial(self, call, start, folder, self._copy(call, start, folder / name), kind)
        finally:
            if on is None:
                shutil.rmtree(folder, ignore_errors=True)

    def folder(self) -> Path:
        """A new empty folder."""
        folder = self.root / f"trial{next(self._trials)}"
        folder.mkdir()
        return folder

    def some_start(self, call: Call, random: Random) -> str:
        """Whether the call finds its results there."""
        return random.choice((FRESH, OLDER)) if call.stands else FRESH

    def reference(self, call: Call, start: str) -> Reference:
        """What an undisturbed run finds and leaves; made when it is first asked for."""
        with self._lock:
            lock = self._locks.setdefault((call, start), threading.Lock())
        with lock:
            if (call, start) not in self._references:
                self._references[call, start] = self._reference(call, start)
            return self._references[call, start]

    def _reference(self, call: Call, start: str) -> Reference:
        """The project itself is what one such run left, where the call has built it."""
        after = [tree(self.intact)] if call.builds else []
        while len(after) < 2:
            with self.trial("undisturbed", call, start) as trial:
                before, counted = tree(trial.project), trial.folder.with_suffix(".tally")
                started = time.monotonic()
                ended = trial.begin(trial.hook(tally=str(counted))).wait()
                seconds = time.monotonic() - started
                if ended.code:
                    raise RuntimeError(f"undisturbed, ilse {' '.join(call.arguments)}: {ended.code} {ended.said}")
                after.append(tree(trial.project))
                moments = len(counted.read_text().splitlines()) if counted.exists() else 0
        return Reference.of(before, after[-1], after[0], moments, seconds)

    def _copy(self, call: Call, start: str, project: Path) -> Path:
        shutil.copytree(self.intact, project, symlinks=True)
        if start == FRESH:
            for name in [*call.fresh, *reversed(self._made.get(call, []))]:
                path = project / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        return project
