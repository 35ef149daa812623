"""Changes values in `params.yaml` and no others; comments and order stay, spaces in one-line maps may not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark
from ruamel.yaml.tokens import CommentToken

from ilse.core.files.atomic import write_text


def set_values(path: Path, section: str, values: dict[str, Any]) -> None:
    """Puts `values`, which may hold further mappings, into the section with this dotted name, made where missing."""
    with edited(path) as document:
        for key in reversed(section.split(".")):
            values = {key: values}
        merge(document, values)


@contextmanager
def edited(path: Path) -> Iterator[Any]:
    """The document of the file, to be changed in place; it is written at the end, as a whole.

    What stands between two sections, comments and empty lines, stays there whatever becomes of the lines above.
    """
    yaml = YAML()
    yaml.width = 10_000  # long lines stay in one
    yaml.preserve_quotes = True
    yaml.representer.add_representer(type(None), _null)
    document = yaml.load(path.read_text(encoding="utf-8"))
    between = {name: _cut_tail(section) for name, section in document.items()}
    yield document
    for name, section in document.items():
        _add_tail(document, name, section, between.get(name, ""))
    with StringIO() as text:
        yaml.dump(document, text)
        write_text(path, text.getvalue())


def merge(place: Any, values: dict[str, Any]) -> None:
    """Puts `values` into the mapping `place`, and mappings in it into those that are there, or in place of a value."""
    for key, value in values.items():
        if isinstance(value, dict):
            if not isinstance(place.get(key), dict):
                place[key] = CommentedMap()
            merge(place[key], value)
        else:
            place[key] = value


def _null(representer: Any, _: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")  # ruamel's own way is to write nothing


def _last_line(node: Any) -> tuple[Any, Any] | None:
    """The container and key (or index) of a section's last line; None of one that stands in one line."""
    found = None
    while isinstance(node, CommentedMap | CommentedSeq) and node and not node.fa.flow_style():
        found = node, (list(node)[-1] if isinstance(node, CommentedMap) else len(node) - 1)
        node = node[found[1]]
    return found


def _comments(container: Any, key: Any) -> tuple[list[Any], int]:
    """The comments that ruamel keeps after a line: its own, and everything up to the next line."""
    mapping = isinstance(container, CommentedMap)
    kept = container.ca.items.setdefault(key, [None, None, None, None] if mapping else [None, None])
    return kept, 2 if mapping else 0


def _cut_tail(section: Any) -> str:
    """Takes away what follows the section's last line, but for a comment in that line."""
    if (last := _last_line(section)) is None:
        return ""
    kept, at = _comments(*last)
    own, _, tail = kept[at].value.partition("\n") if kept[at] else ("", "", "")
    kept[at] = CommentToken(f"{own}\n", kept[at].start_mark, None) if own else None
    return tail


def _add_tail(document: Any, name: str, section: Any, tail: str) -> None:
    kept, at = _comments(*(_last_line(section) or (document, name)))
    if tail:
        kept[at] = CommentToken((kept[at].value if kept[at] else "\n") + tail, CommentMark(0), None)
