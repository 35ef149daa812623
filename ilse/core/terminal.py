"""Says things on the terminal: every line of ours goes through here, without secrets and without commands in it.

A label, a text or a file's name may hold what a terminal acts on: it would move the cursor, rewrite what stands there,
or turn the order of the letters. `visible` shows such a character as its escape. What a program reads stays as it is:
JSON, Parquet and CSV are data.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Protocol, runtime_checkable

import click

from ilse.core.secrets import masked

# C0 besides tab and line feed, DEL, C1, the signs that turn or isolate a direction, line ends of Unicode; and what is
# no character: halves of pairs, which no terminal can be sent, and two more, of which pictures' renderer dies as of C0.
_ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


LOGGER = logging.getLogger("ilse")
LOGGER.addHandler(logging.NullHandler())  # a library says nothing on its own
_speaking: ContextVar[bool] = ContextVar("speaking", default=True)


def visible(text: str) -> str:
    r"""The text with its control characters as escapes, such as `\x1b`; tabs and line feeds stay."""
    return _ACTS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def in_line(text: str) -> str:
    r"""The visible text on one line: a line feed becomes `\n`."""
    return visible(text).replace("\n", "\\n")


def tell(text: object, end: str = "\n") -> None:
    """A command's answer, on standard output."""
    click.echo(visible(masked(str(text))) + end, nl=False)


def say(text: object) -> None:
    """What a command is doing, on standard error; and for Python's `logging`, as information from the logger `ilse`."""
    line = visible(masked(str(text)))
    LOGGER.info("%s", line)
    if _speaking.get():
        with _beside_bars():
            click.echo(line, err=True)


@contextmanager
def _beside_bars() -> Iterator[None]:
    """Takes tqdm's bars off the terminal for the block; they stand below what it writes."""
    if "tqdm" not in sys.modules or not is_watched():
        yield
        return
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):
        yield


@contextmanager
def speaking(aloud: bool) -> Iterator[None]:
    """Whether `say` and progress bars show anything on the terminal within the block, in this thread."""
    token = _speaking.set(aloud)
    try:
        yield
    finally:
        _speaking.reset(token)


def is_speaking() -> bool:
    """Whether progress may be shown on the terminal."""
    return _speaking.get()


def is_watched() -> bool:
    """Whether standard error is a terminal or goes to a notebook."""
    return sys.stderr is not None and (sys.stderr.isatty() or "ipykernel" in sys.modules)


@runtime_checkable
class Sink(Protocol):
    """A destination for text."""

    def write(self, text: str, /) -> object:
        """Takes some more."""


def screen() -> Sink:
    """Standard output for data: as it is where a program reads it, and `visible` where it is a terminal."""
    return _Screen() if sys.stdout.isatty() else sys.stdout


class _Screen:
    def write(self, text: str, /) -> object:
        return sys.stdout.write(visible(text))


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A `sys.excepthook` for commands: Python's own, but for what `say` hides."""
    print(visible(masked("".join(traceback.format_exception(kind, error, trace)))), end="", file=sys.stderr)
