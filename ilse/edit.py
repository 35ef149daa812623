"""Changes values in `params.yaml` and no others; comments and order stay, spaces in one-line maps may not."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from ilse.files import write_text


def set_values(path: Path, section: str, values: dict[str, Any]) -> None:
    """Puts `values`, which may hold further mappings, into the section with this dotted name, made where missing."""
    yaml = YAML()
    yaml.width = 10_000  # long lines stay in one
    yaml.preserve_quotes = True
    document = yaml.load(path.read_text(encoding="utf-8"))
    place = document
    for key in section.split("."):
        if place.get(key) is None:
            place[key] = {}
        place = place[key]
    _merge(place, values)
    with StringIO() as text:
        yaml.dump(document, text)
        write_text(path, text.getvalue())


def _merge(place: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            if place.get(key) is None:
                place[key] = {}
            _merge(place[key], value)
        else:
            place[key] = value
