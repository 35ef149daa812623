"""Reads one section of `params.yaml` into its documented structure, and refuses what the structure does not know."""

from __future__ import annotations

import re
import reprlib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ilse.core.errors import MissingError, UserError, did_you_mean
from ilse.core.files.yaml_bounds import BYTES, plain_values
from ilse.core.secrets import masked, remember


class Section(BaseModel):
    """Base of every parameter structure: frozen, and an unknown key is an error that names the nearest right one."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, given: Any) -> Any:
        remember(given)
        if isinstance(given, dict):
            known = list(cls.model_fields)
            for key in given:
                if key not in known:
                    raise PydanticCustomError(
                        "unknown_key",
                        "{message}",
                        {"key": str(key), "known": known, "message": masked(f"unknown key '{key}'")},
                    )
        return given


S = TypeVar("S", bound=BaseModel)
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""A name that a user makes up: of a folder, and a word of a command in `dvc.yaml`."""
NAMED = ("fetch", "control_caches")
"""Sections whose keys are such names."""


class _Repr(reprlib.Repr):
    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(masked(x), level)  # before it is cut: half an address looks like none


_SHORT = _Repr()
"""YAML's names for values nest them: written out in full, a few lines can be a billion words."""
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 300, 300, 300


def load_section(name: str, schema: type[S], path: Path = Path("params.yaml")) -> S:
    """The section `name` of the parameter file `path`, validated.

    `name` may be dotted (`fetch.model`). Raises `UserError` for a missing file, broken YAML, a missing section,
    an unknown key or a value out of range.
    """
    section = load_document(path)
    _require_plain_names(section, path)
    for key in name.split("."):
        present = list(section) if isinstance(section, dict) else []
        if key not in present:
            raise UserError(
                f"parameters {path}",
                expected=f"a section '{name}'",
                found=f"no key '{key}' among {', '.join(map(str, present)) or 'nothing'}",
                next_step=did_you_mean(key, map(str, present), f"add the section '{name}'"),
            )
        section = section[key]
    return validate(name, schema, section if section is not None else {}, where=f"parameters {path}")


def _require_plain_names(document: Any, path: Path) -> None:
    """Raises `UserError` for a name of one's own that could be more than a name: DVC hands it to a shell."""
    for section in NAMED if isinstance(document, dict) else ():
        for name in document.get(section) or ():
            if not PLAIN_NAME.fullmatch(str(name)):
                raise UserError(
                    f"parameters {path}, section '{section}'",
                    expected="names of letters, digits, - and _, which start with a letter or a digit",
                    found=f"{name!r}"[:80],
                    next_step="give it another name, and change it where it is used",
                )


def load_document(path: Path) -> Any:
    """Reads the whole parameter file. Raises `UserError` for a missing file and broken YAML."""
    if not path.is_file():
        raise MissingError(
            f"parameters {path}",
            expected="a YAML file with one section per stage",
            found="no such file",
            next_step="run from the project's root, or name the file with --params",
        )
    try:
        with path.open("rb") as file:
            return plain_values(file.read(BYTES + 1))
    # Besides its own errors, YAML's reader lets through those of a date or number that there is not, and of depth.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(
            f"parameters {path}",
            expected="valid YAML in UTF-8, with each key once",
            found=_without_the_line(error),
            next_step="fix the file at this place",
        ) from None  # the cause repeats the line


def _without_the_line(error: Exception) -> str:
    """What YAML's reader says, but for the line that it repeats: half an address with a password, maybe."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())[:500]
    mark = error.problem_mark or error.context_mark
    place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return " ".join(filter(None, [error.context, error.problem]))[:500] + place


def validate(name: str, schema: type[S], values: Any, where: str = "parameters") -> S:
    """`values` as a `schema`; a `UserError` that names the parameter when they do not fit."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise _as_user_error(f"{where}, section '{name}'", error) from None


def _as_user_error(where: str, error: ValidationError) -> UserError:
    first = error.errors()[0]
    # A value that may have several forms names the one that was tried, as <form>: no key of the file.
    place = ".".join(str(part) for part in first["loc"] if not str(part).startswith("<"))
    context = first.get("ctx", {})
    if isinstance(told := context.get("error"), UserError):  # of a value that says for itself what is wrong with it
        return told
    if first["type"] == "unknown_key":
        known = [str(key) for key in context["known"]]
        return UserError(
            where + (f", {place}" if place else ""),
            expected=f"one of {', '.join(known)}",
            found=f"unknown key '{context['key']}'",
            next_step=did_you_mean(context["key"], known, "remove it, or use one of the keys above"),
        )
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return UserError(
        where + (f", {place}" if place else ""),
        expected=first["msg"].removeprefix("Value error, "),
        found=f"{_SHORT.repr(first['input'])}{more}"[:300],
        next_step=f"correct {place or 'the section'} and run again",
    )
