"""Every code block of the documentation runs, or says why it can't here and is checked as far as it goes."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import click
import pytest

from ilse.cli import main
from ilse.core.errors import UserError
from tests.docs.blocks import commands, evaluate, page, runs
from tests.docs.conftest import DOCS, EXAMPLES, FIRST, PAGES

ROOT = DOCS.parent
PROSE = [*PAGES, ROOT / "README.md"]


@pytest.mark.slow
def test_the_quick_start_gives_predictions(project: Path) -> None:
    header, *rows = (project / "predictions.csv").read_text().splitlines()
    assert header.endswith("probability")
    assert len(rows) == EXAMPLES
    assert (project / "results" / "report.html").is_file()


@pytest.mark.parametrize("path", [path for path in PAGES if path != FIRST], ids=lambda path: path.stem)
def test_the_blocks_of_a_page(
    path: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not list(page(path)):
        pytest.skip("no blocks")
    monkeypatch.chdir(shutil.copytree(request.getfixturevalue("project"), tmp_path / "project"))
    if "s3://" in path.read_text(encoding="utf-8") and path.parent.name == "guides":
        request.getfixturevalue("s3")  # a server, and a bucket called 'caches'
    evaluate(path)


def document(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "page.md"
    path.write_text(text)
    (tmp_path / "params.yaml").write_text("train: {}\n")
    return path


@pytest.mark.parametrize(
    ("block", "error"),
    [
        ("```sh\nilse train --sed 3\n```\n", AssertionError),
        ("<!-- not run: x -->\n```sh\nilse train --sed 3\n```\n", click.NoSuchOption),
        ("<!-- not run: x -->\n```sh\nilse trian\n```\n", KeyError),
        ("<!-- not run: x -->\n```python\nx =\n```\n", SyntaxError),
        ("<!-- nothing is run: x -->\n\nText.\n\n```sh\nilse train --sed 3\n```\n", click.NoSuchOption),
        ("```yaml\ntrain: {seed: 3}\n```\n", UserError),
        ("<!-- not run: x -->\n```yaml\ntrain: {seed: 3}\n```\n", UserError),
        ("```sh\necho a\n```\n```text\nb…\n```\n", AssertionError),
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", AssertionError),
        ("```\nnothing checks this\n```\n", ValueError),
    ],
)
def test_a_wrong_block_is_found(
    block: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        evaluate(document(tmp_path, block))


def test_a_right_page_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = '```sh\nprintf "%s\\n" a b | grep b && echo c\n```\n\n```text\nb\n…\n```\n```yaml\ntrain:\n  seeds: 7\n```\n'
    assert evaluate(document(tmp_path, text)) == 3
    assert "seeds: 7" in (tmp_path / "params.yaml").read_text()


def test_commands_are_split_where_a_shell_splits_them() -> None:
    assert commands("a 'b && c' && d | e # f\ng \\\n  h\n") == [["a", "b && c"], ["d", "|", "e"], ["g", "h"]]


def test_few_blocks_are_not_run() -> None:
    """All of a page that says so of every one would be a page that nothing tests."""
    examples = [example for path in PAGES for example in page(path)]
    assert sum(runs(example) for example in examples) > len(examples) / 2


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.stem)
def test_commands_and_extras_in_the_prose_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for group in re.findall(r"ilse-cache\[([\w,-]+)\]", text) for name in group.split(",")}
    assert named <= extras.keys()
    assert set(re.findall(r"`ilse ([a-z]+)", text)) <= main.commands.keys()
