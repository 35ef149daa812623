"""Writes `docs/parameters.md` from the parameters' structures: `python docs/make_parameters.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ilse.core.files.atomic import write_text
from ilse.finetune.config import LoraParams
from pipeline.config import ExtractParams
from pipeline.stages.fetch import HubArtifact, PathArtifact, WheelArtifact
from pipeline.stages.prepare import PrepareParams
from trainer.config import TrainParams
from trainer.controls.config import ControlParams
from trainer.search.space import TuneParams

SECTIONS: dict[str, type[BaseModel]] = {
    "fetch.NAME, kind: wheel": WheelArtifact,
    "fetch.NAME, kind: hub": HubArtifact,
    "fetch.NAME, kind: path": PathArtifact,
    "prepare": PrepareParams,
    "extract, control_caches.NAME": ExtractParams,
    "train": TrainParams,
    "controls": ControlParams,
    "lora": LoraParams,
    "tune": TuneParams,
}
OUT = Path(__file__).with_name("parameters.md")

TOP = """# Parameters

Every key of `params.yaml`, from the structures that check it. `python docs/make_parameters.py` writes this file.

One section per stage. A key that is not listed here is refused, with the nearest one that is.
"""
CONSTRAINTS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "{} or more characters",
    "minItems": "{} or more items",
    "pattern": "matches `{}`",
}
Schema = dict[str, Any]


def document() -> str:
    """The whole file."""
    written: dict[str, str] = {}
    parts = [part for name, structure in SECTIONS.items() for part in _section(name, structure, written)]
    return "\n".join([TOP, *parts])


def _section(name: str, structure: type[BaseModel], written: dict[str, str]) -> Iterator[str]:
    schema = structure.model_json_schema()
    yield from _tables(name, schema, schema.get("$defs", {}), written, level=2)


def _tables(name: str, schema: Schema, structures: Schema, written: dict[str, str], level: int) -> Iterator[str]:
    """The table of one structure, then those of the structures in it; each is written once and linked later."""
    nested: list[tuple[str, str]] = []
    rows = []
    required = schema.get("required", [])
    for key, field in schema["properties"].items():
        kind, meaning = _type(field), field.get("description", "")
        forms = (field, *field.get("oneOf", ()), *field.get("anyOf", ()))
        if reference := next(filter(None, map(_reference, forms)), ""):
            place = written.setdefault(reference, f"{name}.{key}")
            kind = f"{kind} [`{place}`](#{_anchor(place)})"
            meaning = meaning or _first_line(structures[reference])
            nested += [(place, reference)] if place == f"{name}.{key}" else []
        default = "**required**" if key in required else _default(field)
        cells = (f"`{key}`", kind, default, ", ".join(_constraints(field)), meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    yield f"{'#' * level} `{name}`\n\n{_first_line(schema)}\n"
    yield "\n".join(["| key | type | default | allowed | meaning |", "|---|---|---|---|---|", *rows, ""])
    for place, reference in nested:
        yield from _tables(place, structures[reference], structures, written, level + 1)


def _first_line(structure: Schema) -> str:
    return str(structure["description"]).split("\n\n")[0].replace("\n", " ")


def _reference(field: Schema) -> str:
    return str(field.get("$ref", "")).removeprefix("#/$defs/")


def _type(field: Schema) -> str:
    for several in ("anyOf", "oneOf"):
        if several in field:
            return " or ".join(_type(option) for option in field[several])
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    kind = str(field.get("type", "section"))
    if kind == "array":
        return f"list of {_type(field['items'])}"
    if kind == "object":
        values = field["additionalProperties"]
        return "map" if values is True else f"map of {_type(values)}"
    return {"null": "unset", "boolean": "true or false"}.get(kind, kind)


def _default(field: Schema) -> str:
    value = field.get("default")
    if value is None:
        return "unset" if "default" in field else ""
    return "" if _reference(field) else f"`{json.dumps(value, ensure_ascii=False)}`"


def _constraints(field: Schema) -> Iterator[str]:
    for option in (field, *field.get("anyOf", ())):
        yield from (text.format(option[name]) for name, text in CONSTRAINTS.items() if name in option)


def _anchor(heading: str) -> str:
    """GitHub's: lower case, without punctuation, dashes for spaces."""
    return "".join(c for c in heading.lower() if c.isalnum() or c in " -_").replace(" ", "-")


if __name__ == "__main__":
    write_text(OUT, document())
