"""Asks an object store again when an answer breaks off in the middle.

Its client tries a request again that fails or is answered with an error, and asks for the rest of a body that is cut
off; but not when the connection is reset before any of it was read. Reading changes nothing, so the same question may
be put again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from tenacity import AsyncRetrying, Retrying, retry_if_exception, stop_after_attempt, wait_exponential
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

T = TypeVar("T")

_CUT_OFF = re.compile(r"response body|body error")
_AGAIN: dict[str, Any] = {
    "stop": stop_after_attempt(6),
    "wait": wait_exponential(multiplier=0.5, max=8),
    "reraise": True,
}
"""Six times within some 20 seconds; the client's own patience, which starts again with each answer, comes on top."""


def _breaks_off(error: BaseException) -> bool:
    return type(error).__module__.startswith("obstore") and _CUT_OFF.search(str(error)) is not None


def patiently(read: Callable[[], T]) -> T:
    """Calls `read`, again if the answer breaks off, and returns its result."""
    return Retrying(retry=retry_if_exception(_breaks_off), **_AGAIN)(read)


class PatientStore(ObjectStore[Any]):
    """What zarr reads an object store through."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """A value, or a part of it; None where there is none."""
        again = AsyncRetrying(retry=retry_if_exception(_breaks_off), **_AGAIN)
        return await again(super().get, key, prototype, byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Parts of several values."""
        again = AsyncRetrying(retry=retry_if_exception(_breaks_off), **_AGAIN)
        return await again(super().get_partial_values, prototype, list(key_ranges))
