"""The one error a user may meet: it says where, what was expected, what was found, and what to do next."""

from __future__ import annotations


class UserError(Exception):
    """A mistake or a circumstance that the user can mend; the command line prints it and exits with 2.

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
        super().__init__(where, expected, found, next_step)
        self.where = where
        self.expected = expected
        self.found = found
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.where}\n  expected: {self.expected}\n  found:    {self.found}\n  next:     {self.next_step}"

    # Exceptions pickle by their positional arguments, ours are keywords; Dask sends them between processes.
    def __reduce__(self) -> tuple[object, tuple[str, str, str, str]]:
        return _rebuild, (self.where, self.expected, self.found, self.next_step)


def _rebuild(where: str, expected: str, found: str, next_step: str) -> UserError:
    return UserError(where, expected=expected, found=found, next_step=next_step)
