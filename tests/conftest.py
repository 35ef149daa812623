"""For all tests: one thread a process that spins briefly, no time limits, and the slow ones first.

Two threads on two busy cores wait for each other; a busy machine is no failure; and whoever takes minutes at the end
leaves the other process idle.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from ilse.core import secrets
from ilse.core.machine.spinning import spin_briefly

spin_briefly()
os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a slow test come first (`--no-loadscope-reorder` keeps that order among processes)."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password of one test is a word of another's message."""
    monkeypatch.setattr(secrets, "_given", set())
