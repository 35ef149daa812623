"""Errors for models or tokenizers that fail while they run, with the library's own message."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ilse.core.errors import UserError

# Of the machine, not of the model; PyTorch raises a plain RuntimeError where the CPU's memory is out.
_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@contextlib.contextmanager
def named_failures(architecture: str, next_step: str) -> Iterator[None]:
    """Turns whatever a model raises into a `UserError` that names its architecture; lack of memory stays what it is."""
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of an architecture that others wrote: whatever it does with what it is given
        if any(word in str(error) for word in _MEMORY):
            raise
        raise UserError(
            f"model architecture '{architecture}'",
            expected="a forward pass over token ids alone",
            found=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300].rstrip(": "),
            next_step=next_step,
        ) from error


@contextlib.contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raises a `RuntimeError` for a panic of the tokenizers' native code, which is no `Exception`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(str(error)) from error
