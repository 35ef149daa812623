"""Files and folders of the user's in the place of what a command makes, or among it."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

from benchmarks.commands import options
from benchmarks.commands.arena import FRESH, OLDER, Arena, Trial
from benchmarks.commands.calls import Call
from benchmarks.commands.trees import FOLDER, Reference
from benchmarks.faults.tally import Fault

KIND = "foreign files at the destination"


def there(arena: Arena, call: Call, random: Random, number: int) -> Fault | None:
    """One of the ways; None for a command that makes nothing."""
    made = arena.reference(call, FRESH)
    folders = [name for name in made.made() if made.after[name].exact == FOLDER]
    files = [name for name in made.made() if made.after[name].exact != FOLDER]
    ways = [_in_place] * bool(folders) + [_in_place_of_a_file] * bool(files) + [_among] * bool(folders and call.stands)
    ways += [_elsewhere] * bool(options.destinations(call))
    return ways[number % len(ways)](arena, call, random, made) if ways else None


def _in_place(arena: Arena, call: Call, random: Random, made: Reference) -> Fault:
    """A folder of the user's has the name of one that the command makes."""
    place = some_place(made, random, folders=True)
    with arena.trial(KIND, call, FRESH) as trial:
        return _played(trial, f"a thesis in {place}", place)


def _in_place_of_a_file(arena: Arena, call: Call, random: Random, made: Reference) -> Fault:
    place = some_place(made, random, folders=False)
    with arena.trial(KIND, call, FRESH) as trial:
        return _played(trial, f"a folder with a thesis in the place of the file {place}", place)


def _among(arena: Arena, call: Call, random: Random, made: Reference) -> Fault:
    """The command's own older result holds files of the user's too."""
    place = some_place(made, random, folders=True)
    with arena.trial(KIND, call, OLDER) as trial:
        return _played(trial, f"a thesis among the older files of {place}", place)


def _played(trial: Trial, what: str, place: str) -> Fault:
    for name in ("thesis.txt", "chapters/one.txt"):
        trial.plant(trial.project / place / name)
    return trial.judged(what, trial.run(), trial.unplant)


def _elsewhere(arena: Arena, call: Call, random: Random, made: Reference) -> Fault:
    """The destination is a folder that holds what the project needs, or what is the user's."""
    param, place = (
        random.choice(options.destinations(call)),
        random.choice(["data", "model", "models", "given", "mine"]),
    )
    with arena.trial(KIND, call, OLDER if call.stands else FRESH) as trial:
        trial.plant(trial.project / "mine/thesis.txt")
        keep = {path: path.read_bytes() for path in (trial.project / place).rglob("*") if path.is_file()}
        own = options.value_of(call, param)
        ended = trial.run(arguments=options.with_value(call, param, place))
        trial.foreign |= {path: data for path, data in keep.items() if not _overwritten(path, trial, place, own, made)}
        return trial.judged(f"{options.name_of(param)} {place}", ended, files=False)


def _overwritten(path: Path, trial: Trial, place: str, own: str, made: Reference) -> bool:
    """Whether a file has the very name under which the command writes one of its own, in a folder that others share."""
    return (Path(own) / path.relative_to(trial.project / place)).as_posix() in made.changed()


def some_place(made: Reference, random: Random, folders: bool) -> str:
    """A name that the command makes; more often one of the outermost."""
    names = [name for name in made.made() if (made.after[name].exact == FOLDER) == folders]
    outer = [name for name in names if Path(name).parent.as_posix() not in made.made()]
    return random.choice(outer if outer and random.random() < 0.7 else names)


def removed(path: Path) -> None:
    """No file, link or folder there any more."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
