"""Recognises folders that we wrote, by the names of their files and the content of some.

A command may replace a folder as a whole, and takes its files away then. It does so where the folder is empty, or where
every file in it is one that the same command writes there, and one of them tells that it was us:

    HEADS.foreign(Path("models/cayley"))    # None, or what is in the way: "thesis.txt"

What operating systems leave in folders, and what our own killed writers do, is nobody's.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ilse.core.files.json_files import is_stored

NOBODYS = re.compile(r"(.*/)?(\.DS_Store|Thumbs\.db|desktop\.ini|\.[^/]+\.partial(/.*)?)")
"""Files of no worth to anyone."""


def _always(_folder: Path, _name: str) -> bool:
    return True


@dataclass(frozen=True)
class Made:
    """A kind of folder that a command replaces as a whole."""

    what: str
    """For messages: the command may replace …"""
    names: re.Pattern[str]
    """Matches all files that it may hold: relative paths with `/` between the parts."""
    mark: re.Pattern[str]
    """Matches the files that only we name so; at least one must be there."""
    holds: Callable[[Path, str], bool] = _always
    """Whether a file of such a name, in such a folder, is one of ours by what it holds."""

    def foreign(self, folder: Path) -> str | None:
        """Something in the folder that is not ours, for a message; None if it may be replaced or does not exist."""
        if not folder.is_dir():
            return None
        first, marked = None, False
        for name in _files(folder):
            if os.path.islink(folder / name) and not is_stored(Path(os.path.realpath(folder / name))):
                return f"{name!r}, a link"
            if not (folder / name).is_file():
                return f"{name!r}, which is not a plain file"
            if not (self.names.fullmatch(name) and self.holds(folder, name)):
                return f"{name!r}, which is not part of {self.what}"
            first, marked = first or name, marked or bool(self.mark.fullmatch(name))
        return None if first is None or marked else _unmarked(first, self)

    def foreign_among(self, names: Iterable[str]) -> str | None:
        """The first name in a listing that is not ours; what files contain is up to the caller."""
        given = sorted(name for name in names if not NOBODYS.fullmatch(name))
        stray = [name for name in given if not self.names.fullmatch(name)]
        if stray:
            return f"{stray[0]!r}, which is not part of {self.what}"
        return _unmarked(given[0], self) if given and not any(map(self.mark.fullmatch, given)) else None


def _unmarked(name: str, made: Made) -> str:
    return f"{name!r}, and nothing that marks the folder as {made.what}"


def _files(folder: Path) -> Iterator[str]:
    """Every file, link and special file, in order; a link to a folder is one, and what it leads to stays anyway."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        inside = Path(place).relative_to(folder)
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in sorted([*names, *links]):
            if not NOBODYS.fullmatch((inside / name).as_posix()):
                yield (inside / name).as_posix()


def _of_a_cache(folder: Path, name: str) -> bool:
    """A Zarr group may be anyone's; it is ours where it says so, or where what damage left of a cache is beside it."""
    if name != "zarr.json" or (folder / "SHA256SUMS").exists() or (folder / "pooled").is_dir():
        return True
    return b"ilse_cache" in (folder / name).read_bytes()


def _of_predictions(folder: Path, name: str) -> bool:
    """Tables are anyone's; ours have a row for each seed and text."""
    import polars as pl

    from ilse.core.files.table_files import scan_parquet

    try:
        return {"seed", "text_id"} <= {*scan_parquet(folder / name).collect_schema().names()}
    except (OSError, pl.exceptions.PolarsError):  # what is no table
        return False


def _of_pictures(folder: Path, name: str) -> bool:
    """Every chart stands there twice, and the SVG is Vega's."""
    drawn = (folder / name).with_suffix(".svg")
    try:
        return drawn.with_suffix(".png").is_file() and b'class="marks"' in drawn.read_bytes()[:4096]
    except OSError:
        return False


def _of_an_export(folder: Path, name: str) -> bool:
    """A model's files have any name: those that stand beside a head are listed."""
    inside = re.fullmatch(r"0_HeadModule/model/([^/]+)", name)
    if inside is None:
        return True
    try:
        listed = json.loads((folder / "0_HeadModule" / "model.json").read_bytes()).get("files")
    except (OSError, ValueError, AttributeError):
        return False
    # Earlier versions listed none: what a model's checksum covers was copied.
    return inside[1] in listed if isinstance(listed, list) else bool(_OF_A_MODEL.fullmatch(inside[1]))


_OF_A_MODEL = re.compile(
    r".+\.(safetensors|gguf|model)|.+\.safetensors\.index\.json|(configuration|modeling|tokenization)_\w+\.py"
    r"|((\w+_)?config|tokenizer|special_tokens_map|added_tokens|vocab)\.json|(vocab|merges)\.txt"
)
_HEAD = r"config\.json|head\.safetensors"
_ANSWERS = r"answers\.parquet|answers\.json"
_ADDED = r"adapter_config\.json|adapter_model\.safetensors|classifier\.safetensors"
_CHUNKS = r"(zarr\.json|c(/\d+)*)"

CACHE = Made(
    "a cache",
    re.compile(
        rf"zarr\.json|SHA256SUMS|(pooled|scale|statistics|tokens|basis)/zarr\.json|(text_id|token_count|truncated|binding)/{_CHUNKS}"
        rf"|(pooled|scale|statistics|basis)/[\w-]+/{_CHUNKS}|tokens/\d+/{_CHUNKS}"
    ),
    re.compile(r"zarr\.json|SHA256SUMS|pooled/.+"),
    _of_a_cache,
)
HEADS = Made(
    "the seeds of one head or control",
    re.compile(rf"seed-\d+/({_HEAD}|{_ANSWERS}|{_ADDED})"),
    re.compile(r"seed-\d+/(head\.safetensors|answers\.json|answers\.parquet)"),
)
HEAD = Made("a head", re.compile(_HEAD), re.compile(r"head\.safetensors"))
PULLED = Made("a head with its card", re.compile(rf"{_HEAD}|README\.md"), HEAD.mark)
EXPORT = Made(
    "an exported head",
    re.compile(
        r"head\.json|head\.pt2|head\.onnx|modules\.json|config_sentence_transformers\.json|README\.md"
        rf"|0_HeadModule/(model\.json|head/({_HEAD})|model/[^/]+)"
    ),
    re.compile(r"head\.json|0_HeadModule/head/head\.safetensors"),
    _of_an_export,
)
ANALYSIS = Made(
    "the tables of 'ilse analyse'",
    re.compile(r"(leave_one_out|attribution|entropy|inputs|cka|classes)\.csv|caveats\.json"),
    re.compile(r"caveats\.json"),
)
PREDICTIONS = Made(
    "the predictions of 'ilse evaluate'", re.compile(r"[^/]+\.parquet"), re.compile(r".+"), _of_predictions
)
PICTURES = Made(
    "the report's charts",
    re.compile(
        r"(comparison|heads|cost|layers|leave_one_out|attribution|inputs|cka|classes|weights|graph|calibration|curves"
        r"|confusion)-\d+\.(svg|png)"
    ),
    re.compile(r".+"),
    _of_pictures,
)
