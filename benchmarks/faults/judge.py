"""Judges what came out of a fault: bytes against the reference, values as a reader gets them, errors as a user does."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.stage import SECRET
from benchmarks.faults.starting import Ended
from ilse.core.errors import UserError
from pipeline import store

Files = Mapping[str, bytes]
_ERROR = re.compile(
    r"^error: \S.*\n  expected: \S.*\n(?:.*\n)*?  found:    \S.*\n(?:.*\n)*?  next:     \S", re.MULTILINE
)


@dataclass(frozen=True)
class Reference:
    """What a cache has to be: its files, and every value that a reader may ask for."""

    files: Files
    values: Mapping[str, np.ndarray[Any, Any]]

    @classmethod
    def of(cls, folder: Path) -> Reference:
        """The reference that stands in a folder, made without a fault."""
        return cls(files_of(folder), {name: read() for name, read in readings(str(folder))})


def files_of(folder: Path) -> dict[str, bytes]:
    """Name → content of every file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def differences(found: Files, expected: Files) -> list[str]:
    """Names of the files that are other, missing or too many."""
    return sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))


def least_differences(found: Files, *allowed: Reference) -> list[str]:
    """Those to the reference that is nearest."""
    return min((differences(found, reference.files) for reference in allowed), key=len)


def readings(place: str) -> Iterator[tuple[str, Callable[[], np.ndarray[Any, Any]]]]:
    """Every way of reading a cache, by name; raises `UserError` where it does not open."""
    cache = store.open_cache(place)
    for name in ("text_id_rows", "token_counts", "truncated"):
        yield name, getattr(cache, name)
    for pooling in cache.header.capture.poolings:
        yield f"statistics {pooling}", partial(_statistics, cache, pooling)
        # Layer by layer is every byte; all layers of some shards is the other way to the same bytes.
        for number, rows in list(enumerate(cache.shards()))[::4]:
            yield f"{pooling} {number}", partial(cache.read, rows, pooling=pooling)
        for layer in range(len(cache.layers)):
            yield f"{pooling} layer {layer}", partial(cache.read, slice(0, cache.header.texts), [layer], pooling)
    if cache.header.capture.token_states:
        for text in range(0, cache.header.texts, 13):
            yield f"tokens {text}", partial(cache.token_states, text)
        for shard in range(0, cache.header.shards, 4):
            yield f"tokens of shard {shard}", partial(_shard_tokens, cache, shard)
            for layer in cache.token_layers:
                yield f"tokens of shard {shard}, layer {layer}", partial(_shard_tokens, cache, shard, [layer])
        if cache.token_width < cache.dim:
            yield "basis", partial(_directions, cache)


def _shard_tokens(cache: store.Cache, shard: int, layers: list[int] | None = None) -> np.ndarray[Any, Any]:
    return cache.shard_tokens(shard, layers).decoded()


def _directions(cache: store.Cache) -> np.ndarray[Any, Any]:
    basis = cache.basis()
    assert basis is not None
    return basis.directions


def _statistics(cache: store.Cache, pooling: str) -> np.ndarray[Any, Any]:
    return np.stack(list(cache.statistics(pooling).values()))


@dataclass(frozen=True)
class Read:
    """What reading a cache gave: the values that are wrong, and the errors that are no `UserError`."""

    wrong: list[str]
    unclear: list[str]


def read(place: str, *allowed: Reference) -> Read:
    """Reads all of a cache in every way. A value that a reader gets has to be that of one of the `allowed`; an error
    that names the damage is as good.
    """
    wrong: list[list[str]] = [[] for _ in allowed]
    unclear = []
    try:
        for name, get in readings(place):
            try:
                value = get()
            except UserError:
                continue
            except Exception as error:
                unclear.append(f"reading {name}: {error!r}")
                continue
            for reference, names in zip(allowed, wrong, strict=True):
                if not _equal(value, reference.values.get(name)):
                    names.append(name)
    except UserError:
        pass
    except Exception as error:
        unclear.append(f"opening: {error!r}")
    return Read(min(wrong, key=len), unclear)


def _equal(value: np.ndarray[Any, Any], expected: np.ndarray[Any, Any] | None) -> bool:
    return expected is not None and value.shape == expected.shape and value.tobytes() == expected.tobytes()


def is_clear(ended: Ended) -> bool:
    """Whether it is an error as the project promises it: exit code 2, place, expected, found, next step, no traceback
    and no credential.
    """
    said = ended.said.replace("error: writing a file\n", "")  # which names no place
    return ended.code == 2 and "Traceback" not in said and SECRET not in said and bool(_ERROR.search(said))


def intact_records(scratch: Path) -> set[str]:
    """Paths of the records whose shards are on disk as recorded: finished work, by the campaign's own reading."""
    return {
        str(path)
        for path in scratch.glob("*-*/records/*.json")
        if is_intact(path.read_bytes(), _Folder(path.parent.parent / "cache.zarr"))
    }


def is_intact(record: bytes, files: Files) -> bool:
    """Whether a shard's record can be read and its files are as recorded."""
    found = store.record_from_json(record)
    return found is not None and all(
        hashlib.sha256(files.get(name, b"")).hexdigest() == digest for name, digest in found.files.items()
    )


class _Folder(dict[str, bytes]):
    """The files of a folder, read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return (self._folder / name).read_bytes()
        except OSError:
            return default


def computed(figures: Path) -> int:
    """Texts that the last run ran through the model."""
    return int(json.loads(figures.read_text())["texts_computed"])
