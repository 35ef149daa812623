"""What stands in a folder, and how it differs from what should.

Two undisturbed runs tell what is never the same, such as times; of that, only what isn't a number is compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = "a folder"
_NUMBER = re.compile(rb"\d+(\.\d+)?([eE][+-]?\d+)?")
_SECONDS = re.compile(rb'("\w*seconds":)\s*[\d.eE+-]+|(,\n  )\d+(?= s\.\n)')
"""In JSON and in a head's card. Two runs may well take as many tenths of one, and a third one more."""
RESUMED = re.compile(r"^data/scratch(/|$)|^data/tune\.db|\.unfinished(/|$)")
"""Work that the next run goes on with: what is kept there decides how long that takes, and nothing else."""


@dataclass(frozen=True)
class Entry:
    """What stands at a name: a checksum, and one that leaves numbers out."""

    exact: str
    loose: str


Tree = Mapping[str, Entry]


def tree(root: Path) -> dict[str, Entry]:
    """Name below `root` → what stands there; links are followed."""
    found: dict[str, Entry] = {}
    for folder, folders, files in os.walk(root, followlinks=True):
        for name in [*folders, *files]:
            path = Path(folder, name)
            found[path.relative_to(root).as_posix()] = _entry(path, root)
    return found


def _entry(path: Path, root: Path) -> Entry:
    try:
        mode = path.stat().st_mode
    except OSError:
        return Entry("a link to nowhere", "a link to nowhere")
    if not stat.S_ISREG(mode):
        kind = FOLDER if stat.S_ISDIR(mode) else "a device or pipe"
        return Entry(kind, kind)
    content = path.read_bytes()
    for here in (str(root), str(root.resolve())):
        for spelled in (here, json.dumps(here)[1:-1]):
            content = content.replace(os.fsencode(spelled), b"{here}")
    return Entry(_digest(_SECONDS.sub(rb"\1\2 0", content)), _digest(_NUMBER.sub(b"0", content)))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run finds and leaves.

    `varying` are the names whose numbers differ from run to run, `free` those that differ in more.
    """

    before: Tree
    after: Tree
    varying: frozenset[str]
    free: frozenset[str]
    moments: int
    """Its file operations."""
    seconds: float
    """That it took."""

    @classmethod
    def of(cls, before: Tree, first: Tree, second: Tree, moments: int, seconds: float) -> Reference:
        """From two undisturbed runs."""
        names = first.keys() & second.keys()
        varying = {name for name in names if first[name].exact != second[name].exact}
        free = {name for name in varying if first[name].loose != second[name].loose} | (first.keys() ^ second.keys())
        return cls(before, first, frozenset(varying), frozenset(free), moments, seconds)

    def made(self) -> list[str]:
        """Names that were not there before, but for what is resumed."""
        return sorted(name for name in self.after.keys() - self.before.keys() if not RESUMED.search(name))

    def changed(self) -> list[str]:
        """Names of the files that were made or changed."""
        return sorted(n for n, e in self.after.items() if e.exact != FOLDER and self.before.get(n) != e)

    def wrong(self, found: Tree) -> list[str]:
        """Names at which stands another thing than an undisturbed run leaves."""
        every = found.keys() | self.after.keys()
        every -= {name for name in every if RESUMED.search(name)}
        return sorted(name for name in every if not self._same(name, found.get(name), self.after.get(name)))

    def lost(self, found: Tree) -> list[str]:
        """Names of the older state that hold neither what they held nor what a run leaves."""
        there = [name for name in self.before if name in self.after]
        return sorted(name for name in there if not self._either(name, found.get(name)))

    def left(self, found: Tree) -> list[str]:
        """Names beyond the older state that an undisturbed run does not leave, or not so; what is resumed is not."""
        new = [name for name in found if name not in self.before and not RESUMED.search(name)]
        return sorted(name for name in new if not self._either(name, found[name]))

    def _either(self, name: str, entry: Entry | None) -> bool:
        return entry == self.before.get(name) or self._same(name, entry, self.after.get(name))

    def _same(self, name: str, one: Entry | None, other: Entry | None) -> bool:
        if name in self.free:
            return True
        if one is None or other is None:
            return one is other
        return one.exact == other.exact or (name in self.varying and one.loose == other.loose)
