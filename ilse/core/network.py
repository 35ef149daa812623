"""Messages for failed network calls, whichever library made them: which host, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from ilse.core.errors import FailedError, UserError
from ilse.core.files.full_disk import disk_error
from ilse.core.secrets import without_secrets

_LOST = {"ConnectionError", "TimeoutError", "Timeout", "TransportError", "SSLError", "gaierror"}
"""Classes of the standard library, requests, urllib3, httpx and httpx2: huggingface_hub goes through one of the last
four by its release, and hands their errors on."""


@contextmanager
def asking_hub(where: str, expected: str, next_step: str) -> Iterator[None]:
    """Turns what fails in the block, which asks the Hugging Face Hub and does nothing else, into a `UserError`.

    `expected` and `next_step` are for an answer that refuses; where none comes, the host is named. A disk that is full
    is left to the command line. The error has no cause: that would carry secrets into a traceback.
    """
    try:
        yield
        return
    except UserError:
        raise
    except Exception as error:
        if disk_error(error) is not None:
            raise
        refusal = lost_connection(where, expected, error) or UserError(
            where, expected=expected, found=in_short(error), next_step=next_step
        )
    raise refusal from None


def no_answer(where: str, expected: str, host: str, found: str, setting: str) -> UserError:
    """The error of a host that can't be reached; `setting` is the variable that names another one."""
    return FailedError(
        where,
        expected=expected,
        found=f"no answer from {host}: {found}",
        next_step=f"check the connection to {host}, HTTPS_PROXY and {setting}, then run the same command again",
    )


def in_short(error: BaseException) -> str:
    """An error on one line, without what it repeats of secrets."""
    return without_secrets(" ".join(str(error).split()))[:300] or type(error).__name__


def lost_connection(where: str, expected: str, error: Exception) -> UserError | None:
    """The error that names the Hub's host, if a lost connection caused `error`; else None.

    To be raised without a cause, as that may carry secrets.
    """
    from huggingface_hub import constants

    lost = [cause for cause in _causes(error) if _LOST & {kind.__name__ for kind in type(cause).__mro__}]
    if not lost:
        return None
    host = urlsplit(constants.ENDPOINT).hostname or constants.ENDPOINT
    return no_answer(where, expected, host, in_short(lost[-1]), "HF_ENDPOINT")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised for."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
