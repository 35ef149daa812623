"""How a command ends that cannot go on: what the user can mend is a message and exit code 2, never a traceback."""

from __future__ import annotations

import errno
import sys
from typing import Any

import click

from ilse.errors import UserError

EXTRAS = {
    "init": "extract",
    "preset": "extract",
    "fetch": "extract",
    "prepare": "extract",
    "plan": "extract",
    "extract": "extract",
    "subset": "train",
    "train": "train",
    "analyse": "train",
    "control": "train",
    "evaluate": "train",
    "report": "train",
    "compare": "train",
    "tune": "tune",
    "predict": "predict",
    "push": "predict",
    "pull": "predict",
    "export": "export",
    "lora": "lora",
}
OF_PACKAGE = {"sentence_transformers": "mteb"}
"""Package → the extra that brings it, where a command needs several by its options."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""


class Commands(click.Group):
    """Turns what a user can mend into a message and exit code 2, without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the stages, not of the alphabet."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the chosen command."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            _fail(str(error))
        except KeyboardInterrupt:
            click.echo("\ninterrupted; what is finished is kept, and the same command goes on from there", err=True)
            sys.exit(INTERRUPTED)
        except ModuleNotFoundError as error:
            _fail(str(_missing_extra(ctx.invoked_subcommand or "", error)))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
                raise
            _fail(str(_no_room(error)))


def _fail(message: str) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(2)


def _missing_extra(command: str, error: ModuleNotFoundError) -> UserError:
    package = (error.name or "").split(".")[0]
    extra = OF_PACKAGE.get(package, EXTRAS.get(command))
    if extra is None or package in ("ilse", "finetune", "inference", "pipeline", "trainer"):
        raise error
    return UserError(
        f"command '{command}'",
        expected=f"the packages of the extra '{extra}'",
        found=f"no package '{error.name}'",
        next_step=f"pip install 'ilse-cache[{extra}]'",
    )


def _no_room(error: OSError) -> UserError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    cure = "free space" if full else "change the permission"
    return UserError(
        f"writing {error.filename or 'a file'}",
        expected="free space on the disk" if full else "permission to write",
        found=error.strerror or "no space",
        next_step=f"{cure} and run the same command again; what is finished is kept",
    )
