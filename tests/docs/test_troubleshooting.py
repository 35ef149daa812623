"""Every error that a page quotes can still be said by the code, line by line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.docs.blocks import page
from tests.docs.conftest import DOCS, PAGES

ROOT = DOCS.parent
PACKAGES = ("ilse", "pipeline", "trainer")
LINES = re.compile(r"error: (.+)\n  expected: (.+)\n  found:    (.+)\n  next:     (.+)\n")
FEWEST_LETTERS = 4
"""What a string of the code has beside its placeholders; a mere `{x}` says everything."""
LONGEST = 400
"""Longer strings are documentation."""

QUOTED = [
    example.parsed for path in PAGES for example in page(path) if example.parsed.startswith("error: ")
]  # of all pages; most stand in troubleshooting.md


def template(node: ast.AST) -> str:
    """A regular expression for what a string or f-string of the code may say."""
    if isinstance(node, ast.Constant):
        return re.escape(node.value) if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    return "(?:.+)" if isinstance(node, ast.FormattedValue) else ""


def templates() -> Iterator[str]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                found = template(node)
                if len(re.sub(r"[^A-Za-z]", "", found)) >= FEWEST_LETTERS and len(found) < LONGEST:
                    yield found


@pytest.fixture(scope="module")
def known() -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{one})" for one in set(templates())))


@pytest.fixture(scope="module")
def places() -> re.Pattern[str]:
    """What a first line may be: it begins with a word of the code."""
    return re.compile("|".join(f"(?:{one})" for one in set(templates()) if not one.startswith("(?:.+)")))


def is_a_place(where: str, places: re.Pattern[str]) -> bool:
    """Whether each part of a first line is one; an address stands for itself."""
    parts = re.split(" on (?=tcp://)|, (?=reading )", where)
    return all(places.fullmatch(part) or part.startswith(("s3://", "tcp://")) for part in parts)


def test_many_errors_are_quoted() -> None:
    assert len(QUOTED) >= 25


@pytest.mark.parametrize("quoted", QUOTED, ids=lambda text: text.splitlines()[0].removeprefix("error: "))
def test_the_code_can_say_it(quoted: str, known: re.Pattern[str], places: re.Pattern[str]) -> None:
    lines = LINES.fullmatch(quoted)
    assert lines, "an error has four parts"
    where, expected, found, next_step = lines.groups()
    assert is_a_place(where, places)
    assert known.fullmatch(expected)
    assert known.fullmatch(next_step)
    # A value, such as a name, or words of another library: the code does not have them.
    assert known.fullmatch(found) or found == "…" or not re.search("[a-z] [a-z]", found)


def test_words_that_no_code_says_are_found(known: re.Pattern[str], places: re.Pattern[str]) -> None:
    first_lines = [quoted.splitlines()[0].removeprefix("error: ") for quoted in QUOTED]
    assert [line for line in first_lines if is_a_place(f"the {line}", places)] == []
    assert known.fullmatch("run 'ilse evaluate' first, or 'dvc repro'")
    assert not known.fullmatch("run 'ilse evaluate' once more, or 'dvc repro'")
    assert not known.fullmatch("anything else")
