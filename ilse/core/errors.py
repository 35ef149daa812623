"""The error that a user meets: it says where, what was expected, what was found, and what to do next.

`UserError` is a `ValueError`. Where a file is missing it is a `FileNotFoundError` too, and where the machine, another
process or the network is the reason, a `RuntimeError`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from ilse.core.secrets import masked
from ilse.core.terminal import in_line, visible

_NEW_LINE = re.compile(r"\n(?! {12})")


class UserError(ValueError):
    """A mistake or a circumstance that the user can mend; the command line prints it and exits with 2.

    Its parts are `ilse.core.secrets.masked`.

    Parameters
    ----------
    where
        The file, parameter, layer or text that the error is about.
    expected
        What would have been right.
    found
        What was there instead.
    next_step
        One thing to do about it.
    """

    def __init__(self, where: str, *, expected: str, found: str, next_step: str) -> None:
        parts = where, expected, found, next_step = (*map(masked, (where, expected, found, next_step)),)
        super().__init__(*parts)
        self.where = where
        self.expected = expected
        self.found = found
        self.next_step = next_step

    def __str__(self) -> str:
        # What was found may be a list of lines, which stand under each other; a text can't pose as a line of ours.
        found = _NEW_LINE.sub(r"\\n", visible(self.found))
        where, expected, next_step = map(in_line, (self.where, self.expected, self.next_step))
        return f"{where}\n  expected: {expected}\n  found:    {found}\n  next:     {next_step}"

    # Exceptions pickle by their positional arguments, ours are keywords; Dask sends them between processes.
    def __reduce__(self) -> tuple[object, tuple[type[UserError], str, str, str, str]]:
        return _rebuild, (type(self), self.where, self.expected, self.found, self.next_step)


class MissingError(UserError, FileNotFoundError):
    """A file or folder that is not there."""

    def __new__(cls, *_: object, **__: object) -> MissingError:  # noqa: D102
        return FileNotFoundError.__new__(cls)  # without a number of the system, which nobody told


class FailedError(UserError, RuntimeError):
    """What was asked for is right, but the machine, another process or the network did not let it happen."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str, cutoff: float = 0.5) -> str:
    """The next step after an unknown name: the nearest of those that there are, or `otherwise` where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"did you mean '{near[0]}'?" if near else otherwise


def _rebuild(kind: type[UserError], where: str, expected: str, found: str, next_step: str) -> UserError:
    return kind(where, expected=expected, found=found, next_step=next_step)
