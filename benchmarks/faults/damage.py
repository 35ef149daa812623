"""Damaged files: flipped bits, cut, emptied and lost files, of finished caches and of unfinished work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from benchmarks.faults import judge
from benchmarks.faults.references import References
from benchmarks.faults.stage import SHARD_ROWS, TABLES, Call, Stage
from benchmarks.faults.tally import LOST, RESUMED, SURVIVED, UNCLEAR, WRONG, Fault
from benchmarks.faults.work import ended_badly
from pipeline.store.layout import shard_of_file

FLIP = ("flipped",)
CUT = ("cut", "cut", "emptied", "removed")


def finished(references: References, random: Random, count: int, ways: tuple[str, ...]) -> list[Fault]:
    """Damage to one file of a finished cache: `ilse verify` has to name it, a reader must get an error or the right
    values, and `ilse extract`, of the same texts or of more, has to restore it and compute its shard alone.
    """
    return [_finished(references, random, random.choice(ways)) for _ in range(count)]


def unfinished(references: References, random: Random, count: int, ways: tuple[str, ...]) -> list[Fault]:
    """Damage to one file of the scratch of a killed run: the next run must see it and keep all the rest."""
    return [_unfinished(references, random, random.choice(ways)) for _ in range(count)]


@dataclass
class Findings:
    """What was wrong, by how bad it is; `files` reads all of a cache, past the product."""

    files: Callable[[str], judge.Files] = lambda place: judge.files_of(Path(place))
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)

    def verdict(self, otherwise: str) -> tuple[str, str]:
        """Verdict and reason."""
        for name, reasons in ((WRONG, self.wrong), (LOST, self.lost), (UNCLEAR, self.unclear)):
            if reasons:
                return name, "; ".join(reasons)[:2000]
        return otherwise, ""

    def verified(self, stage: Stage, place: str, name: str) -> None:
        """`ilse verify` has to name the file in a clear error."""
        ended = stage.here(["verify", place])
        if ended.code == 0:
            self.wrong.append("'ilse verify' found nothing")
        elif not judge.is_clear(ended) or name not in ended.said:
            self.unclear.append(f"'ilse verify' does not name {name}: {ended_badly(ended)}")

    def read(self, place: str, *allowed: judge.Reference) -> None:
        """Reading has to give the right values or an error."""
        found = judge.read(place, *allowed)
        self.wrong += [f"read without an error: {name}" for name in found.wrong]
        self.unclear += found.unclear

    def restored(self, stage: Stage, call: Call, most: int, *allowed: judge.Reference) -> str:
        """`ilse extract` has to get to one of these, at once or after a clear error, computing at most `most` texts."""
        first = ended = stage.here(call.arguments())
        if first.code != 0:
            if not judge.is_clear(first):
                self.unclear.append(ended_badly(first))
            ended = stage.here(call.arguments())
        if ended.code != 0:
            self.lost.append(f"the rerun does not get there: {ended_badly(ended)}")
        else:
            self.wrong += judge.least_differences(self.files(call.out), *allowed)
        if first.code == 0 and judge.computed(call.figures) > most:
            self.lost.append(f"{judge.computed(call.figures)} texts computed, where {most} had to be")
        return SURVIVED if first.code == 0 else RESUMED


def _finished(references: References, random: Random, way: str) -> Fault:
    variant, table = references.stage.some_variant(random), random.choice(["texts", "texts", "grown"])
    call = references.stage.call(references.stage.folder(), variant, table)
    shutil.copytree(references.cache(variant), call.out)
    if random.random() < 0.5:  # as an earlier run leaves it: a second name of the same files
        shutil.copytree(call.out, call.scratch / "previous", copy_function=os.link)
    name = some_file(random, judge.files_of(Path(call.out)))
    what = f"{variant}, {name} {damage(Path(call.out, name), way, random)}, then {table}"
    findings = Findings()
    findings.verified(references.stage, call.out, name)
    findings.read(call.out, references.reference(variant))
    findings.restored(references.stage, call, most_computed(name, variant, table), *references.of(variant, table))
    return _fault("finished cache", way, what, findings.verdict(RESUMED), call)


def _unfinished(references: References, random: Random, way: str) -> Fault:
    variant = references.stage.some_variant(random)
    call = references.stage.call(references.stage.folder(), variant)
    shutil.copytree(references.unfinished(variant), call.scratch)
    name = some_file(random, judge.files_of(call.scratch))
    what = f"{variant}, {name} {damage(call.scratch / name, way, random)}"
    kept = SHARD_ROWS * len(judge.intact_records(call.scratch))
    findings = Findings()
    otherwise = findings.restored(references.stage, call, TABLES["texts"] - kept, references.reference(variant))
    return _fault("unfinished work", way, what, findings.verdict(otherwise), call)


def _fault(of: str, way: str, what: str, verdict: tuple[str, str], call: Call) -> Fault:
    shutil.rmtree(call.folder, ignore_errors=True)
    return Fault(f"{'flipped bit' if way == 'flipped' else 'truncated file'}, {of}", what, *verdict)


def some_file(random: Random, files: judge.Files) -> str:
    """A file of a random class: shards, array metadata and the small rest get their turn alike, whatever their size."""
    classes: dict[str, list[str]] = {}
    for name in sorted(files):
        if files[name]:
            classes.setdefault(_class(name), []).append(name)
    return random.choice(classes[random.choice(sorted(classes))])


def _class(name: str) -> str:
    last = name.rpartition("/")[2]
    if "records/" in name:
        return "record"
    if "/c/" in name:
        return next((kind for kind in ("pooled", "scale", "tokens") if f"{kind}/" in name), "index")
    return "metadata" if last in ("zarr.json", "lock.json") else last


def most_computed(name: str, variant: str, table: str = "texts") -> int:
    """Texts that have to be computed when this file of a finished cache is lost, and no more may be."""
    # Where a text's token states begin is told by the counts alone.
    if variant == "tokens" and name.startswith("token_count"):
        return TABLES[table]
    # Rows that stand in no basis that is known can't be kept.
    if table == "grown" and name.startswith("basis"):
        return TABLES[table]
    # Asked for the same texts, a cache is known by its checksums and mended; asked for others, it has to say itself
    # which rows it holds.
    if table == "grown" and name.startswith("text_id"):
        return TABLES[table]
    if table == "grown" and name.endswith("zarr.json") and not name.startswith("tokens"):
        return TABLES[table]
    return (0 if shard_of_file(name) is None else SHARD_ROWS) + TABLES[table] - TABLES["texts"]


def damage(path: Path, way: str, random: Random) -> str:
    """Does it, in place: a second name of the file sees it too."""
    size = path.stat().st_size
    if way == "removed":
        path.unlink()
        return "removed"
    if way != "flipped":
        left = 0 if way == "emptied" else random.randrange(size)
        os.truncate(path, left)
        return f"cut from {size} to {left} bytes"
    place, bit = random.randrange(size), random.randrange(8)
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    with path.open("r+b") as file:
        file.write(content)
    return f"flipped at byte {place}, bit {bit}"
