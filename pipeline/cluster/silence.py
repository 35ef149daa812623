"""Notices workers that give no sign of life although the scheduler still counts on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

NO_SIGN_SECONDS = 60.0
"""Seconds without a heartbeat after which a worker is reported; a busy one sends one every few seconds."""


@dataclass(frozen=True)
class _Sign:
    """The latest that was heard of a worker."""

    at: float
    """Time of the last heartbeat, on the scheduler's clock."""
    noticed: float
    """Time at which this process learned of it, on its own clock."""
    missed: bool = False
    """Whether the silence since has been spoken of."""


class Signs:
    """The last sign of each worker."""

    def __init__(self) -> None:
        self._latest: dict[str, _Sign] = {}

    def silent(self, last_seen: Mapping[str, float], now: float) -> Iterator[tuple[str, float]]:
        """Workers of which nothing has been heard for long, with the seconds; each once a silence.

        `last_seen` is by the scheduler's clock, so what counts is how long it has stayed the same by this one's, `now`.
        """
        before, self._latest = self._latest, {}
        for worker, at in last_seen.items():
            sign = before.get(worker)
            if sign is None or sign.at != at:
                sign = _Sign(at, now)
            elif not sign.missed and now - sign.noticed > NO_SIGN_SECONDS:
                yield worker, now - sign.noticed
                sign = replace(sign, missed=True)
            self._latest[worker] = sign
