"""The code blocks of a page of the documentation, found by Sybil and run in order, as a reader would run them.

- `sh`: each line a command; `ilse` runs in this process, anything else in a shell. `a && b` and `a | ilse …` are known.
- `python`: one namespace a page. `yaml`: keys of `params.yaml`, checked and put there; with `title="name"` such a file
  of its own, which is written.
- `text`: what the block above printed, where `…` stands for anything in its line, or for any lines; or an error that
  the code has; or with `title="name"` a file, which is written.

A block after `<!-- not run: why -->`, and every one of a page with `<!-- nothing is run: why -->`, is checked for its
syntax alone: shell, options of `ilse`, keys and Python.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner
from sybil import Document, Example, Region
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

from ilse.cli import main
from ilse.core.params import validate
from ilse.core.yaml_edit import merge, set_values
from ilse.finetune.config import LoraParams
from pipeline.config import ExtractParams
from pipeline.stages.fetch import FetchParams
from pipeline.stages.prepare import PrepareParams
from trainer.config import TrainParams
from trainer.controls.config import ControlParams
from trainer.search.space import TuneParams

SECTIONS: dict[str, Any] = {
    "prepare": PrepareParams,
    "extract": ExtractParams,
    "train": TrainParams,
    "controls": ControlParams,
    "lora": LoraParams,
    "tune": TuneParams,
}
NAMED_SECTIONS: dict[str, Any] = {"fetch": FetchParams, "control_caches": ExtractParams}
NOT_RUN = re.compile(r"<!-- not run: [^>]+ -->\s*\Z")
NOTHING_RUN = re.compile(r"^<!-- nothing is run: [^>]+ -->$", re.MULTILINE)
TITLE = re.compile(r'title="([^"]+)"')
_find = RawFencedCodeBlockLexer(re.compile(r"(?P<language>[a-z{}-]*)(?P<more>[^\n]*)$\n", re.MULTILINE))


def page(path: Path) -> Document:
    """The document, with its blocks as examples."""
    return Document.parse(str(path), _blocks)


def evaluate(path: Path) -> int:
    """Runs the page's blocks, in the working directory; their number."""
    examples = list(page(path))
    for example in examples:
        example.evaluate()
    return len(examples)


def _blocks(document: Document) -> Iterator[Region]:
    for region in _find(document):
        language = region.lexemes["language"]
        if language not in EVALUATORS:
            place = document.line_column(region.start)
            raise ValueError(
                f"{document.path}, {place}: nothing checks a block of '{language}'; {', '.join(EVALUATORS)}"
            )
        region.parsed, region.evaluator = region.lexemes["source"], EVALUATORS[language]
        yield region


def runs(example: Example) -> bool:
    """Whether the page does not say that the block cannot be run."""
    text = example.document.text
    return not NOTHING_RUN.search(text) and not NOT_RUN.search(text[: example.region.start])


def _shell(example: Example) -> None:
    if not runs(example):
        check_shell(example.parsed)
        return
    parts = commands(example.parsed)
    ours = any("ilse" in command for command in parts)
    example.namespace["output"] = "".join(map(_run, parts)) if ours else _shell_says(f"set -e\n{example.parsed}")


def commands(script: str) -> list[list[str]]:
    """The words of each command of a script, pipes included."""
    lines = [shlex.split(line, comments=True) for line in script.replace("\\\n", " ").splitlines()]
    return [part for words in lines for part in _split(words, "&&")]


def _split(words: list[str], at: str) -> Iterator[list[str]]:
    ends = [i for i, word in enumerate(words) if word == at]
    for start, end in zip([-1, *ends], [*ends, len(words)], strict=True):
        if words[start + 1 : end]:
            yield words[start + 1 : end]


def _run(words: list[str]) -> str:
    *before, last = _split(words, "|")
    if last[0] != "ilse":
        return _shell_says(_joined([*before, last]))
    given = _shell_says(_joined(before)) if before else None
    result = CliRunner().invoke(main, last[1:], input=given, catch_exceptions=False)
    assert result.exit_code == 0, f"{shlex.join(last)}: {result.output}"
    return result.stdout


def _shell_says(script: str) -> str:
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, f"{script}: {done.stderr}"
    return done.stdout


def _joined(parts: list[list[str]]) -> str:
    # For the shell to act on: names with *, and where output goes.
    return " | ".join(
        " ".join(word if "*" in word or word == ">" else shlex.quote(word) for word in part) for part in parts
    )


def check_shell(script: str) -> None:
    """That a shell can read it, and that the commands and options of `ilse` exist."""
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for command in commands(script):
        for words in _split(command, "|"):
            if words[0] == "ilse" and not words[1].startswith("-"):
                main.commands[words[1]].make_context(words[1], words[2:])


def _python(example: Example) -> None:
    if not runs(example):
        compile(example.parsed, example.path, "exec")
        return
    with redirect_stdout(StringIO()) as printed:
        PythonEvaluator()(example)
    example.namespace["output"] = printed.getvalue()


def _yaml(example: Example) -> None:
    changes, file = yaml.safe_load(example.parsed), Path("params.yaml")
    title = TITLE.search(example.region.lexemes["more"])
    document = {} if title else yaml.safe_load(file.read_text(encoding="utf-8"))
    merge(document, changes)
    for name in changes:
        if name in NAMED_SECTIONS:
            for key, values in document[name].items():
                validate(f"{name}.{key}", NAMED_SECTIONS[name], values, "the page")
        else:
            validate(name, SECTIONS[name], document[name], "the page")
    if title:
        Path(title[1]).write_text(example.parsed, encoding="utf-8")
    elif runs(example):
        for name, values in changes.items():
            set_values(file, name, values)


def _directive(_: Example) -> None:
    """Sphinx's, which the strict build runs."""


def _text(example: Example) -> None:
    if title := TITLE.search(example.region.lexemes["more"]):
        Path(title[1]).write_text(example.parsed, encoding="utf-8")
        return
    if example.parsed.startswith("error: ") or not runs(example):
        return  # tests/docs/test_troubleshooting.py looks for errors in the code
    found = "".join(f"{line.rstrip()}\n" for line in example.namespace["output"].splitlines())
    assert re.fullmatch("".join(map(_pattern, example.parsed.splitlines())), found), f"printed:\n{found}"


def _pattern(line: str) -> str:
    return r"(.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*?") + r"\n"


EVALUATORS = {
    "sh": _shell,
    "python": _python,
    "yaml": _yaml,
    "text": _text,
    "{eval-rst}": _directive,
    "{toctree}": _directive,
}
