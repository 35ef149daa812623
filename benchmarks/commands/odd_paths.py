"""Names that any file system takes and that shells, globs, URLs and formats read something into."""

from __future__ import annotations

from pathlib import Path
from random import Random

from benchmarks.commands import options
from benchmarks.commands.arena import FRESH, Arena
from benchmarks.commands.calls import Call
from benchmarks.commands.trees import RESUMED, tree
from benchmarks.commands.verdict import ACCEPTED, REFUSED, UNCLEAR, names
from benchmarks.faults.tally import Fault

KIND = "odd paths"
NAMES = (
    "two words",
    "a [1]",
    "*",
    "?",
    "a#b",
    "100%20",
    "~",
    "{a,b}",
    "{0}",
    "c:d",
    'it\'s "said"',
    "two\nlines",
    "größe-文字-🙂",
    "-n",
    "$HOME",
    "a;b&c|d",
    "%s",
    "back\\slash",
    " blanks ",
    "!not",
    "@at",
    "a=b",
)


def named(arena: Arena, call: Call, random: Random, number: int) -> Fault | None:
    """The project's folder has such a name, or a link to it, or the destination. Nothing is wrong with any of them, so
    that a refusal is as bad as any other failure.
    """
    name = random.choice(NAMES)
    ways = [_project, _linked, _absolute, _destination]
    fault = ways[number % len(ways)](arena, call, random, name)
    if fault and fault.verdict == REFUSED:
        return Fault(fault.kind, fault.what, UNCLEAR, f"refused a name that is right: {fault.why}")
    return fault


def _project(arena: Arena, call: Call, random: Random, name: str) -> Fault:
    with arena.trial(KIND, call, arena.some_start(call, random), name) as trial:
        return trial.judged(f"project {name!r}", trial.run())


def _linked(arena: Arena, call: Call, random: Random, name: str) -> Fault:
    with arena.trial(KIND, call, arena.some_start(call, random), name) as trial:
        real = trial.project
        trial.project = trial.folder / random.choice(NAMES).replace(name, f"{name}{name}")
        trial.project.symlink_to(real)
        return trial.judged(f"project {trial.project.name!r}, a link to {name!r}", trial.run())


def _absolute(arena: Arena, call: Call, random: Random, name: str) -> Fault:
    """Every place that the command line names is given from the root on; `init` writes down how it was given."""
    if call.name == "init":
        return _project(arena, call, random, name)
    with arena.trial(KIND, call, arena.some_start(call, random), name) as trial:
        places = {*trial.reference.before, *trial.reference.after}
        words = [str(trial.project / word) if word in places else word for word in call.arguments]
        return trial.judged(f"project {name!r}, absolute paths", trial.run(arguments=words))


def _destination(arena: Arena, call: Call, random: Random, name: str) -> Fault | None:
    """What was made elsewhere is brought to its usual place and compared there."""
    params = [param for param in options.destinations(call) if param.type.kind != "folder"]  # type: ignore[attr-defined]
    if not params:
        return _project(arena, call, random, name)
    param = random.choice(params)
    usual = Path(options.value_of(call, param) or "answers.csv")
    with arena.trial(KIND, call, FRESH) as trial:
        given = Path("odd", name + usual.suffix)
        ended = trial.run(arguments=options.with_value(call, param, str(given)))
        if ended.code == 0:
            if (trial.project / given).exists():
                (trial.project / usual).parent.mkdir(parents=True, exist_ok=True)
                (trial.project / given).rename(trial.project / usual)
            (trial.project / "odd").rmdir()
        fault = trial.judged(f"{options.name_of(param)} {str(given)!r}", ended, files=False)
        every = trial.reference.after.keys() ^ tree(trial.project).keys()
        others = sorted(one for one in every if not RESUMED.search(one))
        return (
            Fault(KIND, fault.what, ACCEPTED, f"not these files: {names(others)}")
            if others and not ended.code
            else fault
        )
