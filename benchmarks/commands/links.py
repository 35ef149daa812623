"""Links, pipes and devices in the place of what a command writes, and linked inputs."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

from benchmarks.commands.arena import FRESH, OLDER, Arena, Trial
from benchmarks.commands.calls import Call
from benchmarks.commands.foreign import removed, some_place
from benchmarks.commands.trees import FOLDER, Reference, tree
from benchmarks.commands.verdict import ACCEPTED, LOST, names
from benchmarks.faults.starting import Ended
from benchmarks.faults.tally import Fault

KIND = "links, pipes and devices"
INPUTS = ("params.yaml", "data", "data/cache.zarr", "data/texts.parquet", "models", "results", "model")


def there(arena: Arena, call: Call, random: Random, number: int) -> Fault | None:
    """One of the ways."""
    made = arena.reference(call, FRESH)
    files = [name for name in made.made() if made.after[name].exact != FOLDER]
    ways: list[Callable[..., Fault]] = [_linked_input]
    ways += [_linked_file, _dangling, _device, _pipe, _screen] if files else []
    ways += [_linked_folder] if len(files) < len(made.made()) else []
    return ways[number % len(ways)](arena, call, random, made)


def _linked_input(arena: Arena, call: Call, random: Random, made: Reference) -> Fault:
    """What stands in the project is a link to where it really is."""
    start = OLDER if call.stands else FRESH
    with arena.trial(KIND, call, start) as trial:
        place = random.choice([name for name in INPUTS if (trial.project / name).exists()])
        link, real = trial.project / place, trial.folder / "elsewhere" / Path(place).name
        real.parent.mkdir()
        link.rename(real)
        link.symlink_to(real)
        return _judged(trial, f"{place} is a link", link, trial.run(), keep=True)


def _linked_file(arena: Arena, call: Call, random: Random, made: Reference) -> Fault:
    with arena.trial(KIND, call, FRESH) as trial:
        link, real = trial.project / some_place(made, random, folders=False), trial.folder / "elsewhere"
        real.write_bytes(b"older\n")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(real)
        ended = trial.run()
        if ended.code:
            trial.foreign[real] = b"older\n"
        return _judged(trial, f"{_short(trial, link)} is a link to a file", link, ended)


def _dangling(arena: Arena, call: Call, random: Random, made: Reference) -> Fault:
    with arena.trial(KIND, call, FRESH) as trial:
        link = trial.project / some_place(made, random, folders=False)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(trial.folder / "elsewhere")
        return _judged(trial, f"{_short(trial, link)} is a link to no file yet", link, trial.run())


def _linked_folder(arena: Arena, call: Call, random: Random, made: Reference) -> Fault:
    with arena.trial(KIND, call, FRESH) as trial:
        link, real = trial.project / some_place(made, random, folders=True), trial.folder / "elsewhere"
        real.mkdir()
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(real)
        return _judged(trial, f"{_short(trial, link)} is a link to an empty folder", link, trial.run())


def _device(arena: Arena, call: Call, random: Random, made: Reference) -> Fault:
    """A null device of the campaign's own: replacing the machine's would be felt by everybody."""
    with arena.trial(KIND, call, FRESH) as trial:
        place = trial.project / some_place(made, random, folders=False)
        place.parent.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        else:
            place.symlink_to(os.devnull)
        return _judged(trial, f"{_short(trial, place)} is a null device", place, trial.run(), stream=True)


def _screen(arena: Arena, call: Call, random: Random, made: Reference) -> Fault:
    with arena.trial(KIND, call, FRESH) as trial:
        place = trial.project / some_place(made, random, folders=False)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to("/dev/stdout")
        return _judged(trial, f"{_short(trial, place)} is a link to /dev/stdout", place, trial.run(), stream=True)


def _pipe(arena: Arena, call: Call, random: Random, made: Reference) -> Fault:
    """Somebody reads from it."""
    with arena.trial(KIND, call, FRESH) as trial:
        place = trial.project / some_place(made, random, folders=False)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(place)
        end = os.open(place, os.O_RDWR)  # never the end of the file, so that the reader waits for the next writer
        threading.Thread(target=_drain, args=[end], daemon=True).start()
        ended = trial.run()
        fault = _judged(trial, f"{_short(trial, place)} is a pipe", place, ended, stream=True)
        os.write(end, _ENOUGH)
        return fault


_ENOUGH = b"\0the end of the campaign\0"


def _drain(end: int) -> None:
    while not os.read(end, 2**16).endswith(_ENOUGH):
        pass
    os.close(end)


def _short(trial: Trial, place: Path) -> str:
    return place.relative_to(trial.project).as_posix()


def _judged(trial: Trial, what: str, place: Path, ended: Ended, stream: bool = False, keep: bool = False) -> Fault:
    """The link or device has to be one afterwards. What a stream got is no file, so only the others are compared."""
    there_still = place.is_symlink() or (stream and place.exists() and not place.is_file())
    where = f"{trial.call.name}: {what}"
    if not there_still:
        return Fault(trial.kind, where, LOST, f"replaced by {_what(place)}; exit code {ended.code}")
    if ended.code or not stream:
        undo = (lambda: None) if keep else lambda: removed(place)
        return trial.judged(what, ended, undo, cause=_short(trial, place) if ended.code and not keep else "")
    fault = trial.judged(what, ended, files=False)
    wrong = [name for name in trial.reference.wrong(tree(trial.project)) if name != _short(trial, place)]
    return Fault(trial.kind, where, ACCEPTED, f"other than undisturbed: {names(wrong)}") if wrong else fault


def _what(place: Path) -> str:
    return "a file" if place.is_file() else "a folder" if place.is_dir() else "nothing"
