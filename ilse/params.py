"""Reads one section of `params.yaml` into its documented structure, and refuses what the structure does not know."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ilse.errors import UserError, did_you_mean


class Section(BaseModel):
    """Base of every parameter structure: frozen, and an unknown key is an error that names the nearest right one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, given: Any) -> Any:
        if isinstance(given, dict):
            known = list(cls.model_fields)
            for key in given:
                if key not in known:
                    raise PydanticCustomError(
                        "unknown_key",
                        "{message}",
                        {"key": str(key), "known": known, "message": f"unknown key '{key}'"},
                    )
        return given


S = TypeVar("S", bound=BaseModel)
_SHORT = reprlib.Repr()
"""YAML's names for values nest them: written out in full, a few lines can be a billion words."""
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 300, 300, 300


def load_section(name: str, schema: type[S], path: Path = Path("params.yaml")) -> S:
    """The section `name` of the parameter file `path`, validated.

    `name` may be dotted (`fetch.model`). Raises `UserError` for a missing file, broken YAML, a missing section,
    an unknown key or a value out of range.
    """
    section = load_document(path)
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


def load_document(path: Path) -> Any:
    """All that the parameter file holds. Raises `UserError` for a missing file and broken YAML."""
    if not path.is_file():
        raise UserError(
            f"parameters {path}",
            expected="a YAML file with one section a stage",
            found="no such file",
            next_step="run from the project's root, or name the file with --params",
        )
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    # Besides its own errors, YAML's reader lets through those of a date or number that there is not, and of depth.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(
            f"parameters {path}",
            expected="valid YAML in UTF-8, with each key once",
            found=" ".join(str(error).split())[:500],
            next_step="mend the file at the place named",
        ) from error


class _Loader(yaml.SafeLoader):
    """Plain values alone, and no key twice: of two, YAML's reader would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"found the key '{twice}' twice", node.start_mark)
        return super().construct_mapping(node, deep)


def validate(name: str, schema: type[S], values: Any, where: str = "parameters") -> S:
    """`values` as a `schema`; a `UserError` that names the parameter when they do not fit."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise _as_user_error(f"{where}, section '{name}'", error) from error


def _as_user_error(where: str, error: ValidationError) -> UserError:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    context = first.get("ctx", {})
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
