"""Whole files in the wrong place: every one of them is as it was written, and passes its own checksums.

Shards, scales, token states, lists and headers are exchanged within a cache, come from another cache of the same
capture and shape, or both caches are mixed as an interrupted copy leaves them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

from benchmarks.faults import judge
from benchmarks.faults.bucket import Bucket
from benchmarks.faults.damage import Findings, most_computed
from benchmarks.faults.references import References
from benchmarks.faults.stage import SHARD_ROWS, TABLES, Call
from benchmarks.faults.tally import RESUMED, SURVIVED, Fault
from benchmarks.faults.work import ended_badly
from pipeline.store.layout import shard_of_file

OTHERS = "others"
"""The table of as many other texts."""
LIST, BINDING, TEXTS = "SHA256SUMS", "binding/c/0/0", "text_id/c/0/0"
Changes = dict[str, bytes]
"""Name inside a cache → what stands there instead."""


def finished(references: References, random: Random, count: int) -> list[Fault]:
    """In a finished cache: `ilse verify` has to name it, a reader must get an error or the right values, and
    `ilse extract`, of the same texts or of more, must keep nothing that is another's.
    """
    return [_finished(references, random) for _ in range(count)]


def donor(references: References, random: Random, count: int) -> list[Fault]:
    """In a donor that `extract.donors` names: the new cache takes no row that is another's."""
    return [_donor(references, random) for _ in range(count)]


def unfinished(references: References, random: Random, count: int) -> list[Fault]:
    """In the scratch of a killed run: shards with and without their records, and all of another run's work."""
    return [_unfinished(references, random) for _ in range(count)]


def remote(bucket: Bucket, random: Random, count: int) -> list[Fault]:
    """In a finished cache in a bucket."""
    return [_remote(bucket, random) for _ in range(count)]


def some_exchange(random: Random, own: judge.Files, other: judge.Files, mixed: bool = True) -> tuple[str, Changes]:
    """What is done, and the files that it changes; no `mixed` one touches two of what binds the rest together."""
    foreign = sorted(name for name in own if name in other and own[name] != other[name])
    way = random.choice(["within", "within", "between", "between", "copy"] if mixed else ["within", "between"])
    if way == "copy":
        names = foreign if random.random() < 0.5 else random.sample(foreign, len(foreign))
        names = names[: random.randrange(1, len(foreign))]
        return f"{len(names)} of {len(foreign)} files of another cache, up to {names[-1]}", {n: other[n] for n in names}
    if way == "within":
        name = random.choice([name for name in own if "/c/" in name and _partners(name, own)])
        partner = random.choice(_partners(name, own))
        return f"{name} and {partner} exchanged", {name: own[partner], partner: own[name]}
    classes: dict[str, list[str]] = {}
    for name in foreign:
        classes.setdefault(name.partition("/")[0], []).append(name)
    name = random.choice(classes[random.choice(sorted(classes))])
    return f"{name} of another cache", {name: other[name]}


def _partners(name: str, own: judge.Files) -> list[str]:
    """Files of the same size in the same cache: other shards, and other poolings of the shard."""
    first = name.partition("/")[0]
    return sorted(
        other
        for other, data in own.items()
        if other.startswith(f"{first}/") and "/c/" in other and data != own[name] and len(data) == len(own[name])
    )


def most_after(changes: Changes, variant: str, table: str) -> int:
    """Texts that have to be computed after an exchange, and no more may be."""
    if len(changes) > 2 or {LIST, BINDING} <= changes.keys():
        return TABLES[table]
    each = [most_computed(name, variant, table) for name in changes]
    shards = {shard for name in changes if (shard := shard_of_file(name)) is not None}
    return max([*each, len(shards) * SHARD_ROWS + TABLES[table] - TABLES["texts"]])


def _finished(references: References, random: Random) -> Fault:
    stage, variant = references.stage, references.stage.some_variant(random)
    table = random.choice(["texts", "texts", "grown"])
    call = stage.call(stage.folder(), variant, table)
    shutil.copytree(references.cache(variant), call.out)
    own, other = references.reference(variant), references.reference(variant, OTHERS)
    what, changes = some_exchange(random, own.files, other.files)
    _put(Path(call.out), changes)
    findings = Findings()
    _verified(findings, references, call.out, changes)
    findings.read(call.out, own, other)
    findings.restored(stage, call, most_after(changes, variant, table), *references.of(variant, table))
    return _fault("finished cache", f"{variant}, {what}, then {table}", findings.verdict(RESUMED), call)


def _donor(references: References, random: Random) -> Fault:
    stage, variant = references.stage, references.stage.some_variant(random)
    folder, table = stage.folder(), random.choice(["texts", "grown", OTHERS])
    donor = folder / "donor.zarr"
    shutil.copytree(references.cache(variant), donor)
    own, other = references.reference(variant), references.reference(variant, OTHERS)
    what, changes = some_exchange(random, own.files, other.files)
    _put(donor, changes)
    call, findings = stage.call(folder, variant, table, donors=[str(donor)]), Findings()
    ended = stage.here(call.arguments())
    verdict = SURVIVED
    if ended.code:
        verdict = RESUMED
        if not judge.is_clear(ended) or str(donor) not in ended.said:
            findings.unclear.append(ended_badly(ended))
        call = stage.call(folder, variant, table)  # without the donor that was refused
        ended = stage.here(call.arguments())
    if ended.code:
        findings.lost.append(f"the rerun does not get there: {ended_badly(ended)}")
    else:
        findings.wrong += judge.least_differences(judge.files_of(Path(call.out)), *references.of(variant, table))
    return _fault("named donor", f"{variant}, {what}, for {table}", findings.verdict(verdict), call)


def _unfinished(references: References, random: Random) -> Fault:
    stage, variant = references.stage, references.stage.some_variant(random)
    call = stage.call(stage.folder(), variant)
    shutil.copytree(references.unfinished(variant), call.scratch)
    (own,) = call.scratch.glob("*-*")
    (foreign,) = references.unfinished(variant, OTHERS).glob("*-*")
    shards = sorted(int(Path(record).stem) for record in judge.intact_records(call.scratch))
    files, others = judge.files_of(own), judge.files_of(foreign)
    one, two = random.sample(shards, 2)
    touched = {one, two}
    way = random.choice(["two shards", "two shards with records", "a shard", "a shard with its record", "all"])
    if way == "all":
        shutil.rmtree(own)
        shutil.copytree(foreign, own)
        touched = set(shards)
    elif way.startswith("two"):
        pairs = [(a, b) for a in _of(files, one, way) for b in _of(files, two, way) if _role(a) == _role(b)]
        _put(own, {a: files[b] for a, b in pairs} | {b: files[a] for a, b in pairs})
    else:
        _put(own, {name: others[name] for name in _of(files, one, way) if name in others})
        touched = {one}
    findings = Findings()
    most = TABLES["texts"] - SHARD_ROWS * len(set(shards) - touched)
    otherwise = findings.restored(stage, call, most, references.reference(variant))
    return _fault("unfinished work", f"{variant}, {way}: {sorted(touched)[:2]}", findings.verdict(otherwise), call)


def _remote(bucket: Bucket, random: Random) -> Fault:
    call, own = bucket.finished(random)
    other = bucket.references.reference(call.variant, OTHERS)
    what, changes = some_exchange(random, own.files, other.files, mixed=False)
    for name, content in changes.items():
        bucket.server.put(call.out, name, content)
    findings = Findings(bucket.server.files)
    with bucket.server.reached():
        _verified(findings, bucket.references, call.out, changes)
        findings.read(call.out, own, other)
        findings.restored(bucket.references.stage, call, most_after(changes, call.variant, "texts"), own)
    return Fault("exchanged files, finished cache on S3", f"{call.variant}, {what}", *findings.verdict(RESUMED))


def _verified(findings: Findings, references: References, place: str, changes: Changes) -> None:
    if LIST not in changes:
        findings.verified(references.stage, place, sorted(changes)[0])
    elif references.stage.here(["verify", place]).code == 0:
        findings.wrong.append("'ilse verify' found nothing")


def _of(files: judge.Files, shard: int, way: str) -> list[str]:
    """A shard's files in the scratch, and its record where the way has it."""
    own = [name for name in files if shard_of_file(name.removeprefix("cache.zarr/")) == shard]
    return own + ([f"records/{shard}.json"] if "record" in way else [])


def _role(name: str) -> str:
    """A file's name without the number of its shard."""
    return "/".join(part for part in name.removesuffix(".json").split("/") if not part.isdigit())


def _put(folder: Path, changes: Changes) -> None:
    for name, content in changes.items():
        (folder / name).unlink()  # a second name keeps what it has
        (folder / name).write_bytes(content)


def _fault(of: str, what: str, verdict: tuple[str, str], call: Call) -> Fault:
    shutil.rmtree(call.folder, ignore_errors=True)
    return Fault(f"exchanged files, {of}", what, *verdict)
