"""What a user opens an artifact with, run in this process; how it ended is what the shell would have seen."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner

from ilse.cli import main
from ilse.core.errors import UserError

CRASHED = 1
"""Exit code of a Python process that ends in a traceback."""


@dataclass(frozen=True)
class Ended:
    """Exit code, and all that was written to the terminal."""

    code: int
    said: str


Opener = Callable[[], Ended]


def ilse(*arguments: str) -> Opener:
    """The command line."""
    return functools.partial(_run, arguments)


def _run(arguments: tuple[str, ...]) -> Ended:
    result = CliRunner().invoke(main, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return Ended(CRASHED, "".join(traceback.format_exception(result.exception)))
    return Ended(result.exit_code, result.output)


def call(function: Callable[..., Any], *arguments: Any) -> Opener:
    """A function of the library; its `UserError` ends as the command line would end."""
    return functools.partial(_call, function, arguments)


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Ended:
    try:
        function(*arguments)
    except UserError as error:
        return Ended(2, f"error: {error}\n")
    except Exception:
        return Ended(CRASHED, traceback.format_exc())
    return Ended(0, "")
