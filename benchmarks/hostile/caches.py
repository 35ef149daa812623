"""Caches, opened by `ilse inspect`, `ilse verify` and `ilse train`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.hostile.judge import Case
from benchmarks.hostile.opening import Opener, ilse
from benchmarks.hostile.project import CACHE
from benchmarks.hostile.spoiling import (
    HUGE,
    PICKLE,
    Craft,
    both,
    broken_json,
    cut,
    edited,
    linked_out,
    pipe,
    removed,
    written,
)
from pipeline.store import Location
from pipeline.store.layout import sums_file

ROOT, SUMS, SHARD = f"{CACHE}/zarr.json", f"{CACHE}/SHA256SUMS", f"{CACHE}/pooled/mean/c/0/0/0"
ROWS, IDS = f"{CACHE}/pooled/mean/zarr.json", f"{CACHE}/text_id/zarr.json"
BINDING = f"{CACHE}/binding/zarr.json"
INSPECT, VERIFY = ilse("inspect", CACHE), ilse("verify", CACHE)
TRAIN = ilse("train", "weighted")
Change = Callable[[dict[str, Any]], object]


def cases() -> Iterator[Case]:
    """All of them."""
    for name, craft in broken_json(ROOT).items():
        yield Case("cache", name, craft, INSPECT)
    for name, change in HEADERS.items():
        yield Case("cache's header", name, signed(change), INSPECT)
    for name in ("10¹² texts", "rows of 10¹² values", "a shard of 10¹² rows"):
        yield Case("cache's header", f"{name}, trained on", signed(HEADERS[name]), TRAIN)
    for name, craft in ARRAYS.items():
        yield Case("cache's arrays", name, craft, TRAIN)
    for name, (craft, opener) in FILES.items():
        yield Case("cache's files", name, craft, opener)
    for name, lines in SUMS_LISTED.items():
        yield Case("cache's checksums", name, listed(lines), VERIFY)
    for name, content in {"not UTF-8": b"\xff\xfe", "a pickle": PICKLE, "no byte": b""}.items():
        yield Case("cache's checksums", name, written(SUMS, content), VERIFY)
    yield Case("cache's checksums", "not UTF-8, with a checksum that fits", summed(b"\xff\xfe  a\n"), VERIFY)
    yield Case("cache's checksums", "no pairs, with a checksum that fits", summed(b"a\n"), VERIFY)


def signed(change: Change) -> Craft:
    """The header after `change`, with the fingerprint and the checksum that fit it."""

    def both(root: dict[str, Any]) -> None:
        header = root["attributes"]["ilse_cache"]
        change(header)
        capture = {"format_version": header.get("format_version"), **header.get("capture", {})}
        header["fingerprint"] = _digest(capture)
        header.pop("checksum", None)
        header["checksum"] = _digest(header)

    return edited(ROOT, both)


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def of_capture(**values: Any) -> Change:
    """Other values in the capture."""
    return lambda header: header["capture"].update(values)


def listed(more: dict[str, str]) -> Craft:
    """A list of checksums that fits itself and names more files."""

    def craft() -> None:
        sums = {name: hashlib.sha256(Path(CACHE, name).read_bytes()).hexdigest() for name, _ in Location(CACHE).list()}
        sums.pop("SHA256SUMS")
        Path(SUMS).write_bytes(sums_file(sums | more))

    return craft


def summed(lines: bytes) -> Craft:
    """A list of those lines, whose own checksum fits."""
    return written(SUMS, f"# {hashlib.sha256(lines).hexdigest()}\n".encode() + lines)


def renamed_key(old: str, new: str) -> Change:
    """A key under another name."""
    return lambda header: header.update({new: header.pop(old)})


HEADERS: dict[str, Change] = {
    "a later format version": lambda h: h.update(format_version=99),
    "10¹² texts": lambda h: h.update(texts=HUGE),
    "10⁴⁰ texts": lambda h: h.update(texts=10**40),
    "half a text": lambda h: h.update(texts=0.5 + h["texts"]),
    "texts as a word": lambda h: h.update(texts=str(h["texts"])),
    "texts as a float": lambda h: h.update(texts=float(h["texts"])),
    "true texts": lambda h: h.update(texts=True),
    "-1 texts": lambda h: h.update(texts=-1),
    "a shard of 10¹² rows": lambda h: h.update(shard_rows=HUGE),
    "a shard of no rows": lambda h: h.update(shard_rows=0),
    "rows of 10¹² values": of_capture(dim=HUGE),
    "rows of a float's length": of_capture(dim=32.0),
    "10⁵ layers": of_capture(layers=[f"block {i}" for i in range(10**5)]),
    "a layer that is a path": of_capture(layers=["../../outside", "block 1", "final"]),
    "a layer that is a number": of_capture(layers=[1, 2, 3]),
    "a layer that moves the cursor": of_capture(layers=["\x1b[2J", "block 1", "final"]),
    "layers that are a word": of_capture(layers="abc"),
    "a pooling that is a path": of_capture(poolings=["../../outside"]),
    "a pooling that is a list": of_capture(poolings=[["mean"]]),
    "poolings of a word": of_capture(poolings="mean"),
    "values that are objects": of_capture(storage_type="object"),
    "values in a list": of_capture(storage_type=["float16"]),
    "a model that is a word": of_capture(model="model"),
    "a model that is a path": of_capture(model={"path": "../../outside"}),
    "a template that is a list": of_capture(template=["{text}"]),
    "a name that moves the cursor": lambda h: h.update(model_name="\x1b[2J\x1b[31m"),
    "a name that is an object": lambda h: h.update(model_name={"a": 1}),
    "parameters as a word": lambda h: h.update(model_parameters="many"),
    "versions that are a list": lambda h: h.update(versions=["1"]),
    "a version that moves the cursor": lambda h: h.update(versions={"torch": "\x1b[2J"}),
    "no capture": lambda h: h.pop("capture"),
    "a key more": lambda h: h.update(code="print()"),
    "a capture of another key": of_capture(code="print()"),
    "completeness as a word": lambda h: h.update(complete="yes"),
    "attributes under another key": renamed_key("texts", "text"),
}
ARRAYS: dict[str, Craft] = {
    **{
        f"{name}'s metadata: {what}": craft
        for name, place in {"rows": ROWS, "ids": IDS, "binding": BINDING}.items()
        for what, craft in broken_json(place).items()
    },
    "rows of 10¹² texts": edited(ROWS, lambda a: a.update(shape=[HUGE, *a["shape"][1:]])),
    "a binding of 10¹² shards": edited(BINDING, lambda a: a.update(shape=[HUGE, *a["shape"][1:]])),
    "rows of objects": edited(ROWS, lambda a: a.update(data_type="object")),
    "rows of text": edited(ROWS, lambda a: a.update(data_type="string")),
    "an unknown codec": edited(ROWS, lambda a: a.update(codecs=[{"name": "os.system", "configuration": {}}])),
    "a pickling codec": edited(ROWS, lambda a: a.update(codecs=[{"name": "numcodecs.pickle", "configuration": {}}])),
    "an unknown chunk grid": edited(ROWS, lambda a: a.update(chunk_grid={"name": "own", "configuration": {}})),
    "a storage transformer": edited(ROWS, lambda a: a.update(storage_transformers=[{"name": "own"}])),
    "an extension that must be understood": edited(ROWS, lambda a: a.update(own={"must_understand": True})),
    "an array of Zarr 2 with pickled objects": both(
        removed(ROWS),
        written(
            f"{CACHE}/pooled/mean/.zarray",
            json.dumps(
                {"zarr_format": 2, "shape": [60, 3, 32], "chunks": [60, 3, 32], "dtype": "|O", "compressor": None,
                 "fill_value": None, "order": "C", "filters": [{"id": "pickle"}]}
            ).encode(),
        ),
    ),
    "10¹² texts, as the header says too": both(
        signed(HEADERS["10¹² texts"]),
        *(edited(place, lambda a: a.update(shape=[HUGE, *a["shape"][1:]])) for place in (ROWS, IDS)),
    ),
    "an array that is a group": edited(ROWS, lambda a: (a.clear(), a.update(zarr_format=3, node_type="group"))),
}  # fmt: skip
FILES: dict[str, tuple[Craft, Opener]] = {
    "a shard that is a pickle": (written(SHARD, PICKLE), TRAIN),
    "half a shard": (cut(SHARD, 100), TRAIN),
    "a shard without a byte": (written(SHARD, b""), TRAIN),
    "ids without a byte": (written(f"{CACHE}/text_id/c/0/0", b""), TRAIN),
    "a binding without a byte": (written(f"{CACHE}/binding/c/0/0", b""), TRAIN),
    "a pipe for the binding": (pipe(f"{CACHE}/binding/c/0/0"), TRAIN),
    "a shard that leads out": (linked_out(SHARD), TRAIN),
    "a shard that leads out, inspected": (linked_out(SHARD), INSPECT),
    "a shard that leads out, verified": (linked_out(SHARD, content=True), VERIFY),
    "the very shard, but outside": (linked_out(SHARD, content=True), TRAIN),
    "an array that leads out": (linked_out(f"{CACHE}/pooled", content=True), TRAIN),
    "an array that leads out, verified": (linked_out(f"{CACHE}/pooled", content=True), VERIFY),
    "a shard that leads nowhere": (
        lambda: (Path(SHARD).unlink(), Path(SHARD).symlink_to("nowhere")),
        INSPECT,
    ),
    "a shard that leads to itself": (lambda: (Path(SHARD).unlink(), Path(SHARD).symlink_to("0")), VERIFY),
    "a pipe for a shard": (pipe(SHARD), TRAIN),
    "a pipe for a shard, verified": (pipe(SHARD), VERIFY),
    "a pipe for the checksums": (pipe(SUMS), VERIFY),
    "a file more": (written(f"{CACHE}/pooled/mean/c/9/0/0", PICKLE), VERIFY),
    "a file with code more": (written(f"{CACHE}/own.py", b""), VERIFY),
}
_ANY = "0" * 64
SUMS_LISTED: dict[str, dict[str, str]] = {
    "a name that climbs": {"../../../outside/secret": hashlib.sha256(b"the text that stands outside").hexdigest()},
    "an absolute name": {"/etc/hostname": _ANY},
    "a name that climbs from inside": {"pooled/../../../../outside/secret": _ANY},
    "a shard that is no number": {"pooled/mean/c/x/0/0": _ANY},
    "tokens of a shard that is no number": {"tokens/x/c/0/0/0": _ANY},
    "a name of 5,000 letters": {"a" * 5000: _ANY},
    "a name with NUL": {"a\0b": _ANY},
    "a checksum that is a word": {"zarr.json": "word"},
    "a device": {"/dev/zero": _ANY},
}
