"""How commands end when they fail: what the user can fix is a message and exit code 2, never a traceback."""

from __future__ import annotations

import errno
import os
import signal
import sys
from contextlib import suppress
from typing import Any

import click

from ilse.core.errors import FailedError, UserError
from ilse.core.files.destinations import Stage
from ilse.core.files.full_disk import disk_error
from ilse.core.machine.signals import Stop, stoppable
from ilse.core.secrets import masked, remember
from ilse.core.terminal import in_line, say

EXTRAS = {
    "init": "extract",
    "preset": "extract",
    "fetch": "extract",
    "prepare": "extract",
    "plan": "extract",
    "identify": "extract",
    "extract": "extract",
    "subset": "train",
    "train": "train",
    "analyse": "train",
    "control": "train",
    "evaluate": "train",
    "report": "train",
    "compare": "train",
    "layers": "train",
    "tune": "tune",
    "predict": "predict",
    "push": "predict",
    "pull": "predict",
    "export": "export",
    "lora": "lora",
}
OF_PACKAGE = {"sentence_transformers": "mteb", "optuna": "tune"}
"""Package → the extra that brings it, where a command needs several by its options."""


class Commands(click.Group):
    """Turns what a user can mend into a message and exit code 2, without a traceback."""

    command_class = Stage

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands in the order of the stages, not of the alphabet."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the arguments, whose secrets are not shown from here on."""
        remember(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the chosen command."""
        with stoppable() as stop:
            try:
                returned = super().invoke(ctx)
                _flush()
                return returned
            except BaseException as error:
                if stop.number is not None or isinstance(error, KeyboardInterrupt):
                    _leave(f"\n{_ended_by(stop)}; finished work is kept, and the same command resumes from there",
                           stop.code)  # fmt: skip
                if isinstance(error, click.ClickException):  # it repeats the argument that is wrong
                    error.message = in_line(masked(error.message))  # type: ignore[misc]
                    raise
                if isinstance(error, UserError):
                    _fail(error)
                if isinstance(error, ModuleNotFoundError):
                    _fail(_missing_extra(ctx.invoked_subcommand or "", error))
                if (found := disk_error(error)) is not None:
                    _fail(_no_room(found))
                raise


def _flush() -> None:
    """Writes what waits for standard output: Python would do it when nobody can say any more that there is no room."""
    if sys.stdout is None:  # closed by whoever started this
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # a reader that has seen enough, as `head` has; click ends with 1
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again
        raise OSError(error.errno, error.strerror, "the output") from error


def _ended_by(stop: Stop) -> str:
    ctrl_c = stop.number in (None, signal.SIGINT)
    return "interrupted" if ctrl_c else f"ended by {signal.Signals(stop.number or 0).name}"


def _fail(error: UserError) -> None:
    _leave(f"error: {error}", 2)


def _leave(message: str, code: int) -> None:
    with suppress(OSError):  # a terminal that is closed, a full disk
        say(message)
    sys.exit(code)


def _missing_extra(command: str, error: ModuleNotFoundError) -> UserError:
    package = (error.name or "").split(".")[0]
    extra = OF_PACKAGE.get(package, EXTRAS.get(command))
    if extra is None or package in ("ilse", "pipeline", "trainer"):
        raise error
    return FailedError(
        f"command '{command}'",
        expected=f"the packages of the extra '{extra}'",
        found=f"no package '{error.name}'",
        next_step=f"pip install 'ilse-cache[{extra}]'",
    )


def _no_room(error: OSError) -> UserError:
    expected, cure = _CURES.get(error.errno or 0, ("permission to write", "change the permission"))
    return FailedError(
        f"writing {error.filename or 'the output'}",
        expected=expected,
        found=error.strerror or "no space",
        next_step=f"{cure} and run the same command again; finished work is kept",
    )


_CURES = {
    errno.ENOSPC: ("free space on the disk", "free space"),
    errno.EDQUOT: ("room in your share of the disk", "free space or ask for more"),
    errno.EFBIG: ("files as large as that to be allowed", "raise the limit ('ulimit -f')"),
    errno.EIO: ("a disk that works", "check the disk and the connection to it"),
}
