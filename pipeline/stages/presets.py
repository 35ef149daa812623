"""`ilse preset NAME …`: the paper's tasks and models, by name, as parts of `params.yaml`.

A preset is a YAML file in `configs/` of the shape of `params.yaml`: an entry of `fetch`, pinned by commit, and the
section `prepare` or the value `extract.model`. Those two replace the old ones as a whole, because keys that suit one
data set are wrong for another; all else in the parameter file stays.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML

from ilse.core.errors import UserError
from ilse.core.params import load_document, validate
from ilse.core.yaml_edit import edited
from pipeline.config import ExtractParams
from pipeline.fetching.pinning import latest_commit
from pipeline.stages.fetch import FetchParams
from pipeline.stages.prepare import PrepareParams

RAW = ("data", "raw")
"""Folder in which `ilse fetch` puts artifacts, each in a folder named by its key."""


@dataclass(frozen=True)
class Preset:
    """One file: `name` is that of its folder and its own, such as `tasks/banking77`."""

    name: str
    text: str

    @property
    def about(self) -> str:
        """One-line description: the file's first comment."""
        return self.text.splitlines()[0].removeprefix("# ")

    @property
    def values(self) -> Any:
        """The preset's sections with their comments; a new copy each time."""
        return YAML().load(self.text)

    @property
    def artifact(self) -> dict[str, Any]:
        """The preset's entry in section `fetch`."""
        found: dict[str, Any] = next(iter(self.values["fetch"].values()))
        return found


@cache
def presets() -> dict[str, Preset]:
    """All presets by name, tasks first."""
    folder = files("pipeline") / "configs"
    names = [
        f"{kind}/{file.name.removesuffix('.yaml')}"
        for kind in ("tasks", "models")
        for file in sorted((folder / kind).iterdir(), key=lambda file: file.name)
    ]
    return {name: Preset(name, (folder / f"{name}.yaml").read_text(encoding="utf-8")) for name in names}


def find_preset(name: str) -> Preset:
    """The preset of this name. Raises `UserError` with the nearest one for an unknown name."""
    if name in presets():
        return presets()[name]
    ends = {known.split("/")[1]: known for known in presets()}
    near = difflib.get_close_matches(name.split("/")[-1].lower(), list(ends), n=1, cutoff=0.5)
    raise UserError(
        f"preset {name}",
        expected="the name of a preset, such as tasks/banking77",
        found="no such preset",
        next_step=f"did you mean '{ends[near[0]]}'?" if near else "run 'ilse preset' to see all names",
    )


def apply(names: list[str], params: Path, place: str | None = None, revision: str | None = None) -> list[str]:
    """Writes presets into the parameter file, and returns a line for each value that changed.

    With `place` the one preset's files are read from that folder and not from the Hub; with `revision` they are those
    of that commit. Raises `UserError` for an unknown name, a file that is no parameter file, values that do not fit,
    and a commit that the Hub does not tell; nothing is then written.
    """
    if len(names) > 1 and (place or revision):
        raise UserError(
            f"presets {' '.join(names)}",
            expected="one name with --path or --revision",
            found=f"{len(names)} names",
            next_step="apply them one by one",
        )
    if place and "://" in place:
        raise UserError(
            "--path", expected="a folder of this machine", found=place, next_step="name one, or leave it out"
        )
    before = load_document(params)
    chosen = [find_preset(name) for name in names]
    parts = [_from_folder(preset, place) if place else _pinned(preset, revision) for preset in chosen]
    with edited(params) as document:
        for part in parts:
            _put(document, part)
        _check(document, parts, f"parameters {params}")
    return list(_changes(dict(_leaves(before)), dict(_leaves(load_document(params)))))


def _from_folder(preset: Preset, place: str) -> Any:
    values = preset.values
    del values["fetch"]
    if "extract" in values:
        values["extract"]["model"]["path"] = place
    elif isinstance(values["prepare"]["path"], dict):
        values["prepare"]["path"] = {split: place for split in values["prepare"]["path"]}
    else:
        values["prepare"]["path"] = place
    return values


def _pinned(preset: Preset, revision: str | None) -> Any:
    values = preset.values
    for artifact in values["fetch"].values():
        if revision or "revision" not in artifact:
            artifact["revision"] = revision or latest_commit(artifact["repo_id"], artifact.get("repo_type", "model"))
    return values


def _put(document: Any, values: Any) -> None:
    old = _artifacts(document)
    for key, artifact in values.get("fetch", {}).items():
        _section(document, "fetch")[key] = artifact
    if "prepare" in values:
        document["prepare"] = values["prepare"]
    if "extract" in values:
        before = _model_path(document.get("extract"))
        _section(document, "extract").update(values["extract"])
        for cache in (document.get("control_caches") or {}).values():
            if _model_path(cache) == before is not None:  # the same model before its training goes with it
                cache["model"]["path"] = values["extract"]["model"]["path"]
    for key in old - _artifacts(document):
        (document.get("fetch") or {}).pop(key, None)


def _section(document: Any, name: str) -> Any:
    if document.get(name) is None:
        document[name] = YAML().map()
    return document[name]


def _artifacts(document: Any) -> set[str]:
    """Keys of the artifacts that are read: of paths such as `data/raw/<key>/…`."""
    source = (document.get("prepare") or {}).get("path")
    readers = [document.get("extract"), *(document.get("control_caches") or {}).values()]
    paths = [*(source.values() if isinstance(source, dict) else [source]), *map(_model_path, readers)]
    parts = [PurePosixPath(path).parts for path in paths if path]
    return {part[2] for part in parts if part[:2] == RAW and len(part) > 2}


def _model_path(extract: Any) -> str | None:
    path: str | None = ((extract or {}).get("model") or {}).get("path")
    return path


def _check(document: Any, parts: list[Any], where: str) -> None:
    for part in parts:
        for key in part.get("fetch", {}):
            validate(f"fetch.{key}", FetchParams, document["fetch"][key], where)
    if any("prepare" in part for part in parts):
        validate("prepare", PrepareParams, document["prepare"], where)
    if any("extract" in part for part in parts):
        validate("extract", ExtractParams, document["extract"], where)


def _leaves(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(values, dict):
        yield name, values
        return
    for key, value in values.items():
        yield from _leaves(value, f"{name}.{key}" if name else str(key))


def _changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for name in [*after, *(name for name in before if name not in after)]:
        if name not in before:
            yield f"+ {name}: {after[name]}"
        elif name not in after:
            yield f"- {name}: {before[name]}"
        elif before[name] != after[name]:
            yield f"  {name}: {before[name]} -> {after[name]}"
