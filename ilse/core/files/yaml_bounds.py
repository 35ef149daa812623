"""Reads YAML that others may have made: plain values alone, each key once, and no more of them than a hand writes.

YAML's names for values (anchors) and its merge keys make a billion values of a few lines, and its reader would build
them one by one. So a file is gone through once without being built, and what it would come to is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

BYTES = 2**20
"""The largest file; those of this project have some 10,000 bytes."""
VALUES = 20_000
"""Values, keys among them, of a file with every name written out. A reader takes a second or two for this many."""
DEPTH = 64
"""Collections inside each other."""
DIGITS = 400
"""Characters of a number; the longest of float64, written out, has some 330."""


def plain_values(data: bytes) -> Any:
    """Parses the YAML in `data`, which is UTF-8.

    Raises `yaml.YAMLError` and `ValueError` for what is no YAML, for tags that make other objects than plain values, a
    key that stands twice, and what is beyond `BYTES`, `VALUES`, `DEPTH` or `DIGITS`.
    """
    if len(data) > BYTES:
        raise ValueError(f"a file of more than {BYTES:,} bytes")
    text = data.decode()
    _require_few(yaml.parse(text, yaml.SafeLoader))
    return yaml.load(text, _Loader)


@dataclass
class _Open:
    """A collection whose end is still to come: its name, if it has one, and how many values it comes to so far."""

    anchor: str | None
    values: int = 1


def _require_few(events: Iterator[Any]) -> None:
    """Counts the values as if every name were written out; a merge key copies what its name stands for."""
    sizes, inside = dict[str, int](), [_Open(None)]
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            inside.append(_Open(event.anchor))
            size = 0
        elif isinstance(event, yaml.CollectionEndEvent):
            done = inside.pop()
            size = done.values
            if done.anchor is not None:
                sizes[done.anchor] = size
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            if event.anchor is not None:
                sizes[event.anchor] = size
        elif isinstance(event, yaml.AliasEvent):
            if any(one.anchor == event.anchor for one in inside):
                raise _refused(f"the name '{event.anchor}', which refers to a value that contains it", event)
            size = sizes.get(str(event.anchor), 1)  # one that was never given is the reader's to refuse
        else:
            continue
        inside[-1].values += size
        if sum(one.values for one in inside) > VALUES:
            raise _refused(f"more than {VALUES:,} values, with all names (&, *, <<) written out", event)
        if len(inside) > DEPTH:
            raise _refused(f"collections nested more than {DEPTH} deep", event)


def _refused(found: str, event: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=f"found {found}", problem_mark=event.start_mark)


class _Loader(yaml.SafeLoader):
    """Plain values alone, and no key twice: of two, YAML's reader would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            if key.value in seen:
                problem = f"found the key '{key.value[:80]}' twice"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        """Reads a number; refuses long ones, as YAML's numbers to the base 60 take quadratic time to read."""
        if len(node.value) > DIGITS:
            problem = f"found a number of {len(node.value):,} characters"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        whole = node.tag == "tag:yaml.org,2002:int"
        return self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_number)
